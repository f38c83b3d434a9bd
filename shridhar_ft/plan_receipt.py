"""The plan receipt of a part: what was foretold of its memory, time and cost, and what came.

A wrong forecast stops nothing: the part is trained, and the line that tells of it says by how much.
"""

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.model.estimate import model_sizes
from shridhar_ft.plan.check import machine_here
from shridhar_ft.plan.choosing import Step
from shridhar_ft.plan.free_memory import room_bytes
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import Levers
from shridhar_ft.plan.memory import CONTEXT, GIB
from shridhar_ft.plan.parts import blockwise
from shridhar_ft.plan.work import step_seconds, step_work
from shridhar_ft.receipts import receipt_of
from shridhar_ft.runfolder import peak_rss_bytes, write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig

MEMORY_OFF = 0.2  # share by which a peak may exceed the forecast
WARMING = 1  # steps that are left out of the time: the first one allocates


class StepFigures(TrainerCallback):
    """Seconds of every optimizer step of this process, and its memory before the first and at the peak."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.seconds: list[float] = []
        self.before = self.peak = 0

    def begin(self, held: int) -> None:
        """Note the bytes that are held when training begins."""
        self.before = held

    def end(self, peak: int) -> None:
        """Note the peak of the training, in bytes."""
        self.peak = peak

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.begun = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.seconds.append(time.perf_counter() - self.begun)

    @property
    def typical(self) -> float | None:
        """Seconds of the middle one; None where no step was made."""
        kept = self.seconds[WARMING:] or self.seconds
        return median(kept) if kept else None


def foretold(
    recipe: Recipe,
    tuning: Tuning,
    config: "PreTrainedConfig",
    trained: int,
    window: int,
    levers: Levers,
    bf16: bool,
    windows: "Dataset",
    device: torch.device,
    layout: Layout,
) -> dict[str, Any]:
    """What the formulas say of a part, its levers and windows known: peak bytes by term, seconds of a step by term.

    Operations are those of one device in a step, recomputation among them; tokens those of all.

    Args:
        recipe: The whole recipe.
        tuning: The part's.
        config: The model's.
        trained: Trained parameters.
        window: Tokens of a window.
        levers: Those that are on.
        bf16: Whether matrix products run in bf16.
        windows: Train windows, for how long what stands by itself in them is.
        device: Where it trains.
        layout: Processes and what they share.
    """
    kind: Any = device.type
    machine = machine_here(kind, room_bytes(device), layout)
    step = Step(model_sizes(tuning, config, trained), tuning, window * tuning.batch_size, bf16, kind, layout)
    memory = step.footprint(levers.names)
    work = step_work(step.size, tuning, window, effective_length(windows), levers.names, kind, bf16, layout)
    local = -(-layout.processes // layout.nodes) if kind == "cpu" else 1
    seconds = step_seconds(work, step.size, machine, bf16, local)
    seconds["attention"] *= blockwise(recipe, machine)
    return {
        "peak_bytes": memory.peak,
        "peak_bytes_by_term": memory.device,
        "step_seconds": sum(seconds.values()),
        "step_seconds_by_term": seconds,
        "operations": work.operations * local,
        "tokens": window * tuning.batch_size * tuning.gradient_accumulation * layout.replicas,
        "peak_operations_per_second": max(machine.rates.matmul["bf16" if bf16 else "fp32"].values()),
        "rates": "calibrated" if machine.rates.measured else "guessed: run shridhar-ft plan --calibrate",
        "usd_per_hour": recipe.budget.usd_per_hour,
    }


def effective_length(windows: "Dataset") -> float:
    """Length of the documents that an average token stands in: what attention's cost goes by."""
    pieces = [length for lengths in windows["lengths"] for length in lengths]
    return sum(length**2 for length in pieces) / max(1, sum(pieces))


def peak_bytes(device: torch.device) -> int:
    """Peak so far: of the process since its part began, or of the GPU, CUDA's own context counted as foretold."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + CONTEXT
    return peak_rss_bytes()


def write_plan_receipt(file: Path, claimed: dict[str, Any], figures: StepFigures, hours: float, steps: int) -> str:
    """Write the receipt and return the line that tells of it.

    Args:
        file: receipts/plan.json of the part.
        claimed: From `foretold`.
        figures: Of this process.
        hours: That the part took, over all its processes' lives.
        steps: Optimizer steps that it made in all.
    """
    seconds, price, peak = figures.typical, claimed["usd_per_hour"], figures.peak
    over = peak / claimed["peak_bytes"] - 1
    late = None if seconds is None else seconds / claimed["step_seconds"] - 1
    foreseen = steps * claimed["step_seconds"] / 3600
    measured = {
        "peak_bytes": peak,
        "peak_off": over,
        "before_bytes": figures.before,
        "step_seconds": seconds,
        "step_off": late,
        "hours": hours,
        "usd": None if price is None else price * hours,
    }
    ok = over <= MEMORY_OFF
    cost = {"hours": foreseen, "usd": None if price is None else price * foreseen}
    told = f"the peak was {peak / GIB:.2f} GiB, foretold {claimed['peak_bytes'] / GIB:.2f} ({over:+.0%})"
    if late is not None:
        told += (
            f"; a step took {seconds:.2f} s, foretold {claimed['step_seconds']:.2f} ({late:+.0%}, {claimed['rates']})"
        )
    mend = f"{told}; the formulas do not know this model or setting well: leave more room than they ask for"
    write_json(file, receipt_of(file.stem, {**claimed, **cost}, measured, ok, mend))
    return f"plan: {told}"
