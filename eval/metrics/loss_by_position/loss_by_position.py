"""Loss by position as a module of `evaluate`: evaluate.load("eval/metrics/loss_by_position"), without the network."""

import evaluate
import numpy

from shridhar_ft.evaluation.modules import described
from shridhar_ft.scoring import Loss, position_edges


class LossByPosition(evaluate.Metric):
    """Mean loss of each bucket of positions (nats a token), over windows of one length."""

    def _info(self):
        return described(
            self,
            "predictions: loss of each token; references: its position; buckets given to compute()",
            predictions="float64",
            references="int64",
        )

    def _compute(self, predictions, references, buckets=16):
        places = numpy.array(references)
        loss = Loss.nothing(position_edges(int(places.max()) + 1, buckets))
        loss.count(numpy.array(predictions), places)
        return {"loss": loss.mean, "by_position": loss.by_position()}
