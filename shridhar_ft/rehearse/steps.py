"""The steps of a rehearsal, each with its time and what came of it; the first that fails is the last.

small data → run, killed in its first part → run again, stopped by SIGTERM in the next → run to the end → eval
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shridhar_ft.checkpoint import MANIFEST, checkpoints, step_of
from shridhar_ft.config import Recipe
from shridhar_ft.errors import Resumable
from shridhar_ft.pipeline import training_processes
from shridhar_ft.plan.parts import parts_of
from shridhar_ft.receipts import read_receipts
from shridhar_ft.rehearse.children import Child, Ended, kill, processor_seconds, run_child
from shridhar_ft.runfolder import Run, part_of, read_json

CLI = "shridhar_ft.cli"
GOES_ON = re.compile(r"going on after step (\d+)")
LOOK_EVERY = 0.3  # seconds between looks at the process table


@dataclass
class Step:
    """One line of the transcript."""

    name: str
    ok: bool = False
    seconds: float | None = None
    """None for what was done within another step."""
    cpu_seconds: float | None = None
    why: str = ""


class Failed(Exception):
    """A step failed; its text says why."""


@dataclass
class Transcript:
    """The steps so far; told one by one."""

    tell: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(step.ok for step in self.steps)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Do one step, and put it down however it ends.

        Raises:
            Failed: It failed.
        """
        step = Step(name)
        began, used = time.monotonic(), processor_seconds()
        try:
            yield step
            step.ok = True
        except Failed as why:
            step.why = str(why)
            raise
        finally:
            step.seconds = round(time.monotonic() - began, 1)
            step.cpu_seconds = round(processor_seconds() - used, 1)
            self.note(step)

    def note(self, step: Step) -> None:
        """Put a step down."""
        self.steps.append(step)
        self.tell(step)


# ------------------------------------------------------------------------------------------------------ the run


def rehearse_run(recipe: Path, small: Recipe, run: Run, logs: Path, transcript: Transcript) -> None:
    """Train, kill, resume, stop, resume, export, and evaluate the small recipe.

    Args:
        recipe: Its file.
        small: It.
        run: Its run folder.
        logs: Where each command's output goes.
        transcript: Gets the steps.

    Raises:
        Failed: A step failed; the transcript holds it.
    """
    parts = [part.name for part in parts_of(small, 0)]
    first, second = parts[0], parts[min(1, len(parts) - 1)]
    arguments = [CLI, "run", str(recipe)]
    with transcript.step(f"data, tokenizer, {first}: killed (SIGKILL)") as step:
        killing = Killing(run.root / first)
        ended = run_child(arguments, logs / "run_1.log", killing)
        step.why = _killed(ended, killing, run, first)
    with transcript.step(f"resume {first}; {second}: stopped (SIGTERM)") as step:
        stopping = Stopping(run.root / second, killing.step if second == first else 0)
        ended = run_child(arguments, logs / "run_2.log", stopping)
        step.why = _stopped(ended, killing, stopping)
    with transcript.step(f"resume {second}, and all the rest") as step:
        ended = run_child(arguments, logs / "run_3.log")
        step.why = _ended(ended)
    for part in ("data", "tokenizer", *parts, "export"):
        transcript.note(_part(run, part))
    if not transcript.ok:
        raise Failed("a part's receipts do not hold")
    with transcript.step("eval (suite quick)") as step:
        ended = run_child([CLI, "eval", str(run.root), "--suite", "quick"], logs / "eval.log")
        if ended.status != 0:
            raise Failed(ended.last_word)
        results = read_json(run.root / "eval" / "results.json")
        step.why = f"{len(results['scores'])} scores" + "".join(
            f"; {task} not measured: {why}" for task, why in results["unmeasured"].items()
        )


class Killing:
    """Kills the training processes of a run as soon as a part has a whole checkpoint."""

    def __init__(self, part: Path) -> None:
        self.part = part
        self.processes: list[psutil.Process] = []
        self.looked = 0.0
        self.step = 0
        """Step of the checkpoint that stood when they were killed; 0: they were not."""
        self.killed = 0

    def __call__(self, child: Child) -> None:
        if self.step:
            return
        if self.part.is_dir() and not self.processes and time.monotonic() - self.looked > LOOK_EVERY:
            self.processes = training_processes(child.process.pid)
            self.looked = time.monotonic()
        if self.processes and (step := last_checkpoint(self.part)):
            self.step, self.killed = step, kill(self.processes)


class Stopping:
    """Sends SIGTERM to a run as soon as a part has a whole checkpoint beyond a step."""

    def __init__(self, part: Path, beyond: int) -> None:
        self.part, self.beyond = part, beyond
        self.step = 0

    def __call__(self, child: Child) -> None:
        if not self.step and (step := last_checkpoint(self.part)) > self.beyond:
            self.step = step
            child.terminate()


def last_checkpoint(part: Path) -> int:
    """Step of a part's last whole checkpoint; 0 where there is none."""
    return max((step_of(one) for one in checkpoints(part / "checkpoints") if (one / MANIFEST).is_file()), default=0)


def _killed(ended: Ended, killing: Killing, run: Run, part: str) -> str:
    if not killing.killed:
        what = "it ended before it could be killed: " if ended.status == 0 else ""
        raise Failed(what + ended.last_word)
    if ended.status == 0 or part_of(run.root / part) is not None:
        raise Failed(f"the part ended before its processes could be killed in its middle ({ended.log})")
    processes = f"{killing.killed} process{'es' if killing.killed > 1 else ''}"
    return f"{processes} after the checkpoint of step {killing.step}; status {ended.status}"


def _stopped(ended: Ended, killing: Killing, stopping: Stopping) -> str:
    went_on = GOES_ON.search(ended.text)
    if not stopping.step or ended.status != Resumable.status:
        raise Failed(f"status {ended.status} and not {Resumable.status}: {ended.last_word}")
    if not went_on or int(went_on[1]) < killing.step:
        raise Failed(f"it did not go on after the checkpoint of step {killing.step} ({ended.log})")
    return (
        f"went on after step {went_on[1]}; stopped after the checkpoint of step {stopping.step}; status {ended.status}"
    )


def _ended(ended: Ended) -> str:
    if ended.status != 0:
        raise Failed(f"status {ended.status}: {ended.last_word}")
    went_on = GOES_ON.search(ended.text)
    if not went_on:
        raise Failed(f"it did not go on after a checkpoint ({ended.log})")
    return f"went on after step {went_on[1]}; status 0"


def _part(run: Run, name: str) -> Step:
    """What a finished part left: seconds, losses, receipts."""
    part: dict[str, Any] = part_of(run.root / name) or {}
    receipts = {path: receipt for path, receipt in read_receipts(run.root).items() if path.startswith(f"{name}/")}
    bad = [path for path, receipt in receipts.items() if not receipt["ok"]]
    said = []
    losses = [(part.get(key) or {}).get("validation") for key in ("loss_before", "loss_after")]
    if None not in losses:
        said.append(f"validation loss {losses[0]:.3f} → {losses[1]:.3f}")
    if receipts:
        said.append(f"{len(receipts) - len(bad)} of {len(receipts)} receipts hold")
    if name == "export":
        said += [file.name for file in sorted((run.root / name).glob("*.gguf"))]
    said += bad
    took = f"{part['seconds']:.1f} s within the runs above" if "seconds" in part else "it left no part.json"
    return Step(f"  {name}", bool(part) and not bad, None, None, "; ".join([took, *said]))
