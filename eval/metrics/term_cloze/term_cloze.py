"""Term cloze as a module of `evaluate`: evaluate.load("eval/metrics/term_cloze"), without the network."""

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, score, total

SEED = 108


class TermCloze(evaluate.Metric):
    """Share of items whose first candidate gains most: log p(sentence with it) − log p(it alone)."""

    def _info(self):
        values = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features({"predictions": values, "references": values}),
            inputs_description="predictions: log p of each item's sentences; references: of the candidates alone",
        )

    def _compute(self, predictions, references):
        rows = []
        for index, (whole, alone) in enumerate(zip(predictions, references)):
            gains = [a - b for a, b in zip(whole, alone)]
            rows.append({"key": index, "hit": float(gains.index(max(gains)) == 0)})
        measure = Measure("term_cloze", lambda row: {"t/sum": row["hit"], "t/n": 1.0}, total("t"))
        found = score(measure, rows, SEED)
        return {"term_cloze": found.value, "low": found.low, "high": found.high, "n": found.n}
