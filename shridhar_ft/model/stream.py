"""The residual stream in bf16 where products run in bf16, and RoPE's angles in float32 whatever the stream is."""

from functools import partial
from typing import Any

import torch
from torch import nn

from shridhar_ft.model.norms import is_norm


def narrow_stream(model: nn.Module) -> None:
    """Let hidden states go from layer to layer in bf16: under autocast alone they stay float32.

    What layers keep and hand on is then half as large: 3.5 GB of layer inputs instead of 7 for 16 layers of 1,024 at
    108,000 tokens. Norms compute in float32 all the same, and the last one gives the type of the head that reads it.

    Args:
        model: Its adapters attached; it will run in bf16, under autocast or with weights of that type.
    """
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    last = [module for module in inner.base_model.children() if is_norm(module)]
    for module in inner.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(_narrowed)
        elif any(module is norm for norm in last):
            module.register_forward_hook(partial(_as_the_head, inner.get_output_embeddings))
        elif is_norm(module):
            module.register_forward_hook(_as_its_input)


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Let adapters take what comes in as it is where autocast will cast it anyway.

    peft casts each adapted layer's input to its float32 matrices first, and autocast that copy back to bf16: the same
    numbers, one copy more to make and another to keep for each of seven layers. (Its own quantised layers know.) Not
    with dropout or DoRA: those compute with what was cast.

    Args:
        model: Its adapters attached, if it has any.
    """
    for module in model.modules():
        if hasattr(module, "_cast_input_dtype") and not (
            any(isinstance(child, nn.Dropout) for child in module.modules()) or getattr(module, "lora_variant", None)
        ):
            module._cast_input_dtype = partial(_unless_autocast, module._cast_input_dtype)


def keep_angles_whole(model: nn.Module) -> None:
    """Let every rotary module give cos and sin in float32, not in the stream's type.

    In bf16 an angle's cosine is known to three digits, and the distance of two tokens no longer decides what they make
    of each other; the longer the window, the worse (arXiv 2411.13476). Queries and keys are turned in float32 and
    rounded once, by attention.
    """
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            module.register_forward_pre_hook(_ask_in_float32)


def _unless_autocast(cast: Any, given: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - peft's method, a tensor or None
    spared = given is not None and torch.is_autocast_enabled(given.device.type)
    return given if spared else cast(given, dtype)


def _narrowed(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    return output.to(torch.bfloat16)


def _as_the_head(head: Any, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    return output.to(head().weight.dtype)  # asked anew each time: DeepSpeed narrows the weights later


def _as_its_input(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    return output.to(inputs[0].dtype)  # a bf16 stream times a float32 weight would go on in float32


def _ask_in_float32(module: nn.Module, inputs: Any) -> Any:  # noqa: ANN401
    """The hidden states are asked for their type and device only."""
    hidden, *rest = inputs
    return (torch.empty(1, 1, 1, dtype=torch.float32, device=hidden.device), *rest)
