"""Room on the disk for checkpoints: what one takes, and a refusal before the disk is full instead of after."""

import shutil
from pathlib import Path
from typing import Any

from shridhar_ft.checkpoint import checkpoints, damage, remove_unfinished, step_of
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import DiskFailed
from shridhar_ft.plan.levers import Levers
from shridhar_ft.progress import say

SMALL = 256 << 10  # bytes of a checkpoint's other files: tokenizer, states, manifest
HEADER = 200  # bytes a tensor that safetensors and torch.save spend on names and alignment


def checkpoint_bytes(model: Any, tuning: Tuning, levers: Levers) -> int:  # noqa: ANN401
    """Bytes that a checkpoint of this training takes: what it saves of the weights, and the optimizer's state.

    Args:
        model: The model, with its adapter under LoRA.
        tuning: Method and optimizer.
        levers: Those that make the optimizer's state smaller.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    full = tuning.method == "full"
    named = model.named_parameters(remove_duplicate=full)  # an adapter has a tied head beside its embeddings
    weights = sum(_bytes(parameter) + HEADER for _, parameter in named if full or parameter.requires_grad)
    return weights + sum(_moments(p, tuning, levers) + 2 * HEADER for p in trained) + SMALL


def check_room(folder: Path, each: int, keep: int, saves: int) -> None:
    """Refuse a training whose checkpoints the disk cannot hold, before its first step.

    Args:
        folder: The part's `checkpoints/`.
        each: Bytes of one.
        keep: Checkpoints that stay; one more is written before the oldest goes.
        saves: How often will be saved at all.

    Raises:
        DiskFailed: There is not enough room; says how much is needed.
    """
    number = max(0, min(keep + 1 - len(checkpoints(folder)), saves))
    need_room(folder, number * each, f"{number} more checkpoints of {_megabytes(each)}")


def need_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to write what does not fit; what an earlier process left unfinished goes first, where a whole one stands.

    Args:
        folder: Where it goes; it may not exist yet.
        needed: Bytes.
        what: Its name for the sentence.

    Raises:
        DiskFailed: There is not enough room; says how much is needed.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if shutil.disk_usage(there).free < needed:
        whole = next((step_of(one) for one in checkpoints(folder) if damage(one) is None), None)
        if whole is not None and (gone := remove_unfinished(folder, until=2**63)):
            say(f"{folder}: {', '.join(gone)} removed, to make room; checkpoint-{whole} is whole")
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DiskFailed(
            f"{folder}: {what} take {needed:,} bytes and {free:,} are free; make room, or lower "
            "train.keep_checkpoints, and run the same command again"
        )


def _bytes(parameter: Any) -> int:  # noqa: ANN401
    # Under ZeRO-3 a parameter is empty between its uses and knows its whole size.
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()


def _moments(parameter: Any, tuning: Tuning, levers: Levers) -> int:  # noqa: ANN401
    """Bytes of a parameter's state: two moments, of its own type but for the levers."""
    if tuning.optimizer == "adafactor":
        return 0  # rows and columns only
    if "adamw_8bit" in levers or "paged_adamw_8bit" in levers:
        return 2 * getattr(parameter, "ds_numel", parameter.numel())
    return 2 * _bytes(parameter)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
