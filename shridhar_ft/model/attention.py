"""The choice of attention: the best that is here, each of which keeps packed documents apart without an L × L mask.

    flash_attention_2   FlashAttention's own variable lengths (CUDA, package flash-attn), given the boundaries
    shridhar_flex       FlexAttention with blocks made from the boundaries (CUDA)
    shridhar_sdpa       each document by itself (model/segments.py): everywhere, exact, memory linear in the window

The last two are functions of transformers' `AttentionInterface`; importing this module registers them (interface.py).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from shridhar_ft.config import Model
from shridhar_ft.errors import UserError
from shridhar_ft.model.interface import FLEX, SDPA, SOFTCAP

FLASH = "flash_attention_2"
FLASH_HEAD = 256  # the largest head dimension that FlashAttention 2 has kernels for


@dataclass(frozen=True)
class Attention:
    """What was chosen, and why."""

    implementation: str
    """As transformers' `attn_implementation` has it."""
    why: str
    """A sentence for the log."""


def choose_attention(
    model: Model, config: PreTrainedConfig, device: torch.device, half: bool = True, shared: str | None = None
) -> Attention:
    """The best attention that is here, or the one that the recipe names.

    Args:
        model: The recipe's `model` section.
        config: The model's config, for what its architecture can.
        device: Where it will run.
        half: Whether it may run in half precision, which is all that FlashAttention has.
        shared: The one that Ulysses shares out over processes, by transformers' name; None without Ulysses.

    Raises:
        UserError: The recipe names what is not here, or the architecture takes no attention from outside.
    """
    can = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if can is not None and not (can._supports_attention_backend and (can._supports_sdpa or capped)):
        raise UserError(
            f"model: {config.model_type} computes attention in its own way, and packed documents cannot be kept apart "
            "in it; take another architecture, e.g. llama, qwen3 or olmo3"
        )
    asked = "auto" if model.attention == "sparse" else model.attention
    why_not = _no_flash(can, config, device, half)
    if shared is not None:
        if shared != "sdpa" and why_not:
            raise UserError(f"launch.config: its Ulysses calls {shared}, which cannot run here ({why_not})")
        return Attention(shared, f"attention: {shared}, its heads shared out over processes by Ulysses")
    if asked == "flash" and why_not:
        raise UserError(f"model.attention: flash cannot run here ({why_not}); set it to auto or sdpa")
    if asked == "flex" and device.type != "cuda":
        raise UserError("model.attention: flex needs a CUDA device, and there is none; set it to auto or sdpa")
    if asked == "flex" and getattr(config, "attention_dropout", None):
        raise UserError("model.attention: flex has no dropout of attention; set attention_dropout to 0, or take sdpa")
    if asked == "flash" or (asked == "auto" and not why_not):
        name, how = FLASH, "FlashAttention, with the documents' lengths"
    elif asked == "flex":
        name, how = FLEX, "FlexAttention, with blocks made from the documents' lengths"
    else:
        name = SDPA if can is None or can._supports_sdpa else SOFTCAP
        how = "SDPA of each document by itself, memory linear in the window"
        how += f" (no FlashAttention: {why_not})" if asked == "auto" else ""
    return Attention(name, f"attention: {how}{_sliding(config)}")


def _no_flash(can: Any, config: PreTrainedConfig, device: torch.device, half: bool) -> str:  # noqa: ANN401
    """Why FlashAttention cannot be taken; empty where it can."""
    if device.type != "cuda":
        return "no CUDA device"
    if find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    if not half:
        return "it has no fp32"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    if can is not None and not can._supports_flash_attn:
        return f"{config.model_type} does not support it"
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return f"heads of {head} are wider than {FLASH_HEAD}" if head > FLASH_HEAD else ""


def _sliding(config: PreTrainedConfig) -> str:
    kinds = getattr(config, "layer_types", None) or []
    sliding = kinds.count("sliding_attention")
    if not sliding:
        return ""
    return f"; {sliding} of {len(kinds)} layers see a sliding window of {config.sliding_window:,} tokens"
