"""Histograms: nothing is lost between the bins, and small counts stand by themselves."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.histogram import EDGES, Histogram


@given(st.lists(st.integers(0, 10**9)))
def test_every_number_is_in_its_bin(values) -> None:
    bins = Histogram(values).as_dict()
    edges, counts = bins["edges"], bins["counts"]
    assert sum(counts) == len(values) and edges == sorted(set(edges))
    for index, count in enumerate(counts):
        assert count == sum(edges[index] <= value < edges[index + 1] for value in values)
    if values:
        assert len(edges) == len(counts) + 1 and counts[0] and counts[-1]


def test_small_numbers_have_bins_of_their_own_and_large_ones_grow_evenly() -> None:
    assert EDGES[:11] == list(range(11))
    large = [edge for edge in EDGES if edge >= 100]
    assert all(1.1 < second / first < 1.2 for first, second in itertools.pairwise(large))
    assert Histogram().as_dict() == {"edges": [], "counts": []}
