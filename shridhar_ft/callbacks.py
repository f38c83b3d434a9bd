"""What happens beside the steps of a training: the vote that stops all ranks at once, the plateau, the log."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shridhar_ft.config_training import Plateau
from shridhar_ft.durations import seconds
from shridhar_ft.monitoring.board import Board
from shridhar_ft.monitoring.live import Live
from shridhar_ft.progress import TrainingProgress
from shridhar_ft.signals import since_start
from shridhar_ft.spending import Spending
from shridhar_ft.votes import highest

STOP, SPENT = 1, 2  # what a rank votes for; the higher one is what all do


class StopVote(TrainerCallback):
    """On SIGTERM, SIGINT, after a limit of time or of money all ranks save at the next step boundary and stop.

    A second signal stops at once, in the middle of a save too: without its manifest that one does not count, and the
    checkpoint before it does.
    """

    def __init__(self, stop_after: str | None = None, spending: Spending | None = None) -> None:
        """
        Args:
            stop_after: Time after the start of the command, e.g. `11h30m`.
            spending: What the run has cost, where there is a limit to it.
        """
        self.stop_after, self.spending = stop_after, spending
        self.asked: str | None = None
        self.stopped = self.spent = False
        self.previous: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        for number in (signal.SIGTERM, signal.SIGINT):
            self.previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        for asked, handler in self.previous.items():
            signal.signal(asked, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self._vote(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self._vote(args, state, control)  # the save of this step comes after its evaluation; no further step is needed

    def _vote(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if self.asked is None and self.stop_after and since_start() > seconds(self.stop_after):
            self.asked = f"train.stop_after ({self.stop_after})"
        level = STOP if self.asked else 0
        if self.spending:
            self.spending.keep()
            level = SPENT if self.spending.over else level
        if agreed := highest(level, args.device, args.world_size):
            self.spent = agreed == SPENT
            self.asked = self.asked or "another process"
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.release()

    def release(self) -> None:
        """Give the signals back; after an error nothing else does."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()


class StopAtPlateau(TrainerCallback):
    """Ends a part whose validation loss no longer falls; what it knows is in the trainer's log, as a resume has it."""

    def __init__(self, plateau: Plateau, tell: Callable[[str], None]) -> None:
        """
        Args:
            plateau: How long to wait, and what counts as falling.
            tell: Told when it ends the part.
        """
        self.plateau, self.tell = plateau, tell

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        if at_plateau(state.log_history, self.plateau):
            self.tell(
                f"step {state.global_step}: {self.plateau.evaluations} evaluations without an improvement of "
                f"{self.plateau.improvement:g}; this part ends here"
            )
            control.should_save = control.should_training_stop = True


def at_plateau(log_history: list[dict[str, Any]], plateau: Plateau) -> bool:
    """Whether the last evaluations all failed to fall below the best before them."""
    losses = [entry["eval_loss"] for entry in log_history if "eval_loss" in entry]
    best, since = float("inf"), 0
    for loss in losses:
        best, since = (loss, 0) if loss < best - plateau.improvement else (best, since + 1)
    return since >= plateau.evaluations


class Metrics(TrainerCallback):
    """Writes metrics.jsonl, one line a log, and shows the figures everywhere; a resume drops lines after its step."""

    def __init__(
        self,
        file: Path,
        progress: TrainingProgress,
        tokens_seen: Callable[[], int],
        live: Live,
        board: Board,
        peak: Callable[[], int],
    ) -> None:
        """
        Args:
            file: The part's metrics.jsonl.
            progress: Where figures are shown.
            tokens_seen: Tokens that this process has read since it started.
            live: The file that `shridhar-ft status` reads.
            board: TensorBoard's files.
            peak: Bytes at the peak so far.
        """
        self.file, self.progress, self.tokens_seen = file, progress, tokens_seen
        self.live, self.board, self.peak = live, board, peak
        self.last_time, self.last_tokens = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.progress.begin(state.global_step, state.max_steps)
        self.last_time, self.last_tokens = time.monotonic(), self.tokens_seen()
        if state.is_world_process_zero:
            lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
            kept = [line for line in lines if state.global_step and 0 < _step_of(line) <= state.global_step]
            self.file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            self.live.begin(state.global_step, state.max_steps)
            self.board.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.progress.step(state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.last_time, self.last_tokens = time.monotonic(), self.tokens_seen()  # its time is not training's

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        logs = dict(logs or {})
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        told = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_by_position")
        kept: dict[str, Any] = {key: logs[key] for key in told if key in logs}
        now, tokens = time.monotonic(), self.tokens_seen()
        if "loss" in kept and now > self.last_time:
            kept["tokens_per_second"] = round((tokens - self.last_tokens) * args.world_size / (now - self.last_time), 1)
            self.last_time, self.last_tokens = now, tokens
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, "epoch": round(state.epoch or 0, 4), **kept}) + "\n")
        self.progress.figures(state.global_step, kept)
        self.live.figures_at(state.global_step, kept, self.peak())
        self.board.figures(state.global_step, kept)


def _step_of(line: str) -> int:
    """Step of a line of metrics.jsonl; 0 for one that a full disk cut short."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return 0
