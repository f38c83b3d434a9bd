"""Bits per byte as a module of `evaluate`: evaluate.load("eval/metrics/bits_per_byte"), without the network."""

import math

import evaluate

from shridhar_ft.evaluation.measures import Measure, total
from shridhar_ft.evaluation.modules import described, scored


class BitsPerByte(evaluate.Metric):
    """Summed negative log-likelihood over ln 2 and the UTF-8 bytes of the texts: no tokenizer changes it."""

    def _info(self):
        return described(
            self,
            "predictions: nats of each text, summed over its tokens; references: the texts",
            predictions="float64",
            references="string",
        )

    def _compute(self, predictions, references):
        rows = [
            {"bits": nats / math.log(2), "bytes": len(text.encode())} for nats, text in zip(predictions, references)
        ]
        measure = Measure(
            "bits_per_byte", lambda row: {"b/sum": row["bits"], "b/n": row["bytes"]}, total("b"), "bits per byte", False
        )
        return scored(measure, rows)
