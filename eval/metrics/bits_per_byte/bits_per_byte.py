"""Bits per byte as a module of `evaluate`: evaluate.load("eval/metrics/bits_per_byte"), without the network."""

import math

import datasets
import evaluate

from shridhar_ft.evaluation.measures import Measure, score, total

SEED = 108


class BitsPerByte(evaluate.Metric):
    """Summed negative log-likelihood over ln 2 and the UTF-8 bytes of the texts: no tokenizer changes it."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
            inputs_description="predictions: nats of each text, summed over its tokens; references: the texts",
        )

    def _compute(self, predictions, references):
        rows = [
            {"key": index, "bits": nats / math.log(2), "bytes": len(text.encode())}
            for index, (nats, text) in enumerate(zip(predictions, references))
        ]
        measure = Measure(
            "bits_per_byte", lambda row: {"b/sum": row["bits"], "b/n": row["bytes"]}, total("b"), "bits per byte", False
        )
        found = score(measure, rows, SEED)
        return {"bits_per_byte": found.value, "low": found.low, "high": found.high, "n": found.n}
