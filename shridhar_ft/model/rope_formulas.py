"""RoPE's inverse frequencies by their published formulas, in float64 and with nothing of transformers'.

A head rotates d of its dimensions in pairs i = 0 … d/2 − 1; at position p pair i is turned by p · θ_i, and cos and sin
are multiplied by the attention factor m. With the base b (`rope_theta`), L₀ the length that the frequencies were
trained at, L the new one and s = L / L₀ (`factor`), m = 1 where nothing else is said:

    default   θ_i = b^(−2i/d)                                    (Su et al. 2021, RoFormer, arXiv 2104.09864)
    linear    θ_i / s                                    (Chen et al. 2023, Position Interpolation, arXiv 2306.15595)
    theta     b' = b · s^(d/(d−2)), or any larger base             (NTK-aware rule, derived in arXiv 2309.00071;
                                                     ABF, a larger base by trial: Xiong et al. 2023, arXiv 2309.16039)
    dynamic   b' = b · (s · ℓ / L₀ − (s − 1))^(d/(d−2))                          (Dynamic NTK, arXiv 2309.00071)
              with ℓ the largest position at hand + 1; b' = b while ℓ ≤ L₀. At ℓ = L the base is raised as for
              s² − s + 1 and not for s: that is how transformers and vLLM read the factor.
    yarn      θ_i · ((1 − γ_i) + γ_i / s), m = 0.1 · ln s + 1    (Peng et al. 2023, YaRN, arXiv 2309.00071)
              γ_i rises from 0 to 1, linearly in i, between the pairs that turn β_fast = 32 times and β_slow = 1 times
              over L₀: i(β) = d · ln(L₀ / 2πβ) / (2 ln b), rounded outwards unless `truncate` is false (so the
              authors' code; the paper's γ is linear in the rotations). DeepSeek's `mscale` μ and `mscale_all_dim` ν:
              m = (0.1 μ ln s + 1) / (0.1 ν ln s + 1).
    llama3    θ_i · ((1 − γ_i) + γ_i / s)      (Meta's code of Llama 3.1; the paper, arXiv 2407.21783, has no formula)
              γ_i = 1 − (L₀ θ_i / 2π − low) / (high − low), between 0 and 1: linear in the rotations over L₀. Meta
              used s = 8 for sixteen times the length, so here s · L₀ may be less than the context.
    longrope  θ_i / λ_i, m = √(1 + ln s / ln L₀)               (Ding et al. 2024, LongRoPE, arXiv 2402.13753)
              λ = `long_factor` where ℓ > L₀, else `short_factor`; m is the same for both. The paper searches λ; here
              it is given, or YaRN's 1 / ((1 − γ_i) + γ_i / s), among which that search begins.

Trap: dynamic and longrope choose by ℓ, which is that of the whole batch. A window of short documents gets the
unscaled frequencies and one with a single long document the long ones for all; so training shows both to the model,
and a loss compares only with one at the same lengths. Dynamic is an inference method: no length sees the frequencies
of another, so a stage trains them all a little; yarn, longrope and theta learn more from the same tokens.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BETA_FAST, BETA_SLOW = 32.0, 1.0  # YaRN's bounds, in rotations over the original context
KNOWN_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

Parameters = dict[str, Any]
"""`rope_parameters` of one kind of layer, as transformers reads them."""


# --------------------------------------------------------------------------------------------- of a config


def kind_of(parameters: Parameters) -> str:
    """Name of the scaling (`type` in configs of old)."""
    return str(parameters.get("rope_type", parameters.get("type", "default")))


def rope_sets(config: "PreTrainedConfig") -> dict[str | None, Parameters]:
    """Every set of RoPE parameters by the kind of layer it is for; None where all layers share one.

    Gemma 3 and OLMo 3 keep one for sliding layers and one for those that see the whole context.
    """
    nested = {name: found for name, found in config.rope_parameters.items() if isinstance(found, dict)}
    return {**nested} if nested else {None: config.rope_parameters}


def long_range_parameters(config: "PreTrainedConfig") -> Parameters:
    """RoPE parameters of the layers that see the whole context.

    Raises:
        UserError: Those layers have none, or some layers have one whose formula is not known here.
    """
    sets = rope_sets(config)
    for parameters in sets.values():
        if kind_of(parameters) not in KNOWN_KINDS:
            raise UserError(
                f"model: rope_type '{kind_of(parameters)}' of {config.model_type} cannot be checked (known: "
                f"{', '.join(KNOWN_KINDS)}); take another model"
            )
    found = sets.get(None) or sets.get("full_attention")
    if found is None:
        raise UserError(
            f"model: {config.model_type} has rotary positions for {', '.join(map(str, sets))} and none for "
            "full_attention, so it is not known what to extend; take another model"
        )
    return found


def rotary_dim(config: "PreTrainedConfig", parameters: Parameters) -> int:
    """Dimensions of a head that are rotated."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * parameters.get("partial_rotary_factor", 1.0))


# ------------------------------------------------------------------------------------------------ formulas


def unscaled(theta: float, dim: int) -> np.ndarray:
    """θ_i = b^(−2i/d), shape (dim / 2,)."""
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def raised_base(theta: float, dim: int, factor: float) -> float:
    """b · s^(d/(d−2)): the slowest pair turns s times slower, the fastest as before."""
    if dim <= 2:
        raise UserError(f"rope: a head that rotates {dim} dimensions has one frequency and no base; take longer heads")
    return theta * factor ** (dim / (dim - 2))


def yarn_share(parameters: Parameters, dim: int) -> np.ndarray:
    """YaRN's γ_i: 0 where a pair keeps its frequency, 1 where it is interpolated whole; shape (dim / 2,).

    Raises:
        UserError: The bounds cross, where transformers would interpolate just what should be kept; or the head
            rotates an odd number of dimensions.
    """
    if dim % 2:
        raise UserError(
            f"rope: heads of {dim} rotated dimensions, an odd number, have no YaRN; take type linear or theta"
        )
    theta, original = float(parameters["rope_theta"]), float(parameters["original_max_position_embeddings"])

    def pair(rotations: float) -> float:  # that turns so often over the original context
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(parameters.get("beta_fast") or BETA_FAST), pair(parameters.get("beta_slow") or BETA_SLOW)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low > high:
        raise UserError(
            f"rope: over {original:,.0f} tokens no pair of a base of {theta:,.0f} turns between beta_slow and "
            "beta_fast times; change them, or take type linear or theta"
        )
    return np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)


def expected_frequencies(
    parameters: Parameters, dim: int, length: int = 0, max_position_embeddings: int = 0
) -> tuple[np.ndarray, float]:
    """Inverse frequencies and attention factor that a recipe means.

    Args:
        parameters: Of one kind of layer.
        dim: Rotated dimensions of a head.
        length: Largest position at hand + 1, in tokens; only dynamic and longrope choose by it.
        max_position_embeddings: The config's; dynamic's L₀, and the new length where a base states no factor.

    Returns:
        θ_i as float64, shape (dim / 2,), and m.

    Raises:
        UserError: LongRoPE's lists are of another length than the head has pairs, or bounds cross.
    """
    kind = kind_of(parameters)
    assert kind in KNOWN_KINDS, "long_range_parameters has refused the others"
    theta = float(parameters["rope_theta"])
    plain = unscaled(theta, dim)
    if kind == "default":
        return plain, 1.0
    factor = parameters.get("factor") or max_position_embeddings / parameters["original_max_position_embeddings"]
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "dynamic":
        growth = factor * max(length, max_position_embeddings) / max_position_embeddings - (factor - 1)
        return unscaled(raised_base(theta, dim, growth), dim), 1.0
    original = float(parameters["original_max_position_embeddings"])
    attention = attention_factor(parameters, factor)
    if kind == "longrope":
        name = "long_factor" if length > original else "short_factor"
        if len(parameters[name]) != dim // 2:
            raise UserError(
                f"rope.{name}: {len(parameters[name])} numbers for heads of {dim // 2} rotated pairs; one a pair"
            )
        return plain / np.asarray(parameters[name], dtype=np.float64), attention
    if kind == "yarn":
        share = yarn_share(parameters, dim)
    else:
        low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
        if low >= high:
            raise UserError(f"rope.low_freq_factor: {low:g} is not less than high_freq_factor of {high:g}")
        share = 1 - np.clip((original * plain / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    return plain * ((1 - share) + share / factor), attention


def attention_factor(parameters: Parameters, factor: float) -> float:
    """m: as stated, or by the formula of the kind."""
    if (stated := parameters.get("attention_factor")) is not None:
        return float(stated)
    kind = kind_of(parameters)
    if factor <= 1 or kind not in ("yarn", "longrope"):
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(parameters["original_max_position_embeddings"]))
    of_one, of_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if of_one and of_all:
        return (0.1 * of_one * math.log(factor) + 1) / (0.1 * of_all * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1


def changes_with_length(parameters: Parameters) -> bool:
    """Whether the frequencies hang on the positions at hand."""
    return kind_of(parameters) in ("dynamic", "longrope")
