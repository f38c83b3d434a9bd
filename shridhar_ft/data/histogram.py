"""Histograms of lengths with bins that grow by a sixth or so, counted as a stream."""

from bisect import bisect_right
from collections.abc import Iterable
from math import ceil
from typing import TypedDict

BINS_A_DECADE = 16
LARGEST = 10**12


class Bins(TypedDict):
    """What a histogram is in JSON: bin i counts the numbers from edges[i] (inclusive) to edges[i + 1] (exclusive)."""

    edges: list[int]
    counts: list[int]


# Whole numbers, so that small counts have bins of their own: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, …
EDGES = [0, *sorted({ceil(round(10 ** (step / BINS_A_DECADE), 6)) for step in range(12 * BINS_A_DECADE + 1)})]


class Histogram:
    """Counts whole numbers from 0 up; its size does not grow with them."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts = [0] * (len(EDGES) - 1)
        for value in values:
            self.add(value)

    def add(self, value: int) -> None:
        """Count one number, below 10¹²."""
        assert 0 <= value < LARGEST, value
        self._counts[bisect_right(EDGES, value) - 1] += 1

    def as_dict(self) -> Bins:
        """The bins from the first to the last that holds something; no edge where none does."""
        filled = [index for index, count in enumerate(self._counts) if count]
        if not filled:
            return {"edges": [], "counts": []}
        first, last = filled[0], filled[-1]
        return {"edges": EDGES[first : last + 2], "counts": self._counts[first : last + 1]}
