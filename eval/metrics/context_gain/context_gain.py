"""Context gain as a module of `evaluate`: evaluate.load("eval/metrics/context_gain"), without the network."""

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, score, total

SEED = 108


class ContextGain(evaluate.Metric):
    """Mean loss of windows' ends read with a short context, minus that read with the whole window (nats a token)."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
            inputs_description="predictions: mean loss of each end with the whole window; references: with a short one",
        )

    def _compute(self, predictions, references):
        rows = [{"key": index, "gain": b - a} for index, (a, b) in enumerate(zip(predictions, references))]
        measure = Measure("context_gain", lambda row: {"g/sum": row["gain"], "g/n": 1.0}, total("g"), "nats a token")
        found = score(measure, rows, SEED)
        return {"context_gain": found.value, "low": found.low, "high": found.high, "n": found.n}
