"""What a person sees while a part works: a live bar on a terminal, plain lines elsewhere; all of it on stderr."""

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

console = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One plain line for the user."""
    console.print(line, markup=False, soft_wrap=True)


def quiet(line: str) -> None:
    """Swallow a line: for ranks other than the first, whose lines would be the same."""


def hush_libraries() -> None:
    """Take away what the libraries print beside our own lines: their bars, and deprecations of their next major.

    Their warnings about settings and data stay.
    """
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for module in ("transformers", "trl", "accelerate", "peft"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    # The embeddings of new tokens are in the adapter because attach() put them there.
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`", module="peft")
    # DeepSpeed calls what torch has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")


# At its import bitsandbytes tells of a kernel that it did not fetch from the Hub; every command would begin with that.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

EVERY = 15  # seconds between lines where there is no terminal


def counted(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass items on and tell how many went by: live on a terminal, a line every quarter of a minute elsewhere.

    Args:
        items: What is read.
        what: Its name in the plural, e.g. `data.dialogues.0: conversations`.
        total: How many there are, where it is known and each takes its time: then the time to go is shown too.
    """
    known = "" if total is None else f" of {total:,}"
    bar = Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        TextColumn("{task.completed:,.0f}" + known),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if total is not None else []),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task(what, total=total)
    number, told = 0, time.monotonic()
    with bar:
        for item in items:
            yield item
            number += 1
            if total is not None or number % 256 == 0:
                bar.update(task, completed=number)
                if not console.is_terminal and time.monotonic() - told > EVERY:
                    say(f"{what}: {number:,}{known} so far")
                    told = time.monotonic()


class TrainingProgress:
    """Stage, step, loss, tokens/s and time to go; a context manager around one training."""

    def __init__(self, part: str, show: bool = True) -> None:
        """
        Args:
            part: Name of the stage, or `sft`.
            show: False on ranks other than the first.
        """
        self.part, self.steps, self.show = part, 0, show
        self.live = show and console.is_terminal
        self.started = time.monotonic()
        self.first_step = 0
        self.latest: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(part, total=None, figures="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin(self, step: int, steps: int) -> None:
        """Training (re)starts after this many of so many steps."""
        self.first_step, self.steps, self.started = step, steps, time.monotonic()
        self.bar.update(self.task, completed=step, total=steps)

    def step(self, step: int) -> None:
        """A step is done."""
        self.bar.update(self.task, completed=step)

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """New figures: loss, tokens_per_second, eval_loss, whichever there are."""
        self.latest |= figures
        self.bar.update(self.task, completed=step, figures=_line(self.latest))
        if self.show and not self.live:
            say(f"{self.part} · step {step}/{self.steps} · {_line(figures)} · {self._to_go(step)} to go")

    def _to_go(self, step: int) -> str:
        done = step - self.first_step
        if done <= 0:
            return "?"
        seconds = int((time.monotonic() - self.started) / done * (self.steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _line(figures: dict[str, float]) -> str:
    texts = {"loss": "loss {:.4f}", "eval_loss": "validation loss {:.4f}", "tokens_per_second": "{:,.0f} tokens/s"}
    return " · ".join(text.format(figures[key]) for key, text in texts.items() if key in figures)


def print_error(sentence: str) -> None:
    """The one sentence that an ended command leaves."""
    print(f"shridhar-ft: {sentence}", file=sys.stderr)
