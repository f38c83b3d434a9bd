"""Which levers a step needs to fit here, and how they are put on a model (plan/levers.py says what each is)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.model.bf16_weights import to_bf16
from shridhar_ft.model.checkpointing import checkpoint_layers
from shridhar_ft.model.compiling import compile_parts
from shridhar_ft.model.estimate import model_sizes
from shridhar_ft.model.offload import DiskStore, HostStore, Store
from shridhar_ft.model.precision import faster_precision
from shridhar_ft.model.stream import keep_angles_whole, leave_casts_to_autocast, narrow_stream
from shridhar_ft.model.tiled_mlp import tile_layers
from shridhar_ft.plan.check import overridden
from shridhar_ft.plan.choosing import FILLED, Step, as_needed
from shridhar_ft.plan.free_memory import room_bytes
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.plan.levers import Levers, check_levers
from shridhar_ft.plan.memory import GIB

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


# ------------------------------------------------------------------------------------------------- choosing


def choose_levers(
    tuning: Tuning,
    config: "PreTrainedConfig",
    window: int,
    device: "torch.device",
    trainable: int | None = None,
    free_bytes: int | None = None,
) -> Levers:
    """The levers of a part: the recipe's own list, or as many as the step needs to fit, the cheapest first.

    Args:
        tuning: `memory` and `memory_limit`, method, precision, batch size.
        config: The model's config with its sizes.
        window: Tokens of a window.
        device: Where it trains.
        trainable: Trained parameters, where they are known (default: all, or LoRA's by its rank and targets).
        free_bytes: What may be filled (default: `memory_limit`, or nine tenths of what is free).

    Returns:
        Names in the order in which they were turned on, sentences on each and on the estimate.

    Raises:
        UserError: Levers that do not go together, or a step that no lever makes fit.
    """
    bf16 = tuning.precision == "bf16" or (tuning.precision == "auto" and faster_precision(device)[0])
    size = model_sizes(tuning, config, trainable)
    layout = layout_here()
    step = Step(size, tuning, window * tuning.batch_size, bf16, device.type, layout)
    limit = free_bytes
    if limit is None:
        limit = int(tuning.memory_limit * GIB if tuning.memory_limit else FILLED * room_bytes(device))
    if tuning.memory == "auto":
        names, sentences = as_needed(step, limit, _host_bytes())
    else:
        names, sentences = tuple(tuning.memory), []
        check_levers(names, tuning, device.type, layout.shards_name)
    before, after = step.peak(), step.peak(names)
    if layout.shards_name is None and tuning.memory == "auto" and after > limit and not overridden():
        mend = "a smaller batch_size" if tuning.batch_size > 1 else "a shorter context, or train.method=lora"
        if tuning.batch_size == 1 and tuning.method != "full":
            mend = "a shorter context, or a smaller model"
        raise UserError(
            f"memory: a step of {step.tokens:,} tokens needs about {after / GIB:.1f} GiB even with "
            f"{', '.join(names) or 'every lever that works here'}, and {limit / GIB:.1f} GiB may be filled: "
            f"{(after - limit) / GIB:.1f} GiB are missing; take {mend}"
        )
    sentences.append(
        f"memory: levers {', '.join(names) or 'none'} ({'auto' if tuning.memory == 'auto' else 'the recipe'}); "
        f"a step of {step.tokens:,} tokens peaks at about {after / GIB:.1f} GiB (without levers {before / GIB:.1f}), "
        f"{limit / GIB:.1f} may be filled"
    )
    return Levers(names, tuple(sentences), before, after, limit)


def _host_bytes() -> int:
    import torch

    return room_bytes(torch.device("cpu"))


# ------------------------------------------------------------------------------------------------- applying


def apply_levers(model: "torch.nn.Module", levers: Levers, spill_folder: Path, compute_bf16: bool) -> None:
    """Put the levers on a model, once, before a trainer is built on it; the Trainer's own checkpointing stays off.

    Args:
        model: On its device, its adapters attached.
        levers: From `choose_levers`; those of the optimizer have no part here but for the weights' type.
        spill_folder: Where offload_disk puts its files.
        compute_bf16: Whether autocast computes in bf16.

    Raises:
        UserError: The model has no part that a lever works on.
        DiskFailed: The spill folder cannot be made.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "bf16_weights" in levers:
        to_bf16(model, compute_bf16)
    if compute_bf16:
        narrow_stream(model)
        leave_casts_to_autocast(model)
    keep_angles_whole(base)
    if "compile" in levers:
        compile_parts(base)
    if "tiled_mlp" in levers:
        tile_layers(base)
    if "checkpointing" in levers:
        store: Store | None = DiskStore(spill_folder) if "offload_disk" in levers else None
        if "offload_host" in levers:
            store = HostStore()
        checkpoint_layers(base, "recompute_attention" in levers, store)
