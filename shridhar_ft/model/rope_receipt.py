"""The RoPE receipt: the live module, and the written config, against frequencies computed anew from the recipe.

Trap: the forward of dynamic and longrope changes the module (its buffer holds what the last batch needed). So a copy
of it is asked, in both regimes, and the module stays as it was.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.errors import CheckFailed
from shridhar_ft.model.rope_formulas import (
    Parameters,
    changes_with_length,
    expected_frequencies,
    kind_of,
    rope_sets,
    rotary_dim,
)
from shridhar_ft.runfolder import read_json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

FARTHEST = 108_000  # frequencies are compared at positions up to this even where the stage is shorter (tokens)
# float32 holds seven digits; an inverse frequency that differs by more than this is another frequency.
FREQUENCY_TOLERANCE = 1e-5
# cos and sin in float32: of position p the angle itself is only known to about p · 2⁻²³.
ANGLE_TOLERANCE = 1e-4, 2e-7  # at least, and a position

Checked = tuple[dict[str, Any], dict[str, Any], bool]
"""Claimed, measured and whether they agree, as a receipt wants them."""


@dataclass(frozen=True)
class LiveRope:
    """One set of inverse frequencies found in a live model."""

    module: "nn.Module"
    prefix: str
    """Of the module's names for it: "" or, where kinds of layers differ, e.g. "full_attention_"."""

    @property
    def layer_type(self) -> str | None:
        return self.prefix.rstrip("_") or None

    @property
    def frequencies(self) -> np.ndarray:
        """As they are now, float64 (dim / 2,)."""
        return getattr(self.module, f"{self.prefix}inv_freq").detach().cpu().double().numpy()  # MPS has no float64

    @property
    def attention_factor(self) -> float:
        return float(getattr(self.module, f"{self.prefix}attention_scaling"))


def live_rope(model: "nn.Module") -> list[LiveRope]:
    """Every set of frequencies that the model computes with."""
    return [
        LiveRope(module, name.removesuffix("inv_freq"))
        for module in model.modules()
        for name, _ in module.named_buffers(recurse=False)
        if name.endswith("inv_freq") and not name.endswith("original_inv_freq")
    ]


def check_rope(model: "nn.Module", claimed: "PreTrainedConfig", context: int) -> Checked:
    """Compare the live module with what the config claims, in frequencies, attention factor, cos and sin.

    Args:
        model: The live model (without an adapter wrapped around it).
        claimed: The config that the recipe asks for, made without the model.
        context: Length of the stage in tokens. Positions up to max(context, 108,000) are compared; for dynamic and
            longrope those up to the original length too, and up to the context.
    """
    sets = rope_sets(claimed)
    worst = {"frequency": 0.0, "factor": 0.0, "angle": 0.0}
    lengths: list[int] = []
    at_context: dict[str, Any] = {}
    ok = bool(live := live_rope(model))
    for rotary in live:
        parameters = sets.get(rotary.layer_type)
        if parameters is None:
            ok = False
            continue
        copied = LiveRope(copy.deepcopy(rotary.module), rotary.prefix)
        for length in sorted(_lengths(parameters, context, int(claimed.max_position_embeddings))):
            lengths.append(length)
            found = _differences_at(length, copied, claimed, parameters)
            # np.maximum and not max(): max(0.0, nan) is 0.0, and a broken module would pass.
            worst = {name: float(np.maximum(worst[name], found[name])) for name in worst}
            # Every comparison with NaN is false, so it fails here.
            ok = ok and found["frequency"] <= FREQUENCY_TOLERANCE and found["factor"] <= FREQUENCY_TOLERANCE
            ok = ok and found["angle"] <= max(ANGLE_TOLERANCE[0], ANGLE_TOLERANCE[1] * length)
            if not at_context and length >= context:
                at_context = _shown(copied, parameters, context)
    return (
        {
            "rope_parameters": claimed.rope_parameters,
            "max_position_embeddings": claimed.max_position_embeddings,
            "context": context,
        },
        {
            "rotary_modules": len(live),
            "largest_relative_frequency_difference": worst["frequency"],
            "largest_attention_factor_difference": worst["factor"],
            "largest_cos_sin_difference": worst["angle"],
            "positions": [0, max(lengths, default=1) - 1],
            "lengths": sorted(set(lengths)),
            **at_context,
        },
        ok,
    )


def check_written_rope(folder: Path, claimed: "PreTrainedConfig", context: int) -> Checked:
    """Compare a written model's config.json, and the rotary module that is built from it alone, with what is claimed.

    Args:
        folder: With config.json; weights are neither read nor needed.
        claimed: The config that the recipe asks for.
        context: As in `check_rope`.

    Returns:
        As `check_rope`; measured has `differs`, a sentence for each thing in config.json that is not as claimed.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    written = read_json(folder / "config.json")
    differs = _differing(written, claimed.rope_parameters, int(claimed.max_position_embeddings))
    if differs:  # what transformers would make of it is no longer of interest, and it may refuse it
        return (
            {"rope_parameters": claimed.rope_parameters, "max_position_embeddings": claimed.max_position_embeddings},
            {"rope_parameters": written.get("rope_parameters"), "differs": differs},
            False,
        )
    with init_empty_weights():  # parameters have no memory, but buffers, the frequencies among them, are computed
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder).get_text_config())
    claims, measured, ok = check_rope(model, claimed, context)
    return claims, {**measured, "differs": []}, ok


def need_rope(model: "nn.Module", claimed: "PreTrainedConfig", context: int) -> None:
    """`check_rope` where no receipt is kept: a model that is loaded to be read or spoken with.

    Raises:
        CheckFailed: The live module computes with another RoPE.
    """
    claims, measured, ok = check_rope(model, claimed, context)
    if not ok:
        raise CheckFailed(f"the live RoPE is not the one that was asked for: {claims} claimed, {measured} measured")


def need_certified_rope(folder: Path) -> None:
    """An export's config.json must still say of positions what its certificate says; other folders have none.

    Raises:
        CheckFailed: It does not: its scaling was edited or got lost, and the model would babble past its old length.
    """
    beside = [place / "certificate.json" for place in (folder, folder.resolve().parent)]
    certificate = next((file for file in beside if file.is_file()), None)
    claimed = read_json(certificate).get("claimed", {}).get("rope") if certificate else None
    if claimed is None:
        return
    differs = _differing(
        read_json(folder / "config.json"), claimed["rope_parameters"], int(claimed["max_position_embeddings"])
    )
    if differs:
        raise CheckFailed(
            f"{folder / 'config.json'}: not the RoPE that was certified ({'; '.join(differs)}); export the model again"
        )


# -------------------------------------------------------------------------------------------------- pieces


def _lengths(parameters: Parameters, context: int, max_position_embeddings: int) -> set[int]:
    """Lengths to ask for, in tokens: one, or some in each regime of a kind that changes with it."""
    if not changes_with_length(parameters):
        return {max(context, FARTHEST)}
    original = int(parameters.get("original_max_position_embeddings", max_position_embeddings))
    # transformers' dynamic goes back to the unscaled frequencies below its original length, and not at it.
    return {original - 1, context, max(context, FARTHEST, original + 1)}


def _differences_at(
    length: int, rotary: LiveRope, claimed: "PreTrainedConfig", parameters: Parameters
) -> dict[str, float]:
    """Largest differences between the live forward and the formulas, at 64 positions up to a length."""
    import torch

    expected, attention = expected_frequencies(
        parameters, rotary_dim(claimed, parameters), length, int(claimed.max_position_embeddings)
    )
    positions = np.unique(np.linspace(0, length - 1, num=64).astype(np.int64))  # (P,)
    device = next(iter(rotary.module.buffers())).device
    arguments = (rotary.layer_type,) if rotary.layer_type else ()
    with torch.no_grad():
        found = rotary.module(
            torch.zeros(1, dtype=torch.float32, device=device), torch.from_numpy(positions)[None].to(device), *arguments
        )
    # Most return cos and sin, (1, P, dim) or (1, P, dim / 2) each; DeepSeek-V2 and Llama 4 one complex tensor.
    cos, sin = (found.real, found.imag) if isinstance(found, torch.Tensor) else found
    turned = np.stack([part[0].cpu().double().numpy() for part in (cos, sin)])  # (2, P, dim or dim / 2)
    pairs = expected.shape[0]
    live = rotary.frequencies  # read after the forward, which may have computed them anew
    if live.shape != expected.shape or turned.shape[-1] not in (pairs, 2 * pairs):
        return {"frequency": math.inf, "factor": math.inf, "angle": math.inf}
    angles = positions[:, None].astype(np.float64) * expected[None, :]  # (P, dim / 2)
    wanted = attention * np.stack([np.cos(angles), np.sin(angles)])  # (2, P, dim / 2)
    # Of the doubled ones most lay the angles out twice one after another, some (Cohere) each twice.
    layouts = (slice(pairs),) if turned.shape[-1] == pairs else (slice(pairs), slice(0, 2 * pairs, 2))
    return {
        "frequency": float(np.abs(live / expected - 1).max()),
        "factor": abs(rotary.attention_factor - attention),
        "angle": min(float(np.abs(turned[..., layout] - wanted).max()) for layout in layouts),
    }


def _shown(rotary: LiveRope, parameters: Parameters, context: int) -> dict[str, Any]:
    """What a reader of the receipt wants to see: the frequencies that apply at the stage's context."""
    frequencies = rotary.frequencies
    shown: dict[str, Any] = {
        "frequencies": {"first": float(frequencies[0]), "last": float(frequencies[-1]), "number": len(frequencies)},
        "attention_factor": rotary.attention_factor,
    }
    if kind_of(parameters) == "longrope":
        long = context > parameters["original_max_position_embeddings"]
        shown["applies_at_the_context"] = "long_factor" if long else "short_factor"
    return shown


def _differing(written: dict[str, Any], rope_parameters: Any, max_position_embeddings: int) -> list[str]:  # noqa: ANN401
    """What a config.json says otherwise than claimed about positions."""
    wanted = json.loads(json.dumps(rope_parameters))
    has = written.get("rope_parameters")
    if not has:
        return ["rope_parameters is missing"]
    has, wanted = _flat(has), _flat(wanted)
    has["max_position_embeddings"] = written.get("max_position_embeddings")
    wanted["max_position_embeddings"] = max_position_embeddings
    return [
        f"{name} is {has.get(name, 'missing')} and not {wanted.get(name, 'there')}"
        for name in dict.fromkeys((*wanted, *has))
        if has.get(name) != wanted.get(name) or (name in has) != (name in wanted)
    ]


def _flat(parameters: Parameters, prefix: str = "rope_parameters.") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
