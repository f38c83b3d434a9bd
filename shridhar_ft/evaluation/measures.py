"""Scores with their intervals: a measure is sums over records and what is made of them, and is drawn again and again.

Every measure here is a function of sums of columns: a share is hits over items, a macro-mean a mean of such shares,
bits per byte nats over bytes, a retention the ratio of two shares. So one resampling serves them all: records are drawn
with repetition by clusters (records of one sentence, window or prompt go together), their columns are summed, and the
measure is computed of the sums. Two models are compared on the same draws of the same records (paired bootstrap).

Draws of equal records are all equal, and would say that five hits of five are certain. So the interval of a share is
never narrower than Wilson's, and that of a measure made of several shares (a ratio of two) never narrower than that of
draws of each share from its beta distribution. Few long records are resampled by the blocks that they consist of. Where
nothing can be resampled there is no interval, and the score says so.

Source: Efron and Tibshirani 1993, chapters 6, 8 and 13 (percentile intervals); Wilson 1927 for shares; Brown, Cai and
DasGupta 2001 for the beta distribution with a half hit and a half miss added (Jeffreys).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

DRAWS = 2000
AT_ONCE = 250  # draws whose weights are held at once
FEW = 4  # records below which the blocks that they consist of are resampled
SHARES = ("share", "share of runs")
ONE_ITEM = "one item: no interval"
UNDEFINED = "undefined: it divides by nothing"
Record = Mapping[str, Any]
Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One number that a task reports."""

    name: str
    columns: Callable[[Record], Mapping[str, float]]
    """What a record adds to which sums; a column that it does not name gets nothing."""
    combine: Callable[[Sums], np.ndarray]
    """The measure of the sums, each (draws,); NaN where a draw leaves it undefined."""
    unit: str = "share"
    """share, nats, bits per byte, ratio …"""
    higher_is_better: bool | None = True
    """None: nearest to the ceiling is best."""
    of_shares: bool = False
    """It is made of several shares, columns `name/sum` of `name/n`, each item a hit or none."""
    overlap: int = 1
    """Of a share: counted things that overlap, and so are one independent thing (runs of eight words: 8)."""
    blocks: Callable[[Record], Sequence[Mapping[str, float]]] | None = None
    """What each block of a long record adds; together they add what `columns` says."""
    of_base: bool = False
    """It counts from the base's records, so it means the same only with the same base."""


@dataclass
class Score:
    """A number that can be read alone: with its interval, what the worst and the best could reach, and of how many."""

    name: str
    value: float
    low: float
    high: float
    n: int
    """Records, or clusters of them, that count as independent."""
    unit: str
    higher_is_better: bool | None
    floor: float | None = None
    floor_of: str = ""
    """What reaches the floor; where there is none, why: one of `ends.REASONS`."""
    ceiling: float | None = None
    ceiling_of: str = ""
    lacking: str = ""
    """Why there is no value or no interval; empty where there are both."""
    target: str = ""
    """What counts as reached, in words; empty where nothing is promised."""
    details: dict[str, Any] = field(default_factory=dict)

    def take_floor(self, floors: Mapping[str, float]) -> None:
        """The highest of several floors, under its name."""
        self.floor_of = max(floors, key=lambda name: floors[name])
        self.floor = floors[self.floor_of]


def mean_of(records: Sequence[Record], key: str) -> float:
    """The plain mean of a value that every record has."""
    return float(sum(record[key] for record in records) / len(records))


def total(name: str) -> Callable[[Sums], np.ndarray]:
    """Measure: column `name/sum` over `name/n`."""
    return lambda sums: ratio(sums[f"{name}/sum"], sums[f"{name}/n"])


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the divisor is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)


def macro(names: Sequence[str]) -> Callable[[Sums], np.ndarray]:
    """Measure: the mean of `name/sum` over `name/n`, over those names that a draw has items of."""

    def combine(sums: Sums) -> np.ndarray:
        parts = np.stack([ratio(sums[f"{name}/sum"], sums[f"{name}/n"]) for name in names])
        there = ~np.isnan(parts)
        return ratio(np.where(there, parts, 0).sum(axis=0), there.sum(axis=0))

    return combine


def score(measure: Measure, records: Sequence[Record], seed: int) -> Score:
    """The measure of some records with its 95 % interval.

    Args:
        measure: What is measured.
        records: Each with `key` and, where several are not independent, a `cluster`.
        seed: Of the draws.
    """
    names, table = _table(measure, records)
    assert len(table), f"{measure.name}: no record has anything to say"
    value = float(_of(measure, names, table.sum(axis=0, keepdims=True))[0])
    low, high = _interval(measure, names, table, value, seed)
    found = Score(measure.name, value, low, high, len(table), measure.unit, measure.higher_is_better)
    if not np.isfinite(value):
        found.low = found.high = float("nan")
        found.lacking = UNDEFINED
    elif not np.isfinite(low + high):
        found.lacking = ONE_ITEM
    return found


def _interval(
    measure: Measure, names: Sequence[str], table: np.ndarray, value: float, seed: int
) -> tuple[float, float]:
    """The bootstrap's percentiles, made as wide as what is known of shares asks for; NaN where nothing is known."""
    ends = [_percentiles(_drawn(measure, names, table, seed))] if len(table) > 1 else []
    if measure.unit in SHARES:
        below, above = wilson(value, _independent(measure, names, table))
        ends.append((max(0.0, below), min(1.0, above)))
    elif measure.of_shares:
        ends.append(_percentiles(_smoothed(measure, names, table, seed)))
    ends = [pair for pair in ends if np.isfinite(sum(pair))]
    if not ends:
        return float("nan"), float("nan")
    return min(low for low, _ in ends), max(high for _, high in ends)


def difference(measure: Measure, ours: Sequence[Record], theirs: Sequence[Record], seed: int) -> dict[str, Any] | None:
    """How much more the first records measure than the second, on the keys that both have, with a paired interval.

    Returns:
        `difference`, `low`, `high` (95 %), `n` (clusters), `ours`, `theirs` (values on the shared records); None where
        no record of the measure is shared.
    """
    shared = {record["key"] for record in ours} & {record["key"] for record in theirs}
    pair = [
        _table(measure, sorted((r for r in side if r["key"] in shared), key=lambda r: str(r["key"])))
        for side in (ours, theirs)
    ]
    (names, left), (their_names, right) = pair
    assert len(left) == len(right), "the same keys in other clusters"
    if not len(left):
        return None
    low, high = float("nan"), float("nan")
    if len(left) > 1:
        low, high = _percentiles(_drawn(measure, names, left, seed) - _drawn(measure, their_names, right, seed))
    values = [_of(measure, of, table.sum(axis=0, keepdims=True))[0] for of, table in pair]
    return {
        "difference": float(values[0] - values[1]),
        "low": low,
        "high": high,
        "n": len(left),
        "ours": float(values[0]),
        "theirs": float(values[1]),
    }


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `n` items."""
    if n == 0 or not np.isfinite(share):
        return 0.0, 1.0
    share = min(1.0, max(0.0, share))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


# ------------------------------------------------------------------------------------------------------- sums


def _table(measure: Measure, records: Sequence[Record]) -> tuple[list[str], np.ndarray]:
    """Columns by name, and their sums by cluster: float64 (clusters, columns); records without any are left out."""
    rows = [(record.get("cluster", record["key"]), row) for record in records if (row := measure.columns(record))]
    if measure.blocks is not None and len({cluster for cluster, _ in rows}) < FEW:
        saying = [record for record in records if measure.columns(record)]
        rows = [((r["key"], index), row) for r in saying for index, row in enumerate(measure.blocks(r))]
    names = sorted({name for _, row in rows for name in row})
    place = {name: index for index, name in enumerate(names)}
    clusters: dict[Any, int] = {}
    of = [clusters.setdefault(cluster, len(clusters)) for cluster, _ in rows]
    table = np.zeros((len(clusters), len(names)))
    for index, (_, row) in zip(of, rows, strict=True):
        for name, value in row.items():
            table[index, place[name]] += value
    return names, table


def _independent(measure: Measure, names: Sequence[str], table: np.ndarray) -> float:
    """Items of a share that say something of their own: clusters, or counted things without their overlap."""
    if measure.overlap == 1:
        return len(table)
    counted = [index for index, name in enumerate(names) if name.endswith("/n")]
    return max(1.0, float(table[:, counted].sum()) / measure.overlap)


def _smoothed(measure: Measure, names: Sequence[str], table: np.ndarray, seed: int) -> np.ndarray:
    """The measure of `DRAWS` draws of each share from its beta distribution, given its clusters' hits and misses."""
    generator = np.random.default_rng(seed)
    drawn = np.repeat(table.sum(axis=0, keepdims=True), DRAWS, axis=0)
    for index, name in enumerate(names):
        if not name.endswith("/sum"):
            continue
        counts = table[:, names.index(name.removesuffix("sum") + "n")]
        if not counts.any():
            continue
        share = min(1.0, max(0.0, float(table[:, index].sum() / counts.sum())))
        of = int((counts > 0).sum())
        drawn[:, index] = counts.sum() * generator.beta(share * of + 0.5, (1 - share) * of + 0.5, DRAWS)
    return _of(measure, names, drawn)


def _of(measure: Measure, names: Sequence[str], sums: np.ndarray) -> np.ndarray:
    """The measure of some rows of sums, (rows, columns)."""
    columns = {name: sums[:, index] for index, name in enumerate(names)}
    return np.asarray(measure.combine(_Missing(columns, len(sums))), dtype=np.float64)


class _Missing(dict[str, np.ndarray]):
    """Columns of which no record has anything are zeros."""

    def __init__(self, columns: Sums, rows: int) -> None:
        super().__init__(columns)
        self.rows = rows

    def __missing__(self, name: str) -> np.ndarray:
        return np.zeros(self.rows)


def _drawn(measure: Measure, names: Sequence[str], table: np.ndarray, seed: int) -> np.ndarray:
    """The measure of `DRAWS` resamples of the clusters; the same draws for tables of the same length."""
    generator = np.random.default_rng(seed)
    count = len(table)
    found = []
    for begin in range(0, DRAWS, AT_ONCE):
        weights = generator.multinomial(count, np.full(count, 1 / count), size=min(AT_ONCE, DRAWS - begin))
        found.append(_of(measure, names, weights @ table))
    return np.concatenate(found)


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    there = drawn[np.isfinite(drawn)]
    if not len(there):
        return float("nan"), float("nan")
    low, high = np.percentile(there, [2.5, 97.5])
    return float(low), float(high)
