"""Weights in bf16: two bytes each instead of four, computed with in bf16 or, where that is slow, in fp32."""

from functools import partial
from typing import Any

import torch
from torch import nn


def to_bf16(model: nn.Module, compute_bf16: bool) -> None:
    """Round a model's matrices to bf16: all where all are trained; with LoRA the frozen base, adapters stay fp32.

    Vectors stay as they are: they are few, and a norm's weight near 1 would jump by a 128th at a time. So do buffers:
    RoPE's frequencies in bf16 would turn far positions by whole radians.

    Args:
        model: On its device, adapters attached; no optimizer exists yet.
        compute_bf16: Whether autocast will compute in bf16. If not, layers widen their weights for the time of one
            product, and hidden states stay fp32.
    """
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dim() > 1 and not (frozen and parameter.requires_grad):
            parameter.data = parameter.data.to(torch.bfloat16)
    if compute_bf16:  # model/stream.py does the rest
        return
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(_widened_output)
        elif type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.forward = partial(_widened_linear, module)


def _widened_output(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    return output.float()


def _widened_linear(layer: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    bias = None if layer.bias is None else layer.bias.to(hidden.dtype)
    return nn.functional.linear(hidden, layer.weight.to(hidden.dtype), bias)
