"""Ends a training that no longer moves: a hung rank, a reader that waits for a dead disk."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shridhar_ft.durations import seconds
from shridhar_ft.errors import Resumable
from shridhar_ft.progress import print_error
from shridhar_ft.runfolder import Run


class Watchdog(TrainerCallback):
    """A thread that writes down where every thread stands, and ends the process, when no step ends for too long.

    The process is ended outright: what hangs cannot be asked to leave. The last checkpoint stands, so the status is
    that of a stopped training. A main thread that hangs without letting go of Python's lock is out of its reach.
    """

    def __init__(self, after: str, run: Run, part: str, folder: Path) -> None:
        """
        Args:
            after: Longest time between two signs of life, e.g. `6h`.
            run: Whose status file is written.
            part: Name of the stage, or `sft`.
            folder: The part's; the stacks are written there.
        """
        self.after, self.run, self.part, self.folder = after, run, part, folder
        self.rank = 0
        self.ended = threading.Event()
        self.alive = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.alive, self.rank = time.monotonic(), args.process_index
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _beat(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.alive = time.monotonic()

    on_substep_end = on_step_end = on_evaluate = on_save = _beat

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.ended.set()

    def stop(self) -> None:
        """No longer watch; for a training that ended by an error."""
        self.ended.set()

    def _watch(self) -> None:
        limit = seconds(self.after)
        while not self.ended.wait(min(limit / 10, 60)):
            if time.monotonic() - self.alive > limit:
                self._end()

    def _end(self) -> None:
        stacks = self.folder / f"stalled_rank{self.rank}.txt"
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file)
        sentence = (
            f"{self.part}: no step ended for {self.after} (train.stall_after), so the process was ended; the last "
            f"checkpoint stands, and {stacks} says where every thread stood"
        )
        again = f"shridhar-ft run {self.run.root / 'recipe.yaml'}"
        # Here and not where other ends are written: the main thread, which would do it, is what hangs.
        self.run.status(Resumable.status, "sft" if self.part == "sft" else "pretrain", sentence, resume=again)
        print_error(sentence)
        print_error(f"to go on: {again}")
        sys.stderr.flush()
        os._exit(Resumable.status)
