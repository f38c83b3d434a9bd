"""A model's config made small: the same architecture, head size and kinds of layers, with few and narrow ones."""

from math import gcd
from typing import Any

from shridhar_ft.plan.shapes import FAMILIES

NARROW = 128
"""A model of at most this hidden size and FEW layers is small enough as it is."""
FEW = 4
ROW = 32
"""Rows of GGUF's q8_0 are multiples of this; those of k-quants of K_ROW."""
K_ROW = 256
LENGTHS = ("max_position_embeddings", "sliding_window", "original_max_position_embeddings")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
EXPERT_WIDTHS = ("moe_intermediate_size", "shared_expert_intermediate_size")


def small_config(config: dict[str, Any], divisor: int, global_every: int = 0, row: int = ROW) -> dict[str, Any]:
    """The config of a small model that is built as the given one is.

    The size of a head stays, and with it the number of rotated pairs: RoPE is then the recipe's own, pair for pair.

    Args:
        config: `model_type` and keys of its transformers config.
        divisor: What lengths in tokens are divided by.
        global_every: Every so many layers one sees the whole context, where the recipe says so; 0: it does not.
        row: What widths are multiples of where that is possible.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    full = (family.defaults if family else {}) | {key: value for key, value in config.items() if value is not None}
    small = shorter(config, divisor)
    hidden, layers = int(full.get("hidden_size") or 4096), int(full.get("num_hidden_layers") or 32)
    if hidden <= NARROW and layers <= FEW:
        return small
    heads = int(full.get("num_attention_heads") or 32)
    kv = int(full.get("num_key_value_heads") or heads)
    dim = int(full.get("head_dim") or hidden // heads)
    small |= _widths(hidden, heads, kv, dim, "head_dim" in full, row)
    inside = int(full.get("intermediate_size") or 4 * hidden)
    small["intermediate_size"] = _multiple(small["hidden_size"] * inside / hidden, row)
    small |= {key: min(int(config[key]), 4) for key in EXPERTS if config.get(key)}
    small |= {key: _multiple(small["hidden_size"] / 2, row) for key in EXPERT_WIDTHS if config.get(key)}
    if config.get("num_experts_per_tok"):
        small["num_experts_per_tok"] = min(int(config["num_experts_per_tok"]), 2)
    kinds = config.get("layer_types")
    every = global_every or (family.global_every if family else 0)
    small["num_hidden_layers"] = min(layers, _enough(kinds) if kinds else every or 2)
    if kinds:
        small["layer_types"] = list(kinds[: small["num_hidden_layers"]])
    return small


def shorter(config: dict[str, Any], divisor: int) -> dict[str, Any]:
    """The config with its lengths in tokens divided, those of its RoPE too."""
    made = dict(config)
    for key, value in config.items():
        if isinstance(value, dict):
            made[key] = shorter(value, divisor)
        elif key in LENGTHS and isinstance(value, int | float) and not isinstance(value, bool) and value:
            made[key] = max(8, int(value) // divisor)
    return made


def _widths(hidden: int, heads: int, kv: int, dim: int, own_dim: bool, row: int) -> dict[str, int]:
    """Hidden size and heads; grouped queries stay grouped, one head for each query stays one."""
    few = min(heads, 2 if dim >= ROW else 4)
    if not own_dim:  # hidden is heads × dim
        step = row // gcd(row, dim)
        few = min(heads, -(-few // step) * step)
        narrow = few * dim
    else:
        narrow = min(hidden, max(2 * ROW, row))
    of_kv = few if kv == heads else max(1, few // 2)
    return {"hidden_size": narrow, "num_attention_heads": few, "num_key_value_heads": of_kv}


def _enough(kinds: list[str]) -> int:
    """The fewest first layers, two at least, in which every kind stands."""
    seen = max(kinds.index(kind) for kind in dict.fromkeys(kinds)) + 1
    return max(2, seen)


def _multiple(value: float, row: int) -> int:
    return max(1, round(value / row)) * row
