"""The shape of an architecture that shapes.py does not know: the model on torch's meta device, every module counted."""

from typing import TYPE_CHECKING, Any

from shridhar_ft.plan.shapes import Shape

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


def shape_on_meta(config: "PreTrainedConfig") -> Shape:
    """Count a model's parameters without making it; a second or two, most of it the import of torch.

    Args:
        config: The model's, with its sizes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head: Any = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    layers = config.num_hidden_layers
    found: dict[str, list[tuple[int, int]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            found.setdefault(name.split(".")[-1], []).append((module.in_features, module.out_features))
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    embedded = {id(model.get_input_embeddings().weight), id(head.weight)}
    rest = sum(p.numel() for p in model.parameters() if id(p) not in linear | embedded)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * dim
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None) or 0
    return Shape(
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=layers,
        heads=config.num_attention_heads,
        queries=config.num_attention_heads * dim,
        keys=keys,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        tied=tied,
        linears={name: _mean(sizes, layers) for name, sizes in found.items()},
        biases=0,
        normed=_normed(model, config.hidden_size, config.num_attention_heads * dim + keys),
        norms=rest,  # with biases, and whatever else is no matrix of a linear layer
        tiles=_tiles(model),
        positions=getattr(config, "max_position_embeddings", 0),
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in kinds) if kinds else (0,) * layers,
    )


def _normed(model: "PreTrainedModel", hidden: int, heads: int) -> int:
    """Numbers of a token that the norms of the first decoder layer take in."""
    inside = [name for name, _ in model.named_modules() if ".layers.0." in name or name.startswith("layers.0.")]
    over = sum(name.endswith("norm") for name in inside)
    over_heads = any(name.endswith(("q_norm", "k_norm")) for name in inside)
    return (over - 2 * over_heads) * hidden + heads * over_heads


def _mean(sizes: list[tuple[int, int]], layers: int) -> tuple[int, int]:
    """One linear layer that stands for all of a name: exact where each decoder layer has one of the same size."""
    inputs = sizes[0][0]
    weights = sum(into * out for into, out in sizes)
    return inputs, round(weights / layers / inputs)


def _tiles(model: "nn.Module") -> bool:
    """Whether every decoder layer has a plain `mlp`, which is nothing that looks at all tokens at once (experts)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return all(
        hasattr(layer, "mlp") and not any("expert" in name or "router" in name for name, _ in layer.mlp.named_modules())
        for layer in layers
    )
