"""Sets of 64-bit hashes in sorted arrays, asked by whole arrays: one that grows, and one that is asked very often."""

from collections.abc import Iterable

import numpy as np

_FILTER_BITS = 27  # 128 MB at most


class HashSet:
    """A set that grows: sorted arrays, 8 bytes a hash, each at least twice as long as the next, so they are few."""

    def __init__(self, hashes: Iterable[np.ndarray] = ()) -> None:
        self._arrays: list[np.ndarray] = []
        for array in hashes:
            self.add(array)

    def add(self, hashes: np.ndarray) -> None:
        """Add hashes, known ones among them or not.

        Args:
            hashes: uint64, (hashes,).
        """
        new = _sorted_distinct(hashes)
        while self._arrays and len(self._arrays[-1]) <= 2 * len(new):
            new = _sorted_distinct(np.concatenate([self._arrays.pop(), new]))
        if len(new):
            self._arrays.append(new)

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """Which of the hashes are in the set; bool, (hashes,)."""
        found = np.zeros(len(hashes), bool)
        for array in self._arrays:
            found |= array[_places(array, hashes)] == hashes
        return found

    def sorted(self) -> np.ndarray:
        """All of them, in order; uint64, (distinct hashes,)."""
        if len(self._arrays) > 1:
            self._arrays = [_sorted_distinct(np.concatenate(self._arrays))]
        return self._arrays[0] if self._arrays else np.empty(0, np.uint64)


class Lookup:
    """A set that stays as it is, and where each of its hashes stands.

    Hashes that begin with bits with which none of the set does are turned away first. That takes one look into
    memory, where the search in the array takes twenty-odd; most of what is asked is not there.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        """Args:
        hashes: uint64, (hashes,), sorted and distinct.
        """
        self.hashes = hashes
        bits = min((16 * len(hashes) + 1).bit_length(), _FILTER_BITS)
        self._shift = np.uint64(64 - bits)
        self._there = np.zeros(1 << bits, bool)
        self._there[hashes >> self._shift] = True

    def find(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the asked hashes are in the set, and where.

        Args:
            asked: uint64, (asked,).

        Returns:
            Their indices in `asked`, ascending, and their places in `hashes`; both (found,).
        """
        likely = np.flatnonzero(self._there[asked >> self._shift])
        if not len(likely):
            return likely, likely
        places = _places(self.hashes, asked[likely])
        right = self.hashes[places] == asked[likely]
        return likely[right], places[right]


def _places(array: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Where each hash stands in the sorted, not empty array, if it does."""
    return np.minimum(np.searchsorted(array, hashes), len(array) - 1)


def _sorted_distinct(hashes: np.ndarray) -> np.ndarray:
    # np.unique hashes, which on a million random 64-bit numbers takes forty times as long as sorting.
    hashes = np.sort(hashes)
    return hashes[np.diff(hashes, prepend=hashes[:1] ^ np.uint64(1)) != 0]
