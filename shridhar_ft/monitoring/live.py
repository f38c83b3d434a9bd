"""live.json: where a training stands, for `shridhar-ft status`; written at logging steps, a few seconds apart.

It is replaced by a rename and not pushed to the disk: a busy disk would make the training wait, and after a loss of
power nobody asks for it.
"""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shridhar_ft.runfolder import PART, read_json, write_json

LIVE = "live.json"
EVERY = 5.0  # seconds between two writes: one takes a millisecond or two


def read_live(root: Path) -> dict[str, Any] | None:
    """live.json of a run, or None where nothing has trained yet."""
    file = root / LIVE
    return read_json(file) if file.is_file() else None


def seconds_of_parts(root: Path) -> float:
    """Seconds that the finished parts of a run took, its data and tokenizer among them."""
    found = [*root.glob(f"*/{PART}"), *root.glob(f"stages/*/{PART}")]
    return sum(float(read_json(path).get("seconds", 0)) for path in found)


class Live:
    """Keeps live.json of one part."""

    def __init__(self, root: Path, part: str, plan: dict[str, Any], spending: Any, spent: Any) -> None:  # noqa: ANN401
        """
        Args:
            root: The run folder.
            part: The part's name.
            plan: What was foretold of it: plan_receipt.foretold.
            spending: Has `usd_per_hour` and `usd`: price of the machines, and what the run has cost until now.
            spent: Has `seconds`: those of the part over all its processes' lives.
        """
        self.root, self.spending, self.spent = root, spending, spent
        self.fixed = {
            "part": part,
            "pid": os.getpid(),
            "host": platform.node(),
            "began": _now(),
            "usd_per_hour": spending.usd_per_hour,
            "seconds_of_other_parts": round(seconds_of_parts(root), 1),
            "planned_peak_bytes": plan["peak_bytes"],
            "planned_step_seconds": plan["step_seconds"],
            "rates": plan["rates"],
        }
        self.share_a_token = plan["operations"] / plan["tokens"] / plan["peak_operations_per_second"]
        self.figures: dict[str, float] = {}
        self.written = float("-inf")
        self.first_step = self.steps = 0
        self.began = time.monotonic()

    def begin(self, step: int, steps: int) -> None:
        """Training (re)starts after this many of so many steps."""
        self.first_step, self.steps, self.began = step, steps, time.monotonic()
        self.write(step, None)

    def figures_at(self, step: int, figures: dict[str, Any], peak_bytes: int) -> None:
        """New figures of a logging step.

        Args:
            step: Optimizer steps made.
            figures: What metrics.jsonl gets.
            peak_bytes: Memory at the peak so far.
        """
        self.figures |= {key: value for key, value in figures.items() if isinstance(value, int | float)}
        if time.monotonic() - self.written >= EVERY or step >= self.steps:
            self.write(step, peak_bytes)

    def write(self, step: int, peak_bytes: int | None) -> None:
        """Put the file in place."""
        made, took = step - self.first_step, time.monotonic() - self.began
        each = took / made if made else None  # evaluations and saves included
        tokens = self.figures.get("tokens_per_second")
        value = {
            **self.fixed,
            "at": _now(),
            "step": step,
            "steps": self.steps,
            "first_step": self.first_step,
            "seconds": round(self.spent.seconds, 1),
            "usd": round(self.spending.usd, 4),
            "step_seconds": each,
            "eta_seconds": None if each is None else round(each * (self.steps - step), 1),
            "peak_bytes": peak_bytes,
            "share_of_peak": None if tokens is None else tokens * self.share_a_token,
            "figures": self.figures,
        }
        write_json(self.root / LIVE, value, durable=False)
        self.written = time.monotonic()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
