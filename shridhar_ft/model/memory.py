"""Which levers a step needs to fit, and how they are put on a model (what each is: levers.py)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.model.bf16_weights import to_bf16
from shridhar_ft.model.checkpointing import checkpoint_layers
from shridhar_ft.model.compiling import compile_parts
from shridhar_ft.model.levers import Levers, check_levers
from shridhar_ft.model.offload import DiskStore, HostStore, Store
from shridhar_ft.model.tiled_mlp import tile_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

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
        tuning: `memory` and `memory_limit`, method, batch size.
        config: The model's config with its sizes.
        window: Tokens of a window.
        device: Where it trains.
        trainable: Trained parameters, where they are known (default: all, or LoRA's by its rank and targets).
        free_bytes: What may be filled (default: `memory_limit`, or nine tenths of what is free).

    Returns:
        Names in the order in which they were turned on, a sentence for each, the estimate before and after.

    Raises:
        UserError: Levers that do not go together, or a step that no lever makes fit.
    """
    names: tuple[Lever, ...] = tuple(tuning.memory) if tuning.memory != "auto" else ()
    check_levers(names, tuning, device)
    return Levers(names)


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
    if "compile" in levers:
        compile_parts(base)
    if "tiled_mlp" in levers:
        tile_layers(base)
    if "checkpointing" in levers:
        store: Store | None = DiskStore(spill_folder) if "offload_disk" in levers else None
        if "offload_host" in levers:
            store = HostStore()
        checkpoint_layers(base, "recompute_attention" in levers, store)


def use_huge_pages() -> None:
    """Ask Linux for pages of 2 MiB for large tensors; to be called before the process's first tensor.

    A tensor above 32 MiB comes fresh from the system every time, page by page, zeroed: with pages of 4 KiB that takes
    five times as long as a norm's arithmetic. Torch reads the variable once. Keeping freed memory in the process instead
    (mallopt) is faster still, but fragments: a peak of 1.9 GB became 2.8.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
