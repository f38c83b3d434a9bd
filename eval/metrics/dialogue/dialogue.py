"""Dialogue measures as a module of `evaluate`: evaluate.load("eval/metrics/dialogue"), without the network."""

import datasets
import evaluate

from shridhar_ft.evaluation.dialogue import repeated, same_language


class Dialogue(evaluate.Metric):
    """Answers in the language of the true ones, and how much they repeat themselves beside those."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            inputs_description="predictions: the model's answers; references: the true ones",
        )

    def _compute(self, predictions, references):
        count = len(predictions)
        return {
            "language": sum(same_language(*pair) for pair in zip(predictions, references)) / count,
            "repeated": sum(map(repeated, predictions)) / count,
            "true_repeated": sum(map(repeated, references)) / count,
        }
