"""Prefill and decode timed apart at a depth of the window, of whatever model can fill one.

    timed = TimedTransformers(model)       # or TimedGguf(GgufModel(file, window))
    timing = time_at(timed, depth=8192, prefill=512, decode=24)

As llama-bench -d does: at a depth, tokens are read and then drawn one at a time. A depth is not read: the first tokens'
keys and values are repeated until it is full, which costs what a true text would and spares the prefill of it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SEED_TOKENS = 512
"""Tokens whose keys and values fill a depth; no prefill that is timed is longer."""


@dataclass(frozen=True)
class Timing:
    """What one measurement took."""

    read: tuple[float, float]
    """Wall and processor seconds of the prefill."""
    drawn: tuple[tuple[float, float], ...]
    """Of each decoded token."""
    bytes_per_token: int
    """Bytes of keys and values that a token of the text takes."""


class Timed(Protocol):
    """A model whose speed is measured."""

    weights: int
    """Bytes of the weights that a decoded token reads."""
    parameters: int | None
    """Weights that a token is multiplied with, where that many numbers of `flops_type` are computed with."""
    device: str
    """Type of the device that computes."""
    vocabulary: int

    def at(self, depth: int) -> int:
        """Empty the window and fill it up to a depth; returns bytes of keys and values a token."""

    def read(self, ids: np.ndarray) -> None:
        """Read tokens after what is there, without logits but the last one's."""

    def draw(self, token: int) -> None:
        """Read one token and make its logits."""


def time_at(timed: Timed, depth: int, prefill: int, decode: int) -> Timing:
    """Time one prefill and some decoded tokens behind a depth.

    Args:
        timed: The model; its window holds depth + prefill + decode.
        depth: Tokens that stand there already.
        prefill: Tokens that are read, SEED_TOKENS at most.
        decode: Tokens that are drawn, one at a time.
    """
    ids = np.random.default_rng(0).integers(0, timed.vocabulary, max(prefill, decode)).astype(np.int64)
    clock = Stopwatch()
    per_token = timed.at(depth)
    with clock.timed() as read:
        timed.read(ids[:prefill])
    drawn = []
    for step in range(decode):
        with clock.timed() as took:
            timed.draw(int(ids[step]))
        drawn.append(took)
    return Timing(_pair(read), tuple(_pair(one) for one in drawn), per_token)


class Stopwatch:
    """Wall and processor time."""

    @contextmanager
    def timed(self) -> Iterator[list[float]]:
        """A list that holds both, in seconds, when the block has ended."""
        took: list[float] = []
        before = time.perf_counter(), time.process_time()
        yield took
        took += [time.perf_counter() - before[0], time.process_time() - before[1]]


def _pair(took: list[float]) -> tuple[float, float]:
    return took[0], took[1]
