"""Turns an allocation that failed into one sentence: length, batch, peak, and the smallest change that helps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.errors import OutOfMemory
from shridhar_ft.model.estimate import model_sizes
from shridhar_ft.plan.choosing import EXACT, Step
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.plan.levers import Levers
from shridhar_ft.plan.memory import GIB
from shridhar_ft.runfolder import peak_rss_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# torch says so on a CPU in a plain RuntimeError.
_SIGNS = ("DefaultCPUAllocator", "can't allocate memory", "out of memory", "Cannot allocate memory")


@contextmanager
def memory_errors(
    part: str,
    tuning: Tuning,
    window: int,
    levers: Levers,
    bf16: bool,
    config: "PreTrainedConfig",
    device: torch.device,
) -> Iterator[None]:
    """Turn a failed allocation inside the block into `OutOfMemory`; nothing is changed by itself.

    Args:
        part: Name of the stage, or `sft`.
        tuning: The part's.
        window: Tokens of a window.
        levers: Those that are on.
        bf16: Whether matrix products run in bf16.
        config: The model's.
        device: Where it trains.

    Raises:
        OutOfMemory: An allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()
        mend = smallest_change(tuning, window, levers, bf16, config, device)
        raise OutOfMemory(
            f"{part}: out of memory with windows of {window:,} tokens, batch_size {tuning.batch_size}, levers "
            f"{', '.join(levers.names) or 'none'}, at a peak of {peak / GIB:.2f} GiB so far; {mend}, and run the same "
            "command again: it goes on from the last checkpoint"
        ) from error


def smallest_change(
    tuning: Tuning, window: int, levers: Levers, bf16: bool, config: "PreTrainedConfig", device: torch.device
) -> str:
    """The change that costs least and needs less memory: an exact lever, then a smaller batch, then a shorter window.

    Args:
        tuning: The part's.
        window: Tokens of a window.
        levers: Those that are on.
        bf16: Whether matrix products run in bf16.
        config: The model's.
        device: Where it trains.
    """
    step = Step(model_sizes(tuning, config), tuning, window * tuning.batch_size, bf16, device.type, layout_here())

    def peak(names: tuple[Lever, ...], tokens: int) -> int:
        return replace(step, tokens=tokens).peak(names)

    tokens = step.tokens
    for name in EXACT.get(device.type, EXACT["cpu"]):
        names = (*levers.names, name)
        if name in levers or not step.goes(names):
            continue
        if (saved := peak(levers.names, tokens) - peak(names, tokens)) > 0:
            return f"set memory to [{', '.join(names)}], which saves about {saved / GIB:.2f} GiB and changes no number"
    if tuning.batch_size > 1:
        half = tuning.batch_size // 2
        times = tuning.batch_size / half * tuning.gradient_accumulation
        same = f" and gradient_accumulation to {times:g}, the same windows a step" if times == int(times) else ""
        saved = peak(levers.names, tokens) - peak(levers.names, window * half)
        return (
            f"set batch_size to {half}{same} (--allow batch_size,gradient_accumulation), which saves about "
            f"{saved / GIB:.2f} GiB"
        )
    saved = peak(levers.names, tokens) - peak(levers.names, tokens // 2)
    return (
        f"halve the context to {window // 2:,}, which saves about {saved / GIB:.2f} GiB and begins the part anew, or "
        "take a smaller model"
    )
