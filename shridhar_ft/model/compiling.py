"""torch.compile of what surrounds attention: MLPs and norms become fused kernels."""

import torch
from torch import nn

from shridhar_ft.model.norms import is_norm


def compile_parts(model: nn.Module) -> int:
    """Compile the MLP and the norms of every decoder layer, in place; returns how many parts there are.

    Layers of a kind share their code, so a model of any depth compiles as long as one layer does (regional
    compilation). Attention stays as it is: own kernels and a checkpoint's contexts would break the graph there.

    Args:
        model: A decoder of transformers, adapters attached or not.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    parts = [
        part
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
        for name, part in layer.named_modules()
        if name == "mlp" or is_norm(part)
    ]
    for part in parts:
        part.forward = torch.compile(part.forward)
    return len(parts)
