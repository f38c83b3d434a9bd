"""Positional skip-wise training: positions of short windows that lie far apart, as in long ones.

Zhu et al. 2023, "PoSE: Efficient Context Window Extension of LLMs via Positional Skip-wise Training", arXiv
2309.10400: a window is read as two chunks; the second begins a random number of positions further on, so that over
many steps every distance up to the target context is seen at the cost of short windows.
"""

from collections.abc import Sequence

import numpy as np


def skipped_positions(lengths: Sequence[int], context: int, draw: np.random.Generator) -> np.ndarray:
    """Position ids of the pieces of a window, each as two chunks with a random skip between them.

    The trap: positions that jump look like a new document to transformers, so the pieces' boundaries must be passed
    beside them; then the two chunks do see each other.

    Args:
        lengths: Sizes of the pieces in tokens, each at most `context`.
        context: Positions that are trained (the stage's context).
        draw: Where the chances come from; the same generator state gives the same positions.

    Returns:
        int64, shape (sum of lengths,): rising within each piece, all below `context`.
    """
    found = []
    for length in lengths:
        assert length <= context, (length, context)
        places = np.arange(length, dtype=np.int64)
        cut = int(draw.integers(1, length)) if length > 1 else length
        places[cut:] += draw.integers(0, context - length + 1)  # the first chunk begins at 0, as in the paper
        found.append(places)
    return np.concatenate(found)
