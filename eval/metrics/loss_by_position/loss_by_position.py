"""Loss by position as a module of `evaluate`: evaluate.load("eval/metrics/loss_by_position"), without the network."""

import datasets
import evaluate
import numpy

from shridhar_ft.scoring import Loss, position_edges


class LossByPosition(evaluate.Metric):
    """Mean loss of each bucket of positions (nats a token), over windows of one length."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
            inputs_description="predictions: loss of each token; references: its position; buckets given to compute()",
        )

    def _compute(self, predictions, references, buckets=16):
        places = numpy.array(references)
        loss = Loss.nothing(position_edges(int(places.max()) + 1, buckets))
        loss.count(numpy.array(predictions), places)
        return {"loss": loss.mean, "by_position": loss.by_position()}
