"""Glossary questions as a module of `evaluate`: evaluate.load("eval/metrics/glossary_questions"), offline."""

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, total
from shridhar_ft.evaluation.modules import described, scored


class GlossaryQuestions(evaluate.Metric):
    """Share of questions whose first choice gains most: log p(choice after it) − log p(choice after none)."""

    def _info(self):
        values = datasets.Sequence(datasets.Value("float64"))
        return described(
            self,
            (
                "predictions: log p of each choice after the question; references: after one that names nothing; "
                "terms: what is asked for, several orders of one term not being independent"
            ),
            predictions=values,
            references=values,
            terms="string",
        )

    def _compute(self, predictions, references, terms):
        rows = []
        for after, without, term in zip(predictions, references, terms):
            gains = [a - b for a, b in zip(after, without)]
            rows.append({"hit": float(gains.index(max(gains)) == 0), "cluster": term})
        measure = Measure("glossary_questions", lambda row: {"t/sum": row["hit"], "t/n": 1.0}, total("t"))
        return scored(measure, rows)
