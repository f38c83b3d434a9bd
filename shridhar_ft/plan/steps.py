"""Steps and epochs that a recipe's limits make of its windows, and what is known of how much text is enough.

extension of context    published ones read 0.5 to 40 billion tokens: 0.5 to 5 (Fu et al. 2024, arXiv 2402.10171),
                        10 (LongRoPE2: Shang et al. 2025, arXiv 2502.20082), 40 (ProLong: Gao et al. 2024,
                        arXiv 2410.02660)
adaptation to a domain  what less than that is
repeating               up to about 4 epochs are worth nearly as much as new text, beyond them little
                        (Muennighoff et al. 2023, arXiv 2305.16264)
dialogues               1,000 careful conversations taught a base its manner (LIMA: Zhou et al. 2023,
                        arXiv 2305.11206)
"""

from math import ceil
from typing import Any

from shridhar_ft.config_training import Replay, Tuning

SMALLEST_EXTENSION = 500_000_000  # tokens
WORTH_REPEATING = 4  # epochs
ENOUGH_CONVERSATIONS = 1000
NOTHING = "its only step is the first of the warm-up, at a learning rate of zero: nothing is trained; set warmup: 0"
FEW_STEPS = 20  # fewer, and warm-up and decay are a step or two each


def schedule(tuning: Tuning, windows: int, window: int, processes: int) -> dict[str, Any]:
    """Optimizer steps and epochs that the limits make of so many windows of so many tokens; the nearest decides.

    Args:
        tuning: Batch size, accumulation, limits.
        windows: Train windows.
        window: Tokens of one.
        processes: Windows that are read at once for batch_size 1.
    """
    per_step = tuning.batch_size * tuning.gradient_accumulation * processes
    epochs = tuning.max_epochs or (None if tuning.max_steps or tuning.max_tokens else 1.0)
    by_epochs = ceil(ceil(windows / per_step) * epochs) if epochs else None
    by_tokens = ceil(tuning.max_tokens / (per_step * window)) if tuning.max_tokens else None
    steps = min(limit for limit in (by_epochs, tuning.max_steps, by_tokens) if limit is not None)
    if steps != by_epochs:
        epochs = round(steps * per_step / windows, 2) if windows else 0.0
    return {"windows_per_step": per_step, "steps": steps, "epochs": epochs}


def trains_nothing(tuning: Tuning, steps: int | None, goes_on: bool) -> bool:
    """Whether the only step is the first of the warm-up, whose learning rate is zero.

    Args:
        tuning: The part's.
        steps: Its optimizer steps; None is not known.
        goes_on: Whether it goes on with the schedule of the stage before.
    """
    return steps == 1 and tuning.warmup > 0 and not goes_on


def evaluated_every(tuning: Tuning, steps: int) -> int:
    """Optimizer steps between measurements on the validation split, in a part of so many."""
    return tuning.evaluate_every or max(1, steps // 10)


def saved_every(tuning: Tuning, steps: int) -> int:
    """Optimizer steps between checkpoints; where the best one is kept, each measurement has one."""
    every = evaluated_every(tuning, steps)
    return every if tuning.keep == "best" else tuning.save_every or every


def replay_windows(windows: int, replay: Replay) -> int:
    """How many windows of short pieces join so many long ones, so that they are the wanted share of all."""
    return max(1, round(windows * replay.share / (1 - replay.share))) if windows else 0
