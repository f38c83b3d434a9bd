"""The attention that a long text is read with outside training: by the certificate, in float32, and by chat."""

from typing import TYPE_CHECKING

from shridhar_ft.model.sparse import slides

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

TRANSFORMERS = "sdpa"
LONGEST_MASK = 8192
"""Tokens up to which layers that slide are given transformers' own mask. It is tokens × tokens, and PyTorch makes
float32 of it: at 8,192 tokens 0.3 GB, at 108,000 58."""


def kernel_for(config: "PreTrainedConfig", tokens: int, device: "torch.device") -> str:
    """Transformers' own SDPA, or ours where that would need a mask which no memory holds.

    FlashAttention takes no float32.

    Args:
        config: The model's.
        tokens: Of the text.
        device: Where it is read.

    Returns:
        The name of a function that transformers' models can be told to attend by.
    """
    if not slides(config) or tokens <= LONGEST_MASK:
        return TRANSFORMERS
    from shridhar_ft.config import Model
    from shridhar_ft.model.attention import choose_attention

    return choose_attention(Model(base="none"), config, device, half=False).implementation
