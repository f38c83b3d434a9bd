"""What a norm is: LayerNorm, RMSNorm and each model's own class of them, told by its name."""

from torch import nn


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm; transformers gives every architecture a class of its own, without a common base."""
    return type(module).__name__.endswith("Norm")
