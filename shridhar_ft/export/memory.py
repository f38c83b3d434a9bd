"""Memory that an export takes, counted beforehand: a model read whole, a text's activations, llama.cpp's cache."""

from typing import TYPE_CHECKING

from shridhar_ft.errors import OutOfMemory
from shridhar_ft.export.gguf_header import CACHE_BYTES
from shridhar_ft.plan.free_memory import free_bytes
from shridhar_ft.plan.meta import shape_on_meta
from shridhar_ft.plan.shapes import Shape, shape_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

SHARE = 0.9  # of the free memory that is filled: the counts are short of what allocators and threads keep
FLOAT32 = 4  # bytes
CACHES = ("f32", "f16")
"""Types of llama.cpp's cache that a certificate is read with, the most exact first."""


def room(device: "torch.device") -> int:
    """Bytes that an export may fill: of the machine, and of the GPU where it computes on one."""
    free = free_bytes()
    if device.type == "cuda":
        import torch

        free = min(free, torch.cuda.mem_get_info(device)[0])  # weights pass through the machine's memory
    return int(SHARE * free)


def whole_bytes(config: "PreTrainedConfig", tokens: int) -> int:
    """What reading a text takes with all weights in memory, in float32."""
    shape = _shape(config)
    return FLOAT32 * (shape.total + tokens * _a_token(shape))


def parameters_of(config: "PreTrainedConfig") -> int:
    """Weights of a model, tied ones once."""
    return _shape(config).total


def need_whole(config: "PreTrainedConfig", tokens: int, device: "torch.device", reason: str) -> None:
    """Refuse what has to be merged in memory and is larger than it.

    Args:
        config: The merged model's.
        tokens: Of the certificate's text.
        device: Where it is read.
        reason: Why it cannot be merged tensor by tensor.

    Raises:
        OutOfMemory: It does not fit.
    """
    needed, free = whole_bytes(config, tokens), room(device)
    if needed > free:
        raise OutOfMemory(
            f"export: only peft can merge this, in memory ({reason}), which takes {needed / 1e9:,.2f} GB where "
            f"{free / 1e9:,.2f} GB may be filled; export it on a machine with more memory"
        )


def cache_type(config: "PreTrainedConfig", tokens: int, batch: int) -> str:
    """The most exact type of llama.cpp's cache that fits: f32, or f16.

    Args:
        config: The model's.
        tokens: Of the window.
        batch: Tokens that are read at once; plain attention keeps their scores.

    Raises:
        OutOfMemory: Neither fits; the machine would swap, or end the process.
    """
    import torch

    shape = _shape(config)
    free = room(torch.device("cpu"))
    scores = batch * tokens * shape.heads * FLOAT32
    numbers = 2 * shape.layers * shape.keys * tokens
    needed = {kind: int(numbers * CACHE_BYTES[kind]) + scores for kind in CACHES}
    for kind, count in needed.items():
        if count <= free:
            return kind
    raise OutOfMemory(
        f"export.gguf: llama.cpp would read the certificate's {tokens:,} tokens with {needed['f16'] / 1e9:,.2f} GB of "
        f"keys and values (f16), and {free / 1e9:,.2f} GB may be filled; export on a machine with more memory, or "
        "leave export.gguf out"
    )


def _shape(config: "PreTrainedConfig") -> Shape:
    return shape_of(config.to_dict()) or shape_on_meta(config)


def _a_token(shape: Shape) -> int:
    """Numbers that a layer's forward pass holds for each token: its input, a norm's output, and the larger half."""
    attention = 4 * shape.queries + 4 * shape.keys  # projected, rotated, repeated for all heads, and the answer
    return 2 * shape.hidden + max(attention, 3 * shape.intermediate)
