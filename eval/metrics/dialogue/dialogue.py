"""Dialogue measures as a module of `evaluate`: evaluate.load("eval/metrics/dialogue"), without the network."""

import evaluate

from shridhar_ft.evaluation.dialogue import repeated, same_language
from shridhar_ft.evaluation.modules import described


class Dialogue(evaluate.Metric):
    """Answers in the language of the true ones, and how much they repeat themselves beside those."""

    def _info(self):
        return described(
            self,
            "predictions: the model's answers; references: the true ones",
            predictions="string",
            references="string",
        )

    def _compute(self, predictions, references):
        count = len(predictions)
        return {
            "language": sum(same_language(*pair) for pair in zip(predictions, references)) / count,
            "repeated": sum(map(repeated, predictions)) / count,
            "true_repeated": sum(map(repeated, references)) / count,
        }
