"""FlexAttention over packed documents: one compiled CUDA kernel that skips the blocks no document reaches.

Dong et al. 2024, arXiv 2412.05496. transformers' own "flex_attention" makes its blocks from positions; these are made
from the boundaries, once a batch.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Sees = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def document_mask(document: torch.Tensor, window: int | None) -> Sees:
    """Whether query `i` of row `b` sees key `j`: in its own document, not after it, and within the window.

    Args:
        document: Number of the document that each token belongs to, (B, T).
        window: Tokens that a token sees, itself included; None sees its whole document.
    """

    def sees(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        seen = (j <= i) & (document[b, i] == document[b, j])
        return seen if window is None else seen & (i - j < window)

    return sees


def documents_of(cu_seq_lens: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Number of the document of each token, (B, T)."""
    tokens = torch.arange(shape[0] * shape[1], device=cu_seq_lens.device, dtype=cu_seq_lens.dtype)
    return torch.searchsorted(cu_seq_lens, tokens, right=True).view(shape)


@lru_cache(maxsize=4)
def _block_mask(
    cu_seq_lens: torch.Tensor, version: int, shape: tuple[int, int], window: int | None, device: torch.device
) -> "BlockMask":
    """Blocks of one batch; all layers that slide alike share them (a tensor is its own key, `version` its contents)."""
    from torch.nn.attention.flex_attention import create_block_mask

    sees = document_mask(documents_of(cu_seq_lens.to(device), shape), window)
    # Compiled, as the eager way would hold the whole T × T mask.
    return create_block_mask(sees, shape[0], None, shape[1], shape[1], device=device, _compile=device.type == "cuda")


@cache
def _compiled() -> Any:  # noqa: ANN401
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def attend_by_flex(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    window: int | None,
    scale: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of whole rows, each document by itself.

    Args:
        q: (B, H, T, D).
        k: (B, KV, T, D), KV dividing H.
        v: (B, KV, T, Dv).
        cu_seq_lens: From `boundaries`.
        window: As in `document_mask`.
        scale: Of the scores; None takes 1 / √D.
        softcap: Scores become softcap · tanh(score / softcap).

    Returns:
        (B, H, T, Dv).
    """
    from torch.nn.attention.flex_attention import flex_attention

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    run = _compiled() if q.device.type == "cuda" else flex_attention
    shape = (q.shape[0], q.shape[2])
    return run(
        q,
        k,
        v,
        score_mod=None if softcap is None else capped,
        block_mask=_block_mask(cu_seq_lens, cu_seq_lens._version, shape, window, q.device),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
