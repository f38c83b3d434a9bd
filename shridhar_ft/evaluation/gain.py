"""Bits per byte against the base's on the same passages: gain and forgetting with paired intervals."""

from collections.abc import Sequence
from typing import Any

from shridhar_ft.evaluation.measures import Measure, Record, ratio, score

SEED = 108  # of the draws
NAMES = {"held-out": ("specialisation gain", -1.0), "others": ("forgetting", 1.0)}
"""Side → what its change is called, and which direction counts as much of it."""


def intervals(records: Sequence[Record], base: Sequence[Record]) -> dict[str, Any]:
    """`specialisation gain` and `forgetting`, each with value, low, high and n, of the passages that both read.

    Of one passage there is no interval: low and high are NaN.
    """
    theirs = {record["key"]: record for record in base}
    both = [{**r, "before": theirs[r["key"]]["nats"]} for r in records if r["key"] in theirs]
    found = {}
    for side, (name, sign) in NAMES.items():
        rows = [record for record in both if record["side"] == side]
        if rows:
            measure = Measure(
                name,
                lambda row: {"ours": row["nats"], "before": row["before"]},
                lambda sums, sign=sign: sign * (ratio(sums["ours"], sums["before"]) - 1),  # type: ignore[misc]
                "ratio",
            )
            one = score(measure, rows, SEED)
            found[name] = {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
    return found
