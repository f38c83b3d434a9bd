"""Minimal-pair accuracy as a module of `evaluate`: evaluate.load("eval/metrics/ru_pairs"), without the network."""

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, macro, score
from shridhar_ft.evaluation.ru_pairs import won

SEED = 108


class RuPairs(evaluate.Metric):
    """Mean over paradigms of the share of pairs whose good sentence has the higher log-probability, ties half."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "paradigms": datasets.Value("string"),
                }
            ),
            inputs_description="predictions: log p of the good sentences; references: of the bad; paradigms: names",
        )

    def _compute(self, predictions, references, paradigms):
        rows = [
            {"key": index, "paradigm": name, "hit": won(-bad, -good)}
            for index, (good, bad, name) in enumerate(zip(predictions, references, paradigms))
        ]
        measure = Measure(
            "ru_pairs",
            lambda row: {f"{row['paradigm']}/sum": row["hit"], f"{row['paradigm']}/n": 1.0},
            macro(sorted(set(paradigms))),
        )
        found = score(measure, rows, SEED)
        return {"ru_pairs": found.value, "low": found.low, "high": found.high, "n": found.n}
