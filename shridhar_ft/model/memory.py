"""Which levers a step needs to fit, and how they are put on a model (levers.py says what each is)."""

import ctypes
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.model.bf16_weights import to_bf16
from shridhar_ft.model.checkpointing import checkpoint_layers
from shridhar_ft.model.compiling import compile_parts
from shridhar_ft.model.estimate import Sizes, kept_bytes, model_sizes, peak_bytes
from shridhar_ft.model.free_memory import room_bytes
from shridhar_ft.model.levers import Levers, check_levers, sharding
from shridhar_ft.model.offload import DiskStore, HostStore, Store
from shridhar_ft.model.precision import faster_precision
from shridhar_ft.model.tiled_mlp import tile_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

GIB = 1 << 30
FILLED = 0.9  # of what is free: the formula is right to about a seventh
WORTH = 0.01  # share of the peak that a lever must save to be turned on

# The cheapest first. On a CPU a layer takes seconds and its tensors' way to a disk a fraction of one; a GPU has a layer
# done before a disk has turned, but pinned host memory keeps up with it.
EXACT: dict[str, tuple[Lever, ...]] = {
    "cpu": ("tiled_mlp", "checkpointing", "offload_disk", "recompute_attention"),
    "mps": ("tiled_mlp", "checkpointing", "recompute_attention", "offload_disk"),
    "cuda": ("tiled_mlp", "checkpointing", "offload_host", "recompute_attention"),
}
COSTS: dict[Lever, str] = {
    "tiled_mlp": "the MLP's forward once more, or nothing where checkpointing computes it again anyway",
    "checkpointing": "each layer's forward once more, attention left out",
    "offload_host": "copies over the bus",
    "offload_disk": "each layer's input and attention written and read once",
    "recompute_attention": "attention's forward once more",
    "adamw_8bit": "a slower update, and other numbers: moments of one byte",
    "bf16_weights": "other numbers: weights and moments of two bytes, updates rounded stochastically",
}
M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE = 4 << 20  # bytes


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
        Names in the order in which they were turned on, sentences on each and on the estimate, which knows nothing of
        sharding (ZeRO, FSDP): there it is an upper bound.

    Raises:
        UserError: Levers that do not go together, or a step that no lever makes fit.
    """
    size = model_sizes(tuning, config, trainable)
    bf16 = tuning.precision == "bf16" or (tuning.precision == "auto" and faster_precision(device)[0])
    tokens = window * tuning.batch_size
    limit = free_bytes
    if limit is None:
        limit = int(tuning.memory_limit * GIB if tuning.memory_limit else FILLED * room_bytes(device))

    def peak(names: tuple[Lever, ...]) -> int:
        return peak_bytes(size, tuning, tokens, names, bf16, device.type)

    if tuning.memory == "auto":
        names, sentences = _as_needed(tuning, size, tokens, bf16, device, limit)
    else:
        names, sentences = tuple(tuning.memory), []
        check_levers(names, tuning, device)
    before, after = peak(()), peak(names)
    if sharding() is None and tuning.memory == "auto" and after > limit:
        mend = "a smaller batch_size" if tuning.batch_size > 1 else "a shorter context, or train.method=lora"
        if tuning.batch_size == 1 and tuning.method != "full":
            mend = "a shorter context, or a smaller model"
        raise UserError(
            f"memory: a step of {tokens:,} tokens needs about {after / GIB:.1f} GiB even with "
            f"{', '.join(names) or 'every lever that works here'}, and {limit / GIB:.1f} GiB may be filled: "
            f"{(after - limit) / GIB:.1f} GiB are missing; take {mend}"
        )
    sentences.append(
        f"memory: levers {', '.join(names) or 'none'} ({'auto' if tuning.memory == 'auto' else 'the recipe'}); "
        f"a step of {tokens:,} tokens peaks at about {after / GIB:.1f} GiB (without levers {before / GIB:.1f}), "
        f"{limit / GIB:.1f} may be filled"
    )
    return Levers(names, tuple(sentences), before, after, limit)


def _as_needed(
    tuning: Tuning, size: Sizes, tokens: int, bf16: bool, device: "torch.device", limit: int
) -> tuple[tuple[Lever, ...], list[str]]:
    """Turn on one lever after another until the step fits; exact ones first, those that save nothing left out."""

    def peak(names: tuple[Lever, ...]) -> int:
        return peak_bytes(size, tuning, tokens, names, bf16, device.type)

    names: tuple[Lever, ...] = ()
    sentences: dict[Lever, str] = {}
    order = EXACT.get(device.type, EXACT["cpu"])
    if device.type == "cuda" and kept_bytes(size, tokens, bf16, device.type) > 0.5 * _host_bytes():
        order = tuple("offload_disk" if name == "offload_host" else name for name in order)
    inexact: tuple[Lever, ...] = ("adamw_8bit", "bf16_weights")
    if sharding() is not None:  # it divides weights and moments itself, by how much this formula cannot know
        inexact = ()
    for name in (*order, *inexact):
        with_it = (*names, name)
        if name == "bf16_weights" and tuning.method == "full":
            with_it = (*(other for other in names if other != "adamw_8bit"), name)  # it brings its own AdamW
        if peak(names) <= limit:
            break
        if not size.tiles and name == "tiled_mlp":
            continue
        if not _goes(with_it, tuning, device):
            continue
        saved = peak(names) - peak(with_it)
        if saved > WORTH * peak(names):
            names = with_it
            sentences[name] = f"memory: {name} saves {saved / GIB:.1f} GiB; its cost: {COSTS[name]}"
    return names, [sentences[name] for name in names]


def _goes(names: tuple[Lever, ...], tuning: Tuning, device: "torch.device") -> bool:
    try:
        check_levers(names, tuning, device)
    except UserError:
        return False
    return True


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
    """Make Linux's glibc give large tensors back when they die, in pages of 2 MiB; call it before the first tensor.

    glibc's own habit is to keep tensors of up to 32 MiB in a heap, where those that stay lie between those that went:
    30 million parameters at 4,096 tokens peaked at 1.97 GB, and at 1.28 GB with this, for 2% more processor time.
    Tensors fresh from the system come zeroed page by page; at 4 KiB a page that takes five times as long as a norm's
    arithmetic, at 2 MiB half of that. (Keeping all freed memory is the fastest, and fragments: 1.9 GB became 2.8.)
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
