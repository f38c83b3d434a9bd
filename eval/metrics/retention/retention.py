"""Retention as a module of `evaluate`: evaluate.load("eval/metrics/retention"), without the network."""

import evaluate

from shridhar_ft.evaluation.modules import described
from shridhar_ft.evaluation.needles import is_right
from shridhar_ft.evaluation.retention import base_length, effective_length


class Retention(evaluate.Metric):
    """Share of answers found at each length, that relative to the base length, and the effective length."""

    def _info(self):
        return described(
            self,
            "predictions: what was said; references: the answers; lengths: tokens of the prompts",
            predictions="string",
            references="string",
            lengths="int64",
        )

    def _compute(self, predictions, references, lengths):
        hits = {length: [] for length in sorted(set(lengths))}
        for said, answer, length in zip(predictions, references, lengths):
            hits[length].append(is_right(said, answer))
        shares = {length: sum(found) / len(found) for length, found in hits.items()}
        base = shares[base_length(list(shares))]
        return {
            "shares": {str(length): share for length, share in shares.items()},
            "retention": {str(length): share / base if base else None for length, share in shares.items()},
            "effective_length": effective_length(shares),
        }
