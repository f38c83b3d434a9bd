"""Sparse attention for a model from config: most layers see a sliding window, every n-th the whole context.

The layout of Gemma 3 (arXiv 2503.19786) and OLMo 3: what a sliding layer costs grows with tokens × window. Only types
are taken that transformers, vLLM and llama.cpp all run so, and whose conversion to GGUF keeps the layout.
"""

from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Model
from shridhar_ft.errors import UserError
from shridhar_ft.plan.shapes import layer_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TYPES = ("olmo3", "gemma3_text")
GEMMA3_GLOBAL_EVERY = 6  # llama.cpp has it built in: conversion writes gemma3's window, but not which layers slide


def slides(config: "PreTrainedConfig") -> bool:
    """Whether some layer sees a sliding window; a type without `layer_types` has it in all layers, or in none."""
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else bool(getattr(config, "sliding_window", None))


def with_sparse_layers(model_type: str, given: dict[str, Any], model: Model) -> dict[str, Any]:
    """The keys of `model.from_config`, those of the sliding layers added where the recipe does not give them.

    Args:
        model_type: transformers' name of the architecture.
        given: The other keys, as the recipe has them.
        model: The recipe's `model` section, with `attention: sparse`.

    Raises:
        UserError: The architecture has no layers that slide, or a layout that its runtimes do not know.
    """
    if model_type not in TYPES:
        raise UserError(
            f"model.attention: sparse needs a type whose layers may slide, and {model_type} has none that llama.cpp "
            f"and vLLM run too; set model.from_config.model_type to {' or '.join(TYPES)}, or model.attention to auto"
        )
    every, layers = model.sparse.global_every, given.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise UserError(
            "model.from_config.num_hidden_layers: attention: sparse needs it, to choose the layers; give it"
        )
    if "layer_types" in given:
        if {"sliding_attention", "full_attention"} - set(given["layer_types"]):
            raise UserError(
                "model.from_config.layer_types: sparse has both kinds of layers; leave it out, or name both"
            )
    elif layers < every:
        raise UserError(
            f"model.sparse.global_every: {every}, but there are {layers} layers, so none would see the whole context; "
            f"set it to {layers} or less"
        )
    if model_type == "gemma3_text" and every != GEMMA3_GLOBAL_EVERY and "layer_types" not in given:
        raise UserError(
            f"model.sparse.global_every: {every}, but llama.cpp runs every gemma3 with "
            f"{GEMMA3_GLOBAL_EVERY}; set it to {GEMMA3_GLOBAL_EVERY}, or take olmo3, which keeps any"
        )
    made = {"sliding_window": model.sparse.window, "layer_types": layer_kinds(layers, every)}
    if model_type == "gemma3_text" and "head_dim" in given:
        # llama.cpp scales gemma3's scores by the head's size, transformers by a number that is 256 by default.
        made["query_pre_attn_scalar"] = given["head_dim"]
    return {**made, **given}
