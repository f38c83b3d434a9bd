"""MinHash: finds, among the sets seen so far, one that is alike, without comparing with each.

A set's signature holds, for each of 128 permutations of all hashes, the smallest value that the set reaches; two
sets agree in as large a share of it as their Jaccard similarity (Broder 1997), ± 0.035 (one standard deviation) at
0.8. Signatures are cut into bands; only sets that agree in a whole band are compared (Leskovec, Rajaraman, Ullman,
Mining of Massive Datasets, 3.4).
"""

import numpy as np
import xxhash

PERMUTATIONS = 128
RECALL = 0.95  # of the pairs at the threshold, those that at least one band brings together
DEPTH = 32  # signatures compared for each band, the latest first: else a phrase of thousands means thousands of looks
_CHUNK = 256  # hashes permuted at once: 128 KB, which stay in the cache


def _constants(name: str) -> np.ndarray:
    """Odd or even 64-bit constants: hashes of a name, the same on every machine and with every version of numpy."""
    return np.array([xxhash.xxh3_64_intdigest(f"{name} {n}".encode()) for n in range(PERMUTATIONS)], np.uint64)


# x -> a x + b modulo 2**32 with odd a permutes 32-bit numbers.
_FACTORS = (_constants("factor") | np.uint64(1)).astype(np.uint32)
_SUMMANDS = _constants("summand").astype(np.uint32)
_BAND = _constants("band") | np.uint64(1)


def signature(hashes: np.ndarray) -> np.ndarray:
    """The signature of a set.

    Args:
        hashes: Hashes of its members, uint64, (members,), at least one; repetitions do not matter.

    Returns:
        uint32, (PERMUTATIONS,).
    """
    assert len(hashes), "an empty set is like no other"
    short = (hashes >> np.uint64(32)).astype(np.uint32)[:, None]  # (members, 1)
    smallest = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(short), _CHUNK):
        permuted = short[start : start + _CHUNK] * _FACTORS + _SUMMANDS  # (chunk, PERMUTATIONS)
        np.minimum(smallest, permuted.min(axis=0), out=smallest)
    return smallest


def rows_of_a_band(threshold: float) -> int:
    """The longest band with which pairs at the threshold still meet in `RECALL` of the cases."""
    for rows in range(PERMUTATIONS, 1, -1):
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= RECALL:
            return rows
    return 1


class Signatures:
    """Signatures seen so far, with an index by bands: about 0.7 KB each at a threshold of 0.8.

    The index is a hash table of chains for each band, as compressors have it: for each slot the latest signature, and
    for each signature the one before it in its slot. No values are stored: what meets by chance is compared in vain.
    """

    def __init__(self, threshold: float) -> None:
        """Args:
        threshold: Share of a signature (0 to 1) in which two must agree to be alike.
        """
        self._least = threshold * PERMUTATIONS
        self._rows = rows_of_a_band(threshold)
        self._bands = np.arange(PERMUTATIONS // self._rows)
        self._count = 0
        self._seen = np.empty((0, PERMUTATIONS), np.uint32)
        self._make_room(64)  # a power of two, as slots are so many bits

    def find_or_add(self, new: np.ndarray) -> bool:
        """Whether a signature like this one was seen; if not, it is seen from now on."""
        slots = self._slots(new[None])[0]
        if self._is_like(new, self._latest[self._bands, slots]):
            return True
        if self._count == len(self._seen):
            self._make_room(2 * self._count)
            slots = self._slots(new[None])[0]
        self._seen[self._count] = new
        self._link(self._count, slots)
        self._count += 1
        return False

    def _is_like(self, new: np.ndarray, latest: np.ndarray) -> bool:
        """Whether one of the first `DEPTH` signatures of the chains is like the new one."""
        bands, numbers = self._bands, latest
        for _ in range(DEPTH):
            there = numbers >= 0
            bands, numbers = bands[there], numbers[there]
            if not len(numbers):
                return False
            if (np.count_nonzero(self._seen[numbers] == new, axis=1) >= self._least).any():
                return True
            numbers = self._before[numbers, bands]
        return False

    def _link(self, number: int, slots: np.ndarray) -> None:
        self._before[number] = self._latest[self._bands, slots]
        self._latest[self._bands, slots] = number

    def _make_room(self, capacity: int) -> None:
        seen = np.empty((capacity, PERMUTATIONS), np.uint32)
        seen[: self._count] = self._seen
        self._seen = seen
        self._before = np.empty((capacity, len(self._bands)), np.int32)
        self._latest = np.full((len(self._bands), 2 * capacity), -1, np.int32)
        for start in range(0, self._count, _CHUNK):
            for number, slots in enumerate(self._slots(seen[start : min(start + _CHUNK, self._count)]), start):
                self._link(number, slots)

    def _slots(self, signatures: np.ndarray) -> np.ndarray:
        """The slot of each band; (signatures, bands)."""
        bands = signatures[:, : len(self._bands) * self._rows].reshape(len(signatures), -1, self._rows)
        mixed = (bands * _BAND[: self._rows]).sum(axis=2)
        bits = (self._latest.shape[1] - 1).bit_length()
        return ((mixed ^ (mixed >> np.uint64(32))) * _BAND[0]) >> np.uint64(64 - bits)
