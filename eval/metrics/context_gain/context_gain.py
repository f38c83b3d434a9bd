"""Context gain as a module of `evaluate`: evaluate.load("eval/metrics/context_gain"), without the network."""

import evaluate

from shridhar_ft.evaluation.measures import Measure, total
from shridhar_ft.evaluation.modules import described, scored


class ContextGain(evaluate.Metric):
    """Mean loss of windows' ends read with a short context, minus that read with the whole window (nats a token)."""

    def _info(self):
        return described(
            self,
            "predictions: mean loss of each end with the whole window; references: with a short one",
            predictions="float64",
            references="float64",
        )

    def _compute(self, predictions, references):
        rows = [{"gain": b - a} for a, b in zip(predictions, references)]
        measure = Measure("context_gain", lambda row: {"g/sum": row["gain"], "g/n": 1.0}, total("g"), "nats a token")
        return scored(measure, rows)
