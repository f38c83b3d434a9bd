"""What is trained at one go: a stage or SFT, and the time that it has taken."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shridhar_ft.config_training import Tuning
from shridhar_ft.data.split import SplitName
from shridhar_ft.data.windows import Encoded, Layout
from shridhar_ft.runfolder import begin_peak_rss, fingerprint, read_json, write_json
from shridhar_ft.starting import Origin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainingPart:
    """One stage, or SFT."""

    name: str
    folder: Path
    tuning: Tuning
    context: int
    """Positions that it trains, in tokens."""
    layout: Layout
    """How documents become windows."""
    stage_index: int
    """Whose RoPE it has; −1 is the last stage's."""
    documents: Callable[[SplitName], Iterator[Encoded]]
    """Encoded documents of a split."""
    why_masked: str
    """Reason in the ledger for tokens without loss."""
    origin: Origin
    """Which weights it begins with."""
    settings: dict[str, Any]
    """Everything that its weights hang on, by name, as JSON holds it: settings, and hashes of what it reads."""
    gate: Literal["stop", "tell"] | None = None
    """What a worse loss at its own length does; None asks nothing."""
    skips: bool = False
    """Whether its windows' positions skip (PoSE)."""
    schedule_of: tuple[tuple[Tuning, int], ...] = ()
    """Tuning and window of the stages that share its learning-rate schedule, in order; () where it has its own."""
    schedule_place: int = 0
    """Which of them it is."""
    carries_optimizer: Path | None = None
    """Checkpoint (a folder) whose optimizer state it goes on with."""
    handed_over: Callable[["PreTrainedTokenizerBase"], None] | None = None
    """Further receipts of this kind of part, written before training."""

    @property
    def made_from(self) -> str:
        """Fingerprint of everything that its weights hang on."""
        return fingerprint(self.settings)


class Spent:
    """Seconds that a part has taken over all its processes' lives, and the peak memory of this one."""

    def __init__(self, file: Path, write: bool) -> None:
        self.file, self.write, self.started = file, write, time.monotonic()
        self.before = read_json(file)["seconds"] if file.is_file() else 0.0
        begin_peak_rss()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def stop(self) -> None:
        """Keep what was spent so far, for the process that goes on."""
        if self.write:
            write_json(self.file, {"seconds": round(self.seconds, 1)})
