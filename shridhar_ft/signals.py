"""SIGTERM and Ctrl-C are the same wish: stop cleanly, so that the same command can go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shridhar_ft.errors import Resumable


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
