"""Attention outputs that a checkpointed layer keeps, so that its recomputation need not attend a second time.

At 8,192 tokens attention is a third of a layer's arithmetic and at 108,000 nearly all of it, while its output is no
larger than the layer's input, which checkpointing keeps anyway (FlashAttention-aware checkpointing: Li et al. 2023,
DISTFLASHATTN, arXiv 2310.03294). One `KeptAttention` serves one call of one layer:

    kept = KeptAttention()
    checkpoint(layer, hidden, use_reentrant=False, context_fn=lambda: (kept.first(), kept.again()))
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


class KeptAttention:
    """Outputs and log-sums of a layer's attention calls, in the order of the calls."""

    def __init__(
        self,
        pack: "Callable[[torch.Tensor], Any] | None" = None,
        unpack: "Callable[[Any], torch.Tensor] | None" = None,
    ) -> None:
        """
        Args:
            pack: Puts a tensor elsewhere (host memory, a disk) and returns what finds it again.
            unpack: Brings it back.
        """
        assert (pack is None) == (unpack is None), "pack and unpack go together"
        self.pack = pack or (lambda tensor: tensor)
        self.unpack = unpack or (lambda packed: packed)
        self.calls: deque[tuple[Any, Any]] = deque()

    def keep(self, out: "torch.Tensor", log_sum: "torch.Tensor") -> None:
        """Keep what one call computed.

        Args:
            out: Attention's output; detached here, as the live one leads to the whole graph.
            log_sum: Log of the sum of exponentials of each query's scores, float32.
        """
        self.calls.append((self.pack(out.detach()), self.pack(log_sum.detach())))

    def take(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """What the oldest call not yet taken computed; its memory goes with it."""
        assert self.calls, "the recomputation calls attention oftener than the first forward pass did"
        out, log_sum = self.calls.popleft()
        return self.unpack(out), self.unpack(log_sum)

    def first(self) -> AbstractContextManager[None]:
        """The context of the first forward pass: attention keeps."""
        return _active(self, "first")

    def again(self) -> AbstractContextManager[None]:
        """The context of the recomputation: attention takes."""
        return _active(self, "again")


_kept: ContextVar[tuple[KeptAttention, Literal["first", "again"]] | None] = ContextVar("kept_attention", default=None)


@contextmanager
def _active(kept: KeptAttention, phase: Literal["first", "again"]) -> Iterator[None]:
    token = _kept.set((kept, phase))
    try:
        yield
    finally:
        _kept.reset(token)


def kept_attention() -> tuple[KeptAttention, Literal["first", "again"]] | None:
    """What is active around the attention call being made: the store and the phase, or nothing."""
    return _kept.get()
