"""The process that copies a run while it trains: it looks at the run folder, and the training knows nothing of it.

    python -m shridhar_ft.backup.child RUN_FOLDER PLACE SECONDS

A process of its own, with the lowest claim to the processor: whatever a bucket's library does, it does not do it to the
training. What it has to say goes as JSON lines to the one that started it. It ends when its standard input does, with
that one however it ends, after a last look, and SECONDS later at the latest.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from shridhar_ft.backup.mirror import Mirror
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.runfolder import Run, only_one

LOOK_EVERY = 3.0  # seconds
LONGEST_WAIT = 300.0  # seconds between two tries while the training runs
LONGEST_WAIT_AT_END = 5.0


def main(arguments: list[str]) -> int:
    """Copy until standard input ends."""
    root, place, limit = Path(arguments[0]), arguments[1], float(arguments[2])
    os.nice(19)
    for number in (signal.SIGINT, signal.SIGTERM):  # the training gets them, and is waited for
        signal.signal(number, signal.SIG_IGN)
    closing = threading.Event()
    threading.Thread(target=_wait_for_end, args=(closing, limit), daemon=True).start()
    while True:  # the child of a run that was killed may still be at its last look
        with contextlib.suppress(UserError), only_one(Run(root), "backup"):
            return _copy(root, place, closing)
        if closing.wait(0.5):
            return 0


def _copy(root: Path, place: str, closing: threading.Event) -> int:
    mirror: Mirror | None = None
    failures, told = 0, None
    while True:
        last = closing.is_set()
        try:
            if mirror is None:
                mirror = Mirror(root, place, lambda line: _emit(say=line))
                mirror.check_owner()
                _emit(ready=True)
            mirror.update(last)
            failures = 0
        except UserError as error:
            _emit(refused=str(error))
            return 2
        except Exception as error:  # noqa: BLE001 - whatever a bucket's library raises; each is told, and tried again
            failures += 1
            longest = LONGEST_WAIT_AT_END if last else LONGEST_WAIT
            wait = min(2.0**failures, longest)
            _emit(say=f"backup: {_reason(error)}; trying again in {wait:.0f} s", trouble=_reason(error))
        if mirror is not None and (pending := mirror.pending()) != told:
            _emit(pending=pending)
            told = pending
        if not failures:
            if last:
                _emit(done=True)
                return 0
            closing.wait(LOOK_EVERY)
        elif last:
            time.sleep(wait)
        else:
            closing.wait(wait)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def _wait_for_end(closing: threading.Event, limit: float) -> None:
    sys.stdin.buffer.read()
    closing.set()
    time.sleep(limit)
    os._exit(3)  # a library that hangs cannot be asked to leave


def _emit(**event: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Tell the one that started this; nobody listens any more when it was killed."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
