"""Keeps a backup going beside a training: starts the process that copies, and waits for it at the end."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from shridhar_ft.backup.store import check_place, scheme_of
from shridhar_ft.config import Recipe
from shridhar_ft.durations import seconds
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import RUNS, Run

FIRST_ANSWER = 20  # seconds that a training waits for the place to be looked at
GRACE = 2  # seconds after the child's own limit


@contextmanager
def backing_up(recipe: Recipe, run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Copy the run to `train.backup` while the block runs, and wait for what is left when it ends, however it ends.

    Args:
        recipe: Names the place, or none.
        run: The run.
        say: Told what was copied, what failed, and at the end what is not there yet.

    Raises:
        UserError: The place cannot be written by what is installed, or holds another run of this name.
    """
    place = recipe.train.backup
    if place is None:
        yield
        return
    check_place(place, "train.backup")
    _refuse_the_run_itself(place, run.root)
    RUNS.mkdir(exist_ok=True)
    limit = seconds(recipe.train.backup_wait)
    command = [sys.executable, "-m", "shridhar_ft.backup.child", str(run.root), place, str(limit)]
    # A session of its own: Ctrl-C is meant for the training.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    heard = _Heard(child, say)
    try:
        heard.wait_for_first()
        yield
    finally:
        heard.finish(limit)


def _refuse_the_run_itself(place: str, root: Path) -> None:
    """A copy that lies where the run lies would take the run's own files for old copies, and remove them."""
    if scheme_of(place) is not None:
        return
    there, here = (Path(place) / root.name).resolve(), root.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise UserError(f"train.backup: {place} is where the run itself lies; name a folder outside of {root}")


class _Heard:
    """What the child has told so far."""

    def __init__(self, child: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
        self.child, self.say = child, say
        self.first = threading.Event()
        self.refused: str | None = None
        self.ready = self.done = False
        self.pending: list[str] = []
        self.trouble = "no answer"
        self.thread = threading.Thread(target=self._listen, args=(child.stdout,), name="backup", daemon=True)
        self.thread.start()

    def wait_for_first(self) -> None:
        """Until the place was looked at, or a limit.

        Raises:
            UserError: It is another run's.
        """
        self.first.wait(FIRST_ANSWER)
        if self.refused:
            raise UserError(self.refused)
        if not self.ready:
            self.say("backup: the place has not answered yet; the training begins, and it is tried again meanwhile")

    def finish(self, limit: float) -> None:
        """Let the child take its last look; says what it left."""
        if self.child.stdin:
            self.child.stdin.close()
        if self.refused:
            self.child.wait()
            return
        try:
            if self.pending:
                self.say(f"backup: waiting up to {limit:.0f} s for {', '.join(self.pending)}")
            self.child.wait(limit + GRACE)
        except subprocess.TimeoutExpired:
            pass  # told below
        except KeyboardInterrupt:
            self.say("backup: no longer waited for")
        finally:
            self.child.kill()
            self.child.wait()
        self.thread.join(GRACE)
        if not self.done:
            what = ", ".join(self.pending) or "the run's small files"
            self.say(f"backup: not copied yet: {what} ({self.trouble}); the next run of the same command copies it")

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            self.ready |= event.get("ready", False)
            self.done |= event.get("done", False)
            self.pending = event.get("pending", self.pending)
            self.trouble = event.get("trouble", self.trouble)
            if refused := event.get("refused"):
                if self.first.is_set():  # in the middle of a training it stops nothing
                    self.say(f"backup: {refused}")
                self.refused = refused
            if said := event.get("say"):
                self.say(said)
            if self.ready or self.refused:
                self.first.set()
        self.first.set()
