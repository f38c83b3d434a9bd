"""Minimal-pair accuracy as a module of `evaluate`: evaluate.load("eval/metrics/ru_pairs"), without the network."""

import evaluate

from shridhar_ft.evaluation.measures import Measure, macro
from shridhar_ft.evaluation.modules import described, scored
from shridhar_ft.evaluation.ru_pairs import won


class RuPairs(evaluate.Metric):
    """Mean over paradigms of the share of pairs whose good sentence has the higher log-probability, ties half."""

    def _info(self):
        return described(
            self,
            "predictions: log p of the good sentences; references: of the bad; paradigms: names",
            predictions="float64",
            references="float64",
            paradigms="string",
        )

    def _compute(self, predictions, references, paradigms):
        rows = [
            {"paradigm": name, "hit": won(-bad, -good)} for good, bad, name in zip(predictions, references, paradigms)
        ]
        measure = Measure(
            "ru_pairs",
            lambda row: {f"{row['paradigm']}/sum": row["hit"], f"{row['paradigm']}/n": 1.0},
            macro(sorted(set(paradigms))),
        )
        return scored(measure, rows)
