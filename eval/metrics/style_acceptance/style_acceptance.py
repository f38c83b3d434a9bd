"""Style acceptance as a module of `evaluate`: evaluate.load("eval/metrics/style_acceptance"), without the network."""

import evaluate
import numpy

from shridhar_ft.evaluation.modules import described
from shridhar_ft.evaluation.verifier import Features, Verifier

REFUSED = 0.1


class StyleAcceptance(evaluate.Metric):
    """Share of passages that a verifier takes for the author's, and of the author's true continuations."""

    def _info(self):
        return described(
            self,
            (
                "predictions: generated passages; references: the true continuations; author, calibration, others: "
                "lists of passages of the same length, given to compute()"
            ),
            predictions="string",
            references="string",
        )

    def _compute(self, predictions, references, author, calibration, others):
        features = Features([*author, *others])
        labels = numpy.array([True] * len(author) + [False] * len(others))
        verifier = Verifier(features([*author, *others]), labels)
        threshold = numpy.quantile(verifier.score(features(calibration)), REFUSED)
        accepted = {
            name: float((verifier.score(features(texts)) >= threshold).mean())
            for name, texts in (("generated", predictions), ("true", references), ("others", others))
        }
        return {"accepted": accepted, "threshold": float(threshold)}
