"""What a stage did not read: every unread token once, nothing that was read, neighbours joined."""

from itertools import pairwise

import numpy as np
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_training import Replay
from shridhar_ft.data.unread import unread
from shridhar_ft.data.windows import Encoded, Layout, pack_windows


@given(st.lists(st.integers(1, 60), min_size=1, max_size=10), st.integers(12, 40), st.randoms(), st.booleans())
def test_what_was_not_read_is_what_is_left(lengths: list[int], window: int, random, replays: bool) -> None:
    starts = np.cumsum([0, *lengths])
    documents = [Encoded(np.arange(a, b, dtype=np.int32), np.ones(b - a, bool)) for a, b in pairwise(starts)]
    layout = Layout(window, replay=Replay(context=8, share=0.4) if replays else None)
    windows = Dataset(pack_windows(documents, layout, "x")[0])
    read = np.array([random.random() < 0.5 for _ in range(len(windows))], dtype=bool)
    taken = {
        token for row, was_read in zip(windows, read, strict=True) if was_read and not row["replayed"]
        for token in row["input_ids"]
    }  # fmt: skip
    left = list(unread(documents, windows, read))
    assert [int(token) for part in left for token in part.ids] == [t for t in range(sum(lengths)) if t not in taken]
    ends = {int(part.ids[-1]) for part in left}
    assert all(int(part.ids[0]) - 1 not in ends or int(part.ids[0]) in set(starts.tolist()) for part in left)
    assert all((len(part.ids) in lengths) for part in left if part.whole)
