"""What a stage's RoPE makes of its base's parameters: the factor, what is kept, what is replaced, what is refused."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import UserError
from shridhar_ft.model.rope_formulas import (
    BETA_FAST,
    BETA_SLOW,
    Parameters,
    attention_factor,
    kind_of,
    long_range_parameters,
    raised_base,
    rotary_dim,
    yarn_share,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OF_A_SCALING = {
    *("rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor", "low_freq_factor", "high_freq_factor"),
}
DEFAULTS: dict[str, Parameters] = {
    "yarn": {"beta_fast": BETA_FAST, "beta_slow": BETA_SLOW},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
WITH_ORIGINAL = ("yarn", "longrope", "llama3")  # types whose parameters state L₀
REACHES = ("linear", "yarn", "longrope", "theta")  # types whose factor times L₀ is the length they are for


@dataclass(frozen=True)
class StageRope:
    """The RoPE that a stage trains with."""

    rope: Rope
    context: int
    """Length that the RoPE was chosen for (tokens); a stage of type none keeps that of the stage before."""
    original_context: int
    """Length that the unscaled frequencies were trained at (tokens)."""
    skips: bool = False
    """Whether the stage's windows skip positions (PoSE)."""


def original_context(config: "PreTrainedConfig") -> int:
    """Length that this config's frequencies were first trained at (tokens), under any scaling it already has.

    Under linear scaling `max_position_embeddings` is the scaled length, under dynamic the original one. A base that
    was trained longer than its factor says (Gemma 3) needs `rope.original_context` in the recipe.
    """
    parameters = long_range_parameters(config)
    if stated := parameters.get("original_max_position_embeddings"):
        return int(stated)
    if kind_of(parameters) == "linear":
        return round(config.max_position_embeddings / parameters["factor"])
    return int(config.max_position_embeddings)


def scaled_parameters(wanted: StageRope, own: Parameters, config: "PreTrainedConfig") -> Parameters:
    """`rope_parameters` of the layers that see the whole context, as transformers reads them."""
    rope = wanted.rope
    kind = "default" if rope.type == "theta" else rope.type
    same = kind == kind_of(own) and kind != "default"
    if kind_of(own) == "longrope" and not same and any(divisor != 1 for divisor in own["short_factor"]):
        raise UserError(
            f"rope.type: the base was trained with longrope's own short factors and never saw the unscaled frequencies "
            f"that {rope.type} starts from; take longrope with a long_factor, or none"
        )
    factor = _factor(wanted, own, config, same)
    theta = float(rope.theta or own["rope_theta"])
    kept = {name: value for name, value in own.items() if same or name not in OF_A_SCALING} | {"rope_theta": theta}
    kept.pop("type", None)
    if rope.type == "theta":
        raised = rope.theta or raised_base(theta, rotary_dim(config, own), factor)
        return {**kept, "rope_type": kind, "rope_theta": raised}
    if same and _is_derived(own, config):
        kept.pop("attention_factor")
    given = rope.model_dump(
        include={"attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"}, exclude_none=True
    )
    scaled = {**DEFAULTS.get(kind, {}), **kept, "rope_type": kind, "factor": factor, **given}
    if kind in WITH_ORIGINAL:
        scaled["original_max_position_embeddings"] = wanted.original_context
    if kind == "longrope":
        scaled |= _divisors(wanted, scaled, rotary_dim(config, own), _reach(own, config) if same else 0)
    return scaled


def _factor(wanted: StageRope, own: Parameters, config: "PreTrainedConfig", same: bool) -> float:
    """s, computed where the recipe does not give it."""
    rope, original = wanted.rope, wanted.original_context
    if same and not rope.factor and not rope.original_context and wanted.context <= (reach := _reach(own, config)):
        raise UserError(
            f"rope: the base's own {rope.type} scaling reaches {reach:,} tokens and the stage has {wanted.context:,}; "
            "take rope away (type none) to keep it, or give rope.factor"
        )
    factor = rope.factor or wanted.context / original
    if factor < 1:
        raise UserError(
            f"rope: the model was trained at {original} tokens and the stage has {wanted.context}; "
            "there is nothing to extend, so take rope away (type none)"
        )
    if rope.factor and rope.type in REACHES and rope.factor * original < wanted.context:
        raise UserError(
            f"rope.factor: {rope.factor:g} × {original} tokens is less than the context of "
            f"{wanted.context}; set factor to {wanted.context / original:g} or leave it out"
        )
    return factor


def _reach(own: Parameters, config: "PreTrainedConfig") -> int:
    """Length that a base's own scaling was made for, in tokens; 0 for dynamic, which was made for none."""
    if kind_of(own) == "dynamic":
        return 0
    return max(int(config.max_position_embeddings), round((own.get("factor") or 1) * original_context(config)))


def _is_derived(own: Parameters, config: "PreTrainedConfig") -> bool:
    """Whether a base states an attention factor that is just its formula's at its own factor."""
    if "attention_factor" not in own:
        return False
    factor = own.get("factor") or config.max_position_embeddings / own["original_max_position_embeddings"]
    by_formula = attention_factor({**own, "attention_factor": None}, factor)
    return own["attention_factor"] is None or math.isclose(own["attention_factor"], by_formula, rel_tol=1e-6)


def _divisors(wanted: StageRope, scaled: Parameters, dim: int, reach: int) -> dict[str, list[float]]:
    """LongRoPE's factor lists: given, the base's own, or YaRN's."""
    short = wanted.rope.short_factor or scaled.get("short_factor") or [1.0] * (dim // 2)
    if wanted.rope.long_factor:
        return {"short_factor": short, "long_factor": wanted.rope.long_factor}
    if reach and wanted.context > reach:
        raise UserError(
            f"rope.long_factor: the base's own was searched for {reach:,} tokens and the stage has {wanted.context:,}; "
            "give one number for each rotated pair of a head, or take type yarn"
        )
    if "long_factor" in scaled:
        return {"short_factor": short, "long_factor": scaled["long_factor"]}
    share = yarn_share(scaled, dim)
    return {"short_factor": short, "long_factor": (1 / ((1 - share) + share / scaled["factor"])).tolist()}
