"""Positions of skip-wise windows: rising inside a piece, two runs, below the context, and every distance comes up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.pose import skipped_positions


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(30, 200), st.integers(0, 2**32))
def test_each_piece_is_two_runs_from_zero_below_the_context(lengths: list[int], context: int, seed: int) -> None:
    places = skipped_positions(lengths, context, np.random.default_rng(seed))
    assert places.dtype == np.int64 and len(places) == sum(lengths)
    for piece in np.split(places, np.cumsum(lengths)[:-1]):
        steps = np.diff(piece)
        assert piece[0] == 0 and piece[-1] < context
        assert (steps >= 1).all() and (steps > 1).sum() <= 1
    again = skipped_positions(lengths, context, np.random.default_rng(seed))
    assert (places == again).all()


def test_short_windows_see_every_distance_of_the_long_one() -> None:
    draw = np.random.default_rng(0)
    seen = np.zeros(200, dtype=bool)
    for _ in range(3000):
        places = skipped_positions([16], 200, draw)
        seen[(places[:, None] - places[None, :]).clip(0)] = True
    assert seen.all()
