"""What a run has cost so far, over all its sessions: price times hours since each command began.

    runs/<name>/spending.json   {"usd": …, "sessions": {<id>: {"seconds", "usd_per_hour", "at"}}}

A command is a session. Its hours are written every half a minute of training, so that one that was killed has lost no
more; what a machine costs before the command begins and after it ends is not seen from here.
"""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe
from shridhar_ft.errors import BudgetSpent
from shridhar_ft.plan.machines import HERE, machine
from shridhar_ft.runfolder import PART, Run, read_json, write_json
from shridhar_ft.signals import since_start, started

FILE = "spending.json"
BETWEEN = 30  # seconds between two writings


@dataclass
class Spending:
    """The money of one run, as this session goes on spending it."""

    file: Path
    usd_per_hour: float | None
    """Of all machines together; None where nothing is counted."""
    max_usd: float | None
    writes: bool = False
    """Whether this process keeps the file."""
    before: float = field(init=False)
    """US dollars of the other sessions."""
    written: float = field(init=False, default=-BETWEEN)

    def __post_init__(self) -> None:
        self.before = sum(_usd(held) for name, held in _sessions(self.file).items() if name != _session())

    @classmethod
    def of(
        cls, recipe: Recipe, run: Run, device: str, nodes: int, writes: bool, tell: Callable[[str], None]
    ) -> "Spending":
        """The spending of a run from this process on.

        Args:
            recipe: Its budget.
            run: Its folder.
            device: Type of the device that it trains on: hours at home are not those of the machine to be rented.
            nodes: Machines that it trains on.
            writes: Whether this process keeps the file; one of them does.
            tell: Told where a limit is set that cannot be watched.
        """
        budget = recipe.budget
        price: float | None = budget.usd_per_hour
        why = "nothing is known of what an hour costs; set budget.usd_per_hour"
        if budget.machine != HERE:
            meant = machine(budget.machine)
            price = meant.usd_per_hour if price is None else price
            if device != meant.kind and budget.usd_per_hour is None:  # a price of one's own is that of these hours
                price, why = None, f"this is no {meant.name}: it trains on {device}"
        if price is None and budget.max_usd is not None:
            tell(f"budget: these hours are not counted against budget.max_usd: {why}")
        return cls(run.root / FILE, None if price is None else price * nodes, budget.max_usd, writes)

    @property
    def usd(self) -> float:
        """US dollars until now."""
        return self.before + (self.usd_per_hour or 0) * since_start() / 3600

    @property
    def over(self) -> bool:
        """Whether nothing is left of the budget."""
        return self.max_usd is not None and self.usd >= self.max_usd

    def keep(self, at_once: bool = False) -> None:
        """Write what this session has cost, if it is time to."""
        if not self.writes or self.usd_per_hour is None or not (at_once or time.monotonic() > self.written + BETWEEN):
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        this = {"seconds": round(since_start(), 1), "usd_per_hour": self.usd_per_hour, "at": now}
        sessions: dict[str, Any] = {**_sessions(self.file), _session(): this}
        write_json(self.file, {"usd": round(sum(map(_usd, sessions.values())), 4), "sessions": sessions})
        self.written = time.monotonic()

    def sentence(self) -> str:
        """That the budget is spent, and how to go on."""
        assert self.max_usd is not None, "nothing is over where there is no limit"
        return _spent_sentence(self.usd, self.max_usd)


def refuse_if_spent(recipe: Recipe, run: Run, parts: list[Path]) -> None:
    """Refuse to begin again where the budget is spent and a part is still to be trained.

    Args:
        recipe: Its budget.
        run: Its folder.
        parts: Folders of the parts that train.

    Raises:
        BudgetSpent: So it is; nothing was touched.
    """
    spent, most = sum(map(_usd, _sessions(run.root / FILE).values())), recipe.budget.max_usd
    if most is not None and spent >= most and not all((part / PART).is_file() for part in parts):
        raise BudgetSpent(f"{run.root}: not begun: {_spent_sentence(spent, most)}")


@contextmanager
def counted_to_the_end(run: Run) -> Iterator[None]:
    """Count the time after the last training step too, however the block ends, where hours have a price."""
    try:
        yield
    finally:
        file = run.root / FILE
        held = _sessions(file).get(_session())
        if held is not None:
            Spending(file, held["usd_per_hour"], None, writes=True).keep(at_once=True)


def _spent_sentence(usd: float, most: float) -> str:
    return f"${usd:,.2f} of the ${most:,.2f} of budget.max_usd are spent; to go on, raise it, e.g. {raised(most)}"


def raised(most: float) -> str:
    """A setting with which a run goes on that has spent this much."""
    return f"budget.max_usd={2 * most:g}"


def _sessions(file: Path) -> dict[str, dict[str, Any]]:
    return read_json(file)["sessions"] if file.is_file() else {}


def _usd(session: dict[str, Any]) -> float:
    return float(session["usd_per_hour"] * session["seconds"] / 3600)


def _session() -> str:
    """Names this command: no two begin at the same microsecond of one machine's clock."""
    return f"{platform.node() or 'here'}-{started():.6f}"
