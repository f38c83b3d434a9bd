"""Term cloze as a module of `evaluate`: evaluate.load("eval/metrics/term_cloze"), without the network."""

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, total
from shridhar_ft.evaluation.modules import described, scored


class TermCloze(evaluate.Metric):
    """Share of items whose first candidate gains most: log p(sentence with it) − log p(it alone)."""

    def _info(self):
        values = datasets.Sequence(datasets.Value("float64"))
        return described(
            self,
            "predictions: log p of each item's sentences; references: of the candidates alone",
            predictions=values,
            references=values,
        )

    def _compute(self, predictions, references):
        rows = []
        for whole, alone in zip(predictions, references):
            gains = [a - b for a, b in zip(whole, alone)]
            rows.append({"hit": float(gains.index(max(gains)) == 0)})
        measure = Measure("term_cloze", lambda row: {"t/sum": row["hit"], "t/n": 1.0}, total("t"))
        return scored(measure, rows)
