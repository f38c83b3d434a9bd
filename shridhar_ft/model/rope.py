"""Rotary position embeddings: the parameters of each stage, and the receipt that the live module has them.

    none     what the model has already
    linear   θ_i / s                                     (Chen et al. 2023, Position Interpolation, arXiv 2306.15595)
    theta    base b' = b · s^(d/(d−2))                   (NTK-aware rule; ABF: Xiong et al. 2023, arXiv 2309.16039)
    yarn     θ_i by frequency, logits times (0.1 ln s + 1)²   (Peng et al. 2023, arXiv 2309.00071)

with s = new length / original length and θ_i = b^(−2i/d). Scaling has to stand in the config BEFORE the model is
built: edited afterwards it changes nothing at all. So the receipt recomputes the inverse frequencies with formulas
of its own, in float64, and compares them with those in the live module.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.config import Recipe
from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

BETA_FAST, BETA_SLOW = 32.0, 1.0  # YaRN's bounds, in rotations over the original context
KNOWN_TYPES = ("default", "linear", "yarn", "llama3")

# float32 holds seven digits; an inverse frequency that differs by more than this is another frequency.
FREQUENCY_TOLERANCE = 1e-5
# cos and sin of positions near 10⁵ in float32: the angle itself is only known to about 10⁵ · 2⁻²⁴.
ANGLE_TOLERANCE = 2e-2


@dataclass(frozen=True)
class StageRope:
    """The RoPE that a stage trains with."""

    rope: Rope
    context: int
    """Length that the RoPE was chosen for (tokens); a stage of type none keeps that of the stage before."""
    original_context: int
    """Length that the unscaled frequencies were trained at (tokens)."""


def stage_rope(recipe: Recipe, index: int, original_context: int) -> StageRope:
    """RoPE of stage `index`: its own, or the nearest earlier one where its type is none."""
    for stage in reversed(recipe.stages[: index + 1]):
        if stage.rope.type != "none":
            return StageRope(stage.rope, stage.context, stage.rope.original_context or original_context)
    return StageRope(Rope(), recipe.stages[index].context if recipe.stages else original_context, original_context)


def original_context(config: "PreTrainedConfig") -> int:
    """Length that this config's frequencies were first trained at (tokens), under any scaling it already has."""
    parameters = long_range_parameters(config)
    return int(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


def long_range_parameters(config: "PreTrainedConfig") -> dict[str, Any]:
    """RoPE parameters of the layers that see the whole context (Gemma keeps another set for sliding ones)."""
    parameters = config.rope_parameters
    return parameters.get("full_attention", parameters)


def apply_rope(config: "PreTrainedConfig", wanted: StageRope) -> "PreTrainedConfig":
    """Put a stage's RoPE into a config, in place; call it before the model is built or loaded.

    Args:
        config: Config of the base, or of the weights from config, with its own `rope_parameters`.
        wanted: From `stage_rope`.

    Raises:
        UserError: The stage shortens what the model was trained at, or its `factor` cannot reach the context.
    """
    rope = wanted.rope
    if rope.type != "none":
        parameters = long_range_parameters(config)
        scaled = _scaled_parameters(rope, wanted, theta=float(parameters["rope_theta"]), dim=rotary_dim(config))
        parameters_kept = {k: v for k, v in parameters.items() if k == "partial_rotary_factor"}
        if "full_attention" in config.rope_parameters:
            config.rope_parameters = {**config.rope_parameters, "full_attention": {**parameters_kept, **scaled}}
        else:
            config.rope_parameters = {**parameters_kept, **scaled}
    config.max_position_embeddings = max(int(config.max_position_embeddings), wanted.context)
    return config


def _scaled_parameters(rope: Rope, wanted: StageRope, theta: float, dim: int) -> dict[str, Any]:
    """`rope_parameters` as transformers reads them."""
    factor = rope.factor or wanted.context / wanted.original_context
    if factor < 1:
        raise UserError(
            f"rope: the model was trained at {wanted.original_context} tokens and the stage has {wanted.context}; "
            f"there is nothing to extend, so take rope away (type none)"
        )
    if rope.factor and rope.factor * wanted.original_context < wanted.context:
        raise UserError(
            f"rope.factor: {rope.factor:g} × {wanted.original_context} tokens is less than the context of "
            f"{wanted.context}; set factor to {wanted.context / wanted.original_context:g} or leave it out"
        )
    if rope.type == "theta":
        return {"rope_type": "default", "rope_theta": rope.theta or theta * factor ** (dim / (dim - 2))}
    parameters: dict[str, Any] = {"rope_type": rope.type, "rope_theta": rope.theta or theta, "factor": factor}
    if rope.type == "yarn":
        parameters |= {
            "original_max_position_embeddings": wanted.original_context,
            "beta_fast": BETA_FAST,
            "beta_slow": BETA_SLOW,
        }
    return parameters


# ------------------------------------------------------------------------------------- recomputed, compared


def rotary_dim(config: "PreTrainedConfig", parameters: dict[str, Any] | None = None) -> int:
    """Dimensions of a head that are rotated."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    partial = (parameters or long_range_parameters(config)).get("partial_rotary_factor", 1.0)
    return int(head * partial)


def expected_frequencies(parameters: dict[str, Any], dim: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies and attention factor, from the formulas above and nothing of transformers'.

    Args:
        parameters: `rope_parameters` of one kind of layer.
        dim: Rotated dimensions of a head.

    Returns:
        θ_i as float64, shape (dim / 2,), and the factor that cos and sin are multiplied by.

    Raises:
        UserError: A scaling whose formula is not known here, so that it could not be checked.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in KNOWN_TYPES:
        raise UserError(
            f"rope_type '{kind}' of the base cannot be checked (known: {', '.join(KNOWN_TYPES)}); "
            "give the stage a rope type of its own"
        )
    base, index = float(parameters["rope_theta"]), np.arange(0, dim, 2, dtype=np.float64)
    plain = base ** (-index / dim)  # (dim / 2,)
    if kind == "default":
        return plain, 1.0
    factor = float(parameters["factor"])
    if kind == "linear":
        return plain / factor, 1.0
    original = float(parameters["original_max_position_embeddings"])
    if kind == "llama3":
        wavelength = 2 * math.pi / plain
        low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        return smooth * plain + (1 - smooth) * plain / factor, 1.0

    def turning(rotations: float) -> float:  # index of the dimension that turns so often over the original context
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(turning(parameters.get("beta_fast") or BETA_FAST)), 0)
    high = min(math.ceil(turning(parameters.get("beta_slow") or BETA_SLOW)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)  # 0: keep, 1: interpolate
    attention = parameters.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return ramp * plain / factor + (1 - ramp) * plain, float(attention)


@dataclass(frozen=True)
class LiveRope:
    """One set of inverse frequencies found in a live model."""

    module: "nn.Module"
    layer_type: str | None
    frequencies: np.ndarray
    attention_factor: float


def live_rope(model: "PreTrainedModel") -> list[LiveRope]:
    """Every rotary embedding that the model computes with."""
    found = []
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and not name.endswith("original_inv_freq"):
                prefix = name.removesuffix("inv_freq")
                found.append(
                    LiveRope(
                        module,
                        prefix.rstrip("_") or None,
                        buffer.detach().double().cpu().numpy(),
                        float(getattr(module, f"{prefix}attention_scaling")),
                    )
                )
    return found


def check_rope(
    model: "PreTrainedModel", claimed: "PreTrainedConfig", context: int
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Compare the live module with what the config claims, in frequencies and in cos and sin up to the context.

    Args:
        model: The live model (without an adapter wrapped around it).
        claimed: The config that the recipe asks for, made without the model.
        context: Length in tokens; cos and sin are compared at positions up to it.

    Returns:
        Claimed, measured and whether they agree, as a receipt wants them.
    """
    nested = "full_attention" in claimed.rope_parameters
    # np.maximum and not max(): max(0.0, nan) is 0.0, and a broken module would pass.
    largest_frequency = largest_angle = largest_factor = 0.0
    live = live_rope(model)
    for rotary in live:
        parameters = claimed.rope_parameters[rotary.layer_type] if nested else claimed.rope_parameters
        expected, attention = expected_frequencies(parameters, rotary_dim(claimed, parameters))
        if expected.shape != rotary.frequencies.shape:
            largest_frequency = math.inf
            continue
        largest_frequency = float(np.maximum(largest_frequency, np.abs(rotary.frequencies / expected - 1).max()))
        largest_factor = float(np.maximum(largest_factor, abs(rotary.attention_factor - attention)))
        largest_angle = float(np.maximum(largest_angle, _angle_difference(rotary, expected, attention, context)))
    ok = bool(live) and largest_frequency <= FREQUENCY_TOLERANCE and largest_factor <= FREQUENCY_TOLERANCE
    ok = ok and largest_angle <= ANGLE_TOLERANCE
    first = live[0].frequencies if live else np.zeros(1)
    return (
        {"rope_parameters": claimed.rope_parameters, "context": context},
        {
            "rotary_modules": len(live),
            "largest_relative_frequency_difference": largest_frequency,
            "largest_attention_factor_difference": largest_factor,
            "largest_cos_sin_difference": largest_angle,
            "positions": [0, context - 1],
            "frequencies": {"first": float(first[0]), "last": float(first[-1]), "number": len(first)},
            "attention_factor": live[0].attention_factor if live else None,
        },
        ok,
    )


def _angle_difference(rotary: LiveRope, expected: np.ndarray, attention: float, context: int) -> float:
    """Largest difference of cos and sin between the live forward and the formulas, at 64 positions up to context."""
    import torch

    positions = np.unique(np.linspace(0, context - 1, num=64).astype(np.int64))  # (P,)
    angles = positions[:, None].astype(np.float64) * expected[None, :]  # (P, dim / 2)
    device = next(iter(rotary.module.buffers())).device
    arguments = (rotary.layer_type,) if rotary.layer_type else ()
    cos, sin = rotary.module(
        torch.zeros(1, dtype=torch.float32, device=device), torch.from_numpy(positions)[None].to(device), *arguments
    )  # (1, P, dim)
    half = expected.shape[0]
    found = np.stack([cos[0].double().cpu().numpy(), sin[0].double().cpu().numpy()])  # (2, P, dim)
    wanted = attention * np.stack([np.cos(angles), np.sin(angles)])  # (2, P, dim / 2)
    # Most architectures lay the angles out twice one after another, some (Cohere) each twice.
    return min(float(np.max(np.abs(found[..., layout] - wanted))) for layout in (slice(half), slice(0, 2 * half, 2)))
