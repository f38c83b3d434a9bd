"""Speed as a module of `evaluate`: evaluate.load("eval/metrics/speed"), without the network."""

import evaluate

from shridhar_ft.evaluation.measures import Measure
from shridhar_ft.evaluation.modules import described, scored
from shridhar_ft.evaluation.speed import UNIT, rate_of


class Speed(evaluate.Metric):
    """Tokens a second over measurements of some tokens each, with the interval over measurements."""

    def _info(self):
        return described(
            self,
            "predictions: seconds of each measurement; references: tokens of each",
            predictions="float64",
            references="int64",
        )

    def _compute(self, predictions, references):
        rows = [{"tokens": tokens, "seconds": seconds} for seconds, tokens in zip(predictions, references)]
        measure = Measure(
            "tokens_per_second", lambda row: {name: row[name] for name in ("tokens", "seconds")}, rate_of, UNIT
        )
        return scored(measure, rows)
