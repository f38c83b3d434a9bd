"""The functions that transformers' models call for attention, and the mask beside them; importing it registers them.

    shridhar_sdpa    each document by itself (model/segments.py)
    shridhar_flex    FlexAttention with blocks made from the boundaries (model/flex.py)

They take the boundaries (model/boundaries.py) from the model's keywords. What they do not understand, a padding mask, a
filled cache, an overlay, goes the way of transformers' own SDPA with its own mask, so that nothing is ignored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from shridhar_ft.model.blockwise import Blockwise
from shridhar_ft.model.boundaries import pieces_of
from shridhar_ft.model.cpu_flash import CpuFlash
from shridhar_ft.model.flex import attend_by_flex
from shridhar_ft.model.segments import Call, attend, attend_by_torch, plan_calls

SDPA, FLEX = "shridhar_sdpa", "shridhar_flex"
SOFTCAP = "shridhar_softcap"  # shridhar_sdpa again: transformers refuses a name with sdpa in it where scores are capped


def plain_mask(**asked: Any) -> torch.Tensor | None:  # noqa: ANN401
    """No mask where the boundaries say it all; transformers' own mask for anything else (padding, a filled cache).

    Where it returns a mask, attention goes through transformers' SDPA, so that generation works and nothing is ignored.
    """
    padding, window = asked.get("attention_mask"), asked.get("local_size")
    first = asked["q_length"] == asked["kv_length"] and not _somewhere(asked.get("q_offset", 0))
    unpadded = padding is None or bool(padding.all())
    # Chunks (Llama 4), overlays of images and bidirectional attention are no windows.
    causal = not asked.get("use_vmap") and "allow_is_bidirectional_skip" not in asked
    causal = causal and not asked["mask_function"].__qualname__.startswith("or_masks")
    slides = window is None or window == getattr(asked["config"], "sliding_window", None)
    return None if first and unpadded and causal and slides else sdpa_mask(**asked)


def _somewhere(offset: Any) -> bool:  # noqa: ANN401 - a number, or a tensor of one
    return bool(offset) if not isinstance(offset, torch.Tensor) else bool(offset.item())


_AS_IN_TRAINING: ContextVar[bool] = ContextVar("kernels as in training", default=False)


@contextmanager
def kernels_as_in_training() -> Iterator[None]:
    """Take the kernel that training takes, though nothing is dropped: what is proved of one says nothing of another."""
    token = _AS_IN_TRAINING.set(True)
    try:
        yield
    finally:
        _AS_IN_TRAINING.reset(token)


def _drops(module: torch.nn.Module, dropout: float) -> bool:
    """Whether this call goes to the kernel that can drop attention weights."""
    in_training = getattr(getattr(module, "config", None), "attention_dropout", 0.0) if _AS_IN_TRAINING.get() else 0.0
    return bool(dropout or in_training)


@torch.compiler.disable
def sdpa_by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """`shridhar_sdpa`: exact attention of each document by itself.

    Args:
        module: The attention layer that calls.
        query: (B, H, T, D).
        key: (B, KV, T, D).
        value: (B, KV, T, Dv).
        attention_mask: From `plain_mask`; with one, transformers' SDPA attends.
        **options: What transformers hands to attention: `dropout`, `scaling`, `sliding_window`, `softcap`, and
            `cu_seq_lens_q` (model/boundaries.py) or `position_ids`.

    Returns:
        (B, T, H, Dv), and no weights.

    Raises:
        ValueError: A mask or a cache beside boundaries, or an option that this attention has not.
    """
    if _is_for_transformers(module, query, key, attention_mask, options):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, tokens = query.shape[0], query.shape[2]
    window = _window(module, tokens, options)
    query, key, value = _one_dtype(query, key, value)
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))  # each (B · T, heads, D)
    scale, dropout, softcap = options.get("scaling"), options.get("dropout") or 0.0, options.get("softcap")
    device = query.device.type
    torch_chooses = device not in ("cpu", "mps") and softcap is None
    calls = _calls(options, (rows, tokens), window, window if torch_chooses else None, query.device)
    with torch.autocast(device, enabled=False):
        if torch_chooses:
            out = attend_by_torch(q, k, v, calls, scale, dropout)
        elif device == "cpu" and not _drops(module, dropout) and softcap is None and query.shape[3] == value.shape[3]:
            out = attend(q, k, v, calls, CpuFlash(scale))
        else:
            # Drawn from the CPU's generator, which a checkpoint sets back before it computes again.
            seed = int(torch.randint(2**62, ())) if dropout else 0
            scale = query.shape[3] ** -0.5 if scale is None else scale
            out = attend(q, k, v, calls, Blockwise(scale, softcap, dropout, seed))
    return out.unflatten(0, (rows, tokens)), None


def flex_by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """`shridhar_flex`: the same by FlexAttention; arguments, result and refusals as `sdpa_by_document`."""
    if _is_for_transformers(module, query, key, attention_mask, options):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("dropout"):
        raise ValueError("shridhar_flex has no dropout of attention; set attention_dropout to 0")
    rows, tokens = query.shape[0], query.shape[2]
    window = _window(module, tokens, options)
    ends = options.get("cu_seq_lens_q")
    if ends is None:
        starts = [start for start, _ in pieces_of((rows, tokens), None, options.get("position_ids"))]
        ends = torch.tensor([*starts, rows * tokens], dtype=torch.int32, device=query.device)
    query, key, value = _one_dtype(query, key, value)
    out = attend_by_flex(query, key, value, ends, window, options.get("scaling"), options.get("softcap"))
    return out.transpose(1, 2).contiguous(), None


def _is_for_transformers(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> bool:
    """Whether a mask or a filled cache sends this call to transformers' SDPA; refuses what no one here computes."""
    for name in ("s_aux", "position_bias", "cache"):
        if options.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} hands '{name}' to attention, which keeps no documents apart with it"
            )
    masked = mask is not None or query.shape[2] != key.shape[2]
    if masked and options.get("cu_seq_lens_q") is not None:
        raise ValueError(
            "the boundaries of packed documents were given beside "
            + ("an attention mask that is not all ones" if mask is not None else "a filled cache")
            + "; give one of them"
        )
    causal = options.get("is_causal")
    if not masked and not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ValueError(f"{type(module).__name__} is not causal, and packed documents are kept apart causally only")
    return masked


def _window(module: torch.nn.Module, tokens: int, options: dict[str, Any]) -> int | None:
    """The layer's sliding window, where it is shorter than the row."""
    if "sliding_window" in options:
        window = options["sliding_window"]
        return window if window is not None and window < tokens else None
    of_model = getattr(getattr(module, "config", None), "sliding_window", None)
    if of_model is not None and of_model < tokens:  # it would be in a mask that is no longer made
        raise ValueError(f"{type(module).__name__} does not hand its sliding window of {of_model} to attention")
    return None


def _calls(
    options: dict[str, Any], shape: tuple[int, int], window: int | None, block: int | None, device: torch.device
) -> list[Call]:
    """Kernel calls of this batch, planned once for all layers of a kind."""
    ends, positions = options.get("cu_seq_lens_q"), options.get("position_ids")
    if ends is not None:
        positions = None
    given = next((part for part in (ends, positions) if part is not None), None)
    if given is not None and given.is_inference():  # it counts no versions: planned anew for each layer
        return _planned.__wrapped__(ends, positions, 0, shape, window, block, device)
    return _planned(ends, positions, 0 if given is None else given._version, shape, window, block, device)


@lru_cache(maxsize=4)  # a tensor is its own key, `version` its contents
def _planned(
    ends: torch.Tensor | None,
    positions: torch.Tensor | None,
    version: int,
    shape: tuple[int, int],
    window: int | None,
    block: int | None,
    device: torch.device,
) -> list[Call]:
    return plan_calls(pieces_of(shape, ends, positions), window, block, device)


def _one_dtype(*parts: torch.Tensor) -> list[torch.Tensor]:
    """Autocast's type, as before F.scaled_dot_product_attention; without it that of the values.

    RoPE leaves queries and keys in float32 under autocast, and so do norms that are trained in float32 in a model of
    half precision.
    """
    device = parts[0].device.type
    to = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parts[-1].dtype
    return [part.to(to) for part in parts]


AttentionInterface.register(SDPA, sdpa_by_document)
AttentionInterface.register(FLEX, flex_by_document)
AttentionInterface.register(SOFTCAP, sdpa_by_document)
for _name in (SDPA, FLEX, SOFTCAP):
    AttentionMaskInterface.register(_name, plain_mask)
