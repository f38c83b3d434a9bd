"""SIGTERM, Ctrl-C and a limit of time are the same wish: stop cleanly, so that the same command can go on."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shridhar_ft.errors import Resumable

STARTED = "SHRIDHAR_FT_STARTED"  # when `shridhar-ft run` began, for the processes that it starts
_STARTED_HERE = time.monotonic()


def since_start() -> float:
    """Seconds since the command began: this process, or the `run` that started it on this machine.

    The clock is the system's monotonic one, which processes share and nobody sets.
    """
    return time.monotonic() - started()


def started() -> float:
    """When the command began, on the system's monotonic clock; the same number in every process of the command."""
    return float(os.environ.get(STARTED, _STARTED_HERE))


def pass_start_on() -> dict[str, str]:
    """What tells the processes that this one starts when it began itself."""
    return {STARTED: repr(started())}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def stoppable(doing: str) -> Iterator[None]:
    """Turn SIGTERM and SIGINT inside the block into `Resumable`; what trains takes the signals over while it does.

    Args:
        doing: What is stopped, for the sentence.

    Raises:
        Resumable: A signal came.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Resumable(f"{doing}: stopped; finished parts and checkpoints stay as they are") from error
    finally:
        signal.signal(signal.SIGTERM, before)
