"""How the small recipe trains: as the real one as far as this machine can, a few steps of it."""

from typing import Any

from shridhar_ft.config_training import LIMITS, Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import check_levers
from shridhar_ft.rehearse.small import Laptop, Shrunk, change

STEPS = (32, 16, 4)
"""Optimizer steps of the part that is killed, of the one that is stopped by a signal, and of each other part."""
SAVE_EVERY = 4  # steps
TOKENS_A_PASS, TOKENS_A_STEP = 16_384, 32_768


def limits(key: str, tuning: Tuning, number: int, small: Shrunk) -> dict[str, Any]:
    """A few steps, whatever limited the part; saved and measured often enough to be stopped in the middle."""
    steps = STEPS[min(number, len(STEPS) - 1)]
    real = {name: value for name in LIMITS if (value := getattr(tuning, name)) is not None} or {"max_epochs": 1}
    said = ", ".join(f"{name}: {value:,g}" for name, value in real.items())
    change(small, f"{key}.max_steps", said, steps, "minutes")
    every = {"save_every": SAVE_EVERY, "evaluate_every": steps}
    for name, value in every.items():
        change(small, f"{key}.{name}", getattr(tuning, name), value, "to be stopped in the middle")
    return {**dict.fromkeys(LIMITS), "max_steps": steps, **every}


def batch(key: str, tuning: Tuning, window: int, small: Shrunk) -> dict[str, int]:
    """Batch and accumulation as they are, unless a step of the small windows were still too long for minutes."""
    size = min(tuning.batch_size, max(1, TOKENS_A_PASS // window))
    accumulation = min(tuning.gradient_accumulation, max(1, TOKENS_A_STEP // (size * window)))
    why = "a step of minutes"
    return {
        "batch_size": change(small, f"{key}.batch_size", tuning.batch_size, size, why),
        "gradient_accumulation": change(
            small, f"{key}.gradient_accumulation", tuning.gradient_accumulation, accumulation, why
        ),
    }


def tuning_here(key: str, tuning: Tuning, laptop: Laptop, layout: Layout, small: Shrunk) -> dict[str, Any]:
    """Method and levers as far as this machine has them; the log line by line."""
    method = tuning.method
    if method == "qlora" and not laptop.bitsandbytes:
        method = "lora"
        small.untried.append(f"{key}.method: qlora needs bitsandbytes, which is not installed here; lora is taken.")
    return {
        "method": method,
        "memory": levers(f"{key}.memory", tuning, laptop, layout, small),
        "log_every": change(small, f"{key}.log_every", tuning.log_every, 1, "there are few steps"),
    }


def levers(key: str, tuning: Tuning, laptop: Laptop, layout: Layout, small: Shrunk) -> str | list[str]:
    """The levers of the recipe that this machine has; those that it has not are named."""
    if tuning.memory == "auto":
        return "auto"
    kept: list[Any] = []
    for lever in tuning.memory:
        try:
            if lever == "adamw_8bit" and not laptop.bitsandbytes:
                raise UserError("memory: adamw_8bit needs bitsandbytes, which is not installed here")
            check_levers((*kept, lever), tuning, laptop.device, layout.shards_name)
        except UserError as why:
            small.untried.append(f"{key}: {lever} is not tried here ({why}).")
        else:
            kept.append(lever)
    return kept
