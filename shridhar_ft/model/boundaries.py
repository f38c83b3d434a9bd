"""Where the documents of a batch begin and end, said outright, under the names that transformers' attention knows.

Rows of a batch are laid end to end, and the boundaries are the cumulative lengths of the pieces. Positions alone do
not say it: windows of positional skip-wise training jump within one document.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def boundaries(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The boundaries of a batch, to be passed to the model beside its ids and positions.

    Args:
        rows: Lengths of the pieces of each row, in tokens, padding being a piece of its own; all rows have one sum.

    Returns:
        transformers' `FlashAttentionKwargs`: `cu_seq_lens_q` and `cu_seq_lens_k` (one int32 tensor, (S + 1,), 0 first
        and all tokens of the batch last), `max_length_q` and `max_length_k` (tokens of the longest piece).
    """
    import torch

    assert len({sum(row) for row in rows}) == 1, "rows of a batch differ in length"
    lengths = [length for row in rows for length in row if length]
    ends = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32))
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def pieces_of(
    shape: tuple[int, int], cu_seq_lens: "torch.Tensor | None", position_ids: "torch.Tensor | None"
) -> list[tuple[int, int]]:
    """First token and the one after the last of each piece, rows laid end to end.

    Args:
        shape: Rows and tokens a row, (B, T).
        cu_seq_lens: As `boundaries` gives them; without them pieces begin where a position does not grow.
        position_ids: (B, T) or (1, T); without them each row is one piece.

    Raises:
        ValueError: Boundaries that are not those of this batch.
    """
    rows, tokens = shape
    if cu_seq_lens is not None:
        ends = cu_seq_lens.tolist()
        if ends[0] != 0 or ends[-1] != rows * tokens or any(stop <= start for start, stop in pairwise(ends)):
            raise ValueError(
                f"cu_seq_lens_q: {ends[:3]} … {ends[-1]} does not divide a batch of {rows} × {tokens} tokens"
            )
        if not set(range(0, rows * tokens, tokens)) <= set(ends):
            raise ValueError("cu_seq_lens_q: a piece goes over the end of a row")
        return list(pairwise(ends))
    if position_ids is None or tokens == 1:
        return [(row * tokens, (row + 1) * tokens) for row in range(rows)]
    begins = (position_ids.diff(dim=-1) <= 0).expand(rows, -1).nonzero().tolist()
    starts = sorted([row * tokens for row in range(rows)] + [row * tokens + place + 1 for row, place in begins])
    return list(pairwise([*starts, rows * tokens]))
