"""Draws train, validation and test by a stable hash of what the units hold, never by where they stand."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, get_args

import xxhash

from shridhar_ft import config_data

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
MANY = 2000  # units: from here on chance alone keeps a tenth within a point or so


def content_key(text: str) -> str:
    """The key of a unit: a hash (xxh3, 128 bits, hex) of its text, so that a unit is drawn alike wherever it stands."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def assign(units: Sequence[tuple[str, int]], split: config_data.Split, group: str) -> list[SplitName]:
    """Draw a split for every unit of one group (the blocks of a work, the conversations of a file).

    Fewer than `MANY` units are drawn systematically: laid end to end in the order of their hashes, they are cut at
    the asked shares from a starting point that the group's hash gives. Each share is then met within one unit, and
    a group of one unit still falls into each split as often as its share says. The price: when the group itself
    changes, the few units next to a cut may move. From `MANY` units on, each unit's own hash alone decides: then
    nothing ever moves, even when the group grows, and shares are met by the law of large numbers. (A group that
    grows past `MANY` is drawn anew, once.) Other groups never matter.

    Args:
        units: Key (see `content_key`) and size in characters of each unit, in any order.
        split: Shares and seed.
        group: Name of the group.

    Returns:
        The split of each unit, in the order of `units`.
    """
    hashes = [_hash(split.seed, group, key) for key, _ in units]
    if len(units) >= MANY:
        return [_at(value / 2**64, split) for value in hashes]
    offset = _hash(split.seed, group) / 2**64
    sizes = [max(1, size) for _, size in units]
    total = sum(sizes)
    drawn: list[SplitName] = ["train"] * len(units)
    before = 0
    for index in sorted(range(len(units)), key=lambda i: (hashes[i], units[i][0])):
        middle = (before + sizes[index] / 2) / total
        drawn[index] = _at((middle + offset) % 1.0, split)
        before += sizes[index]
    return drawn


def allowance(sizes: Sequence[int]) -> float:
    """How far the draw of one group may lie off the asked share, in characters.

    A systematic draw misses by no more than its largest unit; a draw by hash alone misses by more than four standard
    deviations once in ten thousand times.

    Args:
        sizes: Size in characters of each unit of the group.
    """
    if len(sizes) < MANY:
        return max(sizes, default=0)
    return 4 * 0.5 * sum(size * size for size in sizes) ** 0.5


def _hash(*parts: object) -> int:
    """xxh3 (64 bits) of the parts."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode())


def _at(position: float, split: config_data.Split) -> SplitName:
    """The split that holds this position of the unit interval."""
    shares = {name: getattr(split, name) for name in SPLITS if getattr(split, name) > 0}
    for name, bound in zip(shares, accumulate(shares.values()), strict=True):
        if position < bound:
            return name
    return list(shares)[-1]  # shares that sum to 1 only within rounding
