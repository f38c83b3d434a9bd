"""The processes of a rehearsal: started as a user starts them, watched, killed, and always gone at the end."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BOUND = 3600  # seconds after which a child counts as hung: a rehearsal takes minutes, on a busy machine many
GRACE = 30  # seconds to end after SIGTERM
POLL = 0.01
Watch = Callable[["Child"], None]


@dataclass
class Child:
    """One command."""

    process: subprocess.Popen[bytes]
    log: Path

    def terminate(self) -> None:
        self.process.terminate()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None
    """Exit status, negative for a signal; None for one that hung and was killed."""
    text: str
    """What it said."""
    log: Path

    @property
    def last_word(self) -> str:
        """The sentence that it left, for a table."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        own = [line.removeprefix("shridhar-ft: ") for line in lines if line.startswith("shridhar-ft: ")]
        if self.status is None:
            return f"it hung and was ended ({self.log})"
        own = [line for line in own if not line.startswith("to go on: ")]
        return f"{own[-1] if own else (lines or ['it said nothing'])[-1]} ({self.log})"


def run_child(arguments: Sequence[str], log: Path, watch: Watch | None = None, bound: float = BOUND) -> Ended:
    """Run `python -m` with these arguments to its end.

    Args:
        arguments: Module and its arguments.
        log: Where its standard output and standard error go.
        watch: Called again and again while it runs; may kill what belongs to it.
        bound: Seconds after which it is ended, and counts as hung.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}  # what is not here is not downloaded
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C then reaches it through us
        )
        child, until = Child(process, log), time.monotonic() + bound
        try:
            while process.poll() is None and time.monotonic() < until:
                if watch is not None:
                    watch(child)
                time.sleep(POLL)
        finally:
            hung = process.poll() is None
            if hung:
                _end(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    return Ended(None if hung else process.returncode, text, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a command and what it started to end; kill what does not."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    for left in below:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    process.kill()
    process.wait()


def kill(processes: Sequence[psutil.Process]) -> int:
    """SIGKILL each; returns how many were there."""
    found = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            found += 1
    return found


def processor_seconds() -> float:
    """Processor time of all ended children so far, and of what they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
