"""How llama.cpp attends on a CPU: plainly where that fits into the memory that is free, in blocks where it does not.

In blocks ("flash") it reads each query head's keys and values token by token and converts them again for each; plainly
it multiplies matrices. Far into a window plain attention decodes two to four times and reads five to eight times as
fast, and it rounds less. It needs memory for the scores of all heads, which is little where few tokens are read at
once, and it takes no quantised values (figures: docs/LOG.md).
"""

from dataclasses import dataclass

from shridhar_ft.export.gguf_header import BATCH, QUANTISED, SPARE, Header
from shridhar_ft.plan.free_memory import free_bytes

PLAIN_BATCH = 64
"""Tokens whose scores are computed at once: more of them read no faster, and push keys out of the processor's cache."""
SCORE_BYTES = 8  # of a score: float32, and what the product with the values converts it to


@dataclass(frozen=True)
class Attending:
    """How keys and values are kept and read."""

    flash: bool
    """In blocks, not plainly."""
    keys: str
    """Type of the cache's keys, one of CACHE_BYTES."""
    values: str
    """Type of its values."""
    batch: int
    """Tokens that are computed at once (n_ubatch)."""
    why: str = ""
    """A sentence where it is not the faster way."""

    def bytes_of(self, header: Header, tokens: int, whole: bool = False) -> int:
        """Bytes of keys, values and scores of a window; see `Header.cache_bytes`."""
        held = header.cache_bytes(tokens, self.keys, self.values, self.batch, whole)
        return held if self.flash else held + SCORE_BYTES * self.batch * header.heads * tokens


def plain(cache: str, batch: int = PLAIN_BATCH) -> Attending:
    """Plain attention, with values in 16 bits where the cache's type is a quantised one."""
    return Attending(False, cache, "f16" if cache in QUANTISED else cache, batch)


def in_blocks(cache: str, batch: int = BATCH, why: str = "") -> Attending:
    """Attention in blocks."""
    return Attending(True, cache, cache, batch, why)


def choose_attending(header: Header, tokens: int, cache: str, whole: bool = False) -> Attending:
    """Plain attention where it fits, and what there is no room for is said.

    Args:
        header: The file's.
        tokens: Of the window.
        cache: Type of the key/value cache that was asked for.
        whole: Whether layers that slide keep the whole window.
    """
    wanted, free = plain(cache), free_bytes() - SPARE
    needed = wanted.bytes_of(header, tokens, whole)
    if needed <= free:
        return wanted
    return in_blocks(
        cache,
        why=f"attention is computed in blocks, which takes several times as long far into the window: plainly it would "
        f"need {needed / 1e9:,.1f} GB for {tokens:,} tokens, and {max(free, 0) / 1e9:,.1f} GB may be filled; a shorter "
        "--context makes room",
    )
