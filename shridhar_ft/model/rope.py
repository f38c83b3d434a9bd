"""Rotary position embeddings: which one each stage has, put into the config before the model is built.

    wanted = stage_rope(recipe, index, original_context(config))
    config = apply_rope(config, wanted)          # then build or load
    check_rope(model, claimed, context)          # the receipt

Formulas and papers are in rope_formulas, the factor in rope_scaling, the receipt in rope_receipt. Scaling has to stand
in the config BEFORE the model is built: edited afterwards it changes nothing at all.

An open base is the start: s = target length / ITS original length. Scaled by the same type already, it keeps its other
numbers (bounds, `truncate`, `mscale`, …) and gets the new factor; scaled by another one, that one is replaced, and the
new one starts from the unscaled frequencies (`describe_rope` says so).
"""

from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Recipe
from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import UserError
from shridhar_ft.model.rope_formulas import (
    Parameters,
    expected_frequencies,
    kind_of,
    long_range_parameters,
    rope_sets,
    rotary_dim,
)
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope
from shridhar_ft.model.rope_scaling import WITH_ORIGINAL, StageRope, original_context, scaled_parameters

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

__all__ = [
    "StageRope",
    "apply_rope",
    "check_rope",
    "check_written_rope",
    "describe_rope",
    "forget_lengths",
    "original_context",
    "stage_rope",
]


def stage_rope(recipe: Recipe, index: int, original_context: int) -> StageRope:
    """RoPE of stage `index` (−1: the last): its own, or the nearest earlier one where its type is none."""
    if not recipe.stages:
        return StageRope(Rope(), original_context, original_context)
    stages = recipe.stages[: range(len(recipe.stages))[index] + 1]
    skips = stages[-1].pose is not None
    for stage in reversed(stages):
        if stage.rope.type != "none":
            return StageRope(stage.rope, stage.context, stage.rope.original_context or original_context, skips)
    return StageRope(Rope(), stages[-1].context, original_context, skips)


def apply_rope(config: "PreTrainedConfig", wanted: StageRope) -> "PreTrainedConfig":
    """Put a stage's RoPE into a config, in place; call it before the model is built or loaded.

    Args:
        config: Config of the base, or of the weights from config, with its own `rope_parameters`.
        wanted: From `stage_rope`.

    Raises:
        UserError: The stage shortens what the model was trained at, its `factor` cannot reach the context, the type
            does not go with the base, the model type or the stage, or its frequencies could not be checked.
    """
    own = long_range_parameters(config)
    if wanted.rope.type != "none":
        if getattr(config, "head_dim", 0) is None:  # Mixtral's default; transformers' yarn multiplies by it
            config.head_dim = config.hidden_size // config.num_attention_heads
        _put(config, scaled_parameters(wanted, own, config))
        if hasattr(config, "original_max_position_embeddings") and wanted.rope.type in WITH_ORIGINAL:
            config.original_max_position_embeddings = wanted.original_context  # Phi-3's own, which goes before ours
    elif kind_of(own) in WITH_ORIGINAL and not own.get("factor"):  # it hangs on a length that grows below
        _put(config, {**own, "factor": config.max_position_embeddings / own["original_max_position_embeddings"]})
    kind = kind_of(long_range_parameters(config))
    if kind == "dynamic" and wanted.skips:
        raise UserError(
            "rope.type: dynamic takes its frequencies from the largest position of each batch, which pose sets anew "
            "for every window, so no length is ever learned; take type yarn, or take pose away"
        )
    if kind != "dynamic":
        config.max_position_embeddings = max(int(config.max_position_embeddings), wanted.context)
    elif wanted.rope.type == "dynamic":  # it is the L₀ of dynamic's formula: raised, nothing would ever be scaled
        config.max_position_embeddings = wanted.original_context
    _check_acceptance(config, wanted)
    return config


def describe_rope(base: "PreTrainedConfig", wanted: StageRope) -> str:
    """What a stage does to the RoPE of its base, for the log.

    Args:
        base: Config before `apply_rope`.
        wanted: From `stage_rope`.
    """
    rope, own = wanted.rope, long_range_parameters(base)
    if rope.type == "none":
        return f"as the model has it ({kind_of(own)})"
    scaled = scaled_parameters(wanted, own, base)
    said = f"{rope.type}, {wanted.context:,} over {wanted.original_context:,} tokens"
    if "factor" in scaled:
        said += f", factor {scaled['factor']:.4g}"
    if scaled["rope_theta"] != own["rope_theta"]:
        said += f", base from {own['rope_theta']:,.0f} to {scaled['rope_theta']:,.0f}"
    if kind_of(own) not in ("default", kind_of(scaled)):
        said += f"; it replaces the base's own {kind_of(own)} scaling and starts from the unscaled frequencies"
    if rope.type in ("dynamic", "longrope"):
        said += "; the longest document of a batch decides on the frequencies of all in it"
    return said


def forget_lengths(model: "nn.Module") -> None:
    """Let dynamic RoPE hang on the batch at hand alone, where transformers' remembers the longest one it has seen.

    Without it the frequencies of a batch hang on the order of those before: a run that was resumed differs from one
    that was not, ranks from each other, and an evaluation at the original length is made with frequencies of a longer
    one. It costs a copy of dim / 2 numbers a forward. Models with other RoPE are left alone.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if "dynamic" in (kinds.values() if isinstance(kinds, dict) else (kinds,)):
            module.register_forward_pre_hook(_forget)


def _forget(module: "nn.Module", _: Any) -> None:  # noqa: ANN401 - a forward's arguments
    for name, buffer in list(module.named_buffers(recurse=False)):
        if name.endswith("original_inv_freq"):
            prefix = name.removesuffix("original_inv_freq")
            setattr(module, f"{prefix}inv_freq", buffer.clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


# -------------------------------------------------------------------------------------------------- pieces


def _put(config: "PreTrainedConfig", parameters: Parameters) -> None:
    flat = None in rope_sets(config)
    config.rope_parameters = parameters if flat else {**config.rope_parameters, "full_attention": parameters}


def copied(config: "PreTrainedConfig", **changes: Any) -> "PreTrainedConfig":  # noqa: ANN401 - the config's own keys
    """A config of its own with the same keys: a model changes the one that it is built from."""
    return type(config)(**{**config.to_dict(), **changes})


def _check_acceptance(config: "PreTrainedConfig", wanted: StageRope) -> None:
    """The frequencies can be computed, and the model type's config keeps them when it is written and read again."""
    from huggingface_hub.errors import StrictDataclassError

    for parameters in rope_sets(config).values():
        dim = rotary_dim(config, parameters)
        for length in (1, wanted.context):
            expected_frequencies(parameters, dim, length, config.max_position_embeddings)
    why = ""
    try:
        again = copied(config)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        last = str(error).strip().splitlines()[-1].strip(" '\".")
        why = last.removeprefix("ValueError: ").removeprefix("TypeError: ")
    else:
        if again.rope_parameters != config.rope_parameters:
            why = f"it becomes {kind_of(long_range_parameters(again))} when the config is read again"
    if why:
        raise UserError(f"rope.type: {config.model_type} does not take {wanted.rope.type} ({why}); take another type")
