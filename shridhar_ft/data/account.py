"""Keeps the account of a build: what each source brought, lost and kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shridhar_ft.data.ledger import Ledger
from shridhar_ft.data.measure import Kind

if TYPE_CHECKING:
    from shridhar_ft.data.clean import Cleaned
    from shridhar_ft.data.decontaminate import Decontaminated
    from shridhar_ft.data.duplicates import Repeats

EXAMPLES = 10  # of each step, in the report

Example = dict[str, str]
"""before, after, where."""


@dataclass
class SourceAccount:
    """One file's part of the account (a dump in parts is one file)."""

    kind: Kind
    source: str
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)
    """What reading it showed: format, encoding."""
    rows: int = 0
    """Rows read, where one row is one turn or one text."""
    rows_dropped: Counter[str] = field(default_factory=Counter)
    """Rows dropped before they became a turn, by reason."""
    dialogues_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Whole dialogues dropped, by reason."""
    turns: Counter[str] = field(default_factory=Counter)
    """Turns dropped or merged, by reason."""
    found: Counter[str] = field(default_factory=Counter)
    """Things that a step looked for and found, e.g. telephone numbers."""
    decontaminated: Counter[str] = field(default_factory=Counter)
    """Sentences, blocks, exchanges, conversations that decontamination took out or moved."""
    pieces: int = 0
    """Blocks or conversations that are kept at the end."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """Of books: what each step changed, before and after. Dialogues are private."""
    units: list[int] = field(default_factory=list)
    """Characters of each block or conversation that was drawn and kept."""
    allowances: list[float] = field(default_factory=list)
    """How far the draw of each of its groups may lie off, in characters."""

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "SourceAccount":
        """What `as_state` wrote."""
        counters = {
            name: Counter(state[name]) for name in ("rows_dropped", "dropped", "turns", "found", "decontaminated")
        }
        return cls(**{**state, **counters, "ledger": Ledger.from_dict(state["ledger"])})

    def as_state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**vars(self), "ledger": self.ledger.as_dict()}

    def take(self, cleaned: "Cleaned", where: str = "") -> None:
        """Book what cleaning did to a text; `where` names the work that its examples are from."""
        self.ledger.changed.update(cleaned.changed)
        self.found.update(cleaned.counts)
        for step, by in cleaned.shortened.items():
            self.ledger.shortened(step, by)
        for step, changes in cleaned.examples.items():
            self.add_example(step, [{"before": c.before, "after": c.after, "where": where} for c in changes])

    def take_repeats(self, repeats: "Repeats", where: str) -> None:
        """Book the passages that stood before; `where` names the work that they were taken out of."""
        self.ledger.removed.update(repeats.removed)
        self.found.update(repeats.passages)
        for reason, passages in repeats.examples.items():
            self.add_example(reason, [{"before": passage, "after": "", "where": where} for passage in passages])

    def add_example(self, step: str, examples: Sequence[Example]) -> None:
        """Keep examples of a step, up to `EXAMPLES`."""
        assert self.kind == "books", "what people said to one another is not shown"
        held = self.examples.setdefault(step, [])
        held += examples[: EXAMPLES - len(held)]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for the report."""
        numbers: dict[str, Any] = {"source": self.source, "characters": self.ledger.as_dict(), "rows": self.pieces}
        numbers |= {"found": dict(self.found)} if self.found and self.kind == "books" else {}
        numbers |= {"notes": self.notes} if self.notes else {}
        if self.rows:
            numbers["rows_read"] = {"in": self.rows, "dropped": dict(self.rows_dropped)}
        if self.decontaminated:
            numbers["decontaminated"] = dict(self.decontaminated)
        if self.kind == "dialogues":
            numbers["dialogues"] = {
                "in": self.dialogues_in,
                "kept": self.pieces,
                "dropped": dict(self.dropped),
                "turns": dict(self.turns),
                "found": dict(self.found),
            }
        return numbers


def take_decontaminated(sources: Sequence[SourceAccount], done: "Decontaminated") -> None:
    """Book what decontamination took out of each file, and on the first one what it moved between the splits."""
    for where, loss in done.losses.items():
        account = next(one for one in sources if (one.kind, one.source) == (where.kind, where.source))
        account.ledger.removed.update(loss.removed)
        account.ledger.added.update(loss.added)
        account.ledger.kept += loss.added.total() - loss.removed.total()
        account.decontaminated.update(loss.counts)
        account.pieces += loss.rows
    for moved in done.moved:
        account = next(one for one in sources if one.kind == "dialogues")
        account.decontaminated[f"conversations moved from train to {moved.split}"] += moved.conversations
    for work, text in done.examples:
        example = {"before": text, "after": "", "where": work}
        next(one for one in sources if one.kind == "books").add_example("shared with validation or test", [example])


def total(sources: Sequence[SourceAccount], kind: Kind) -> SourceAccount:
    """All sources of a kind as one."""
    whole = SourceAccount(kind, "")
    for account in sources:
        if account.kind == kind:
            whole.ledger.include(account.ledger)
            whole.rows += account.rows
            whole.dialogues_in += account.dialogues_in
            whole.rows_dropped += account.rows_dropped
            whole.dropped += account.dropped
            whole.turns += account.turns
            whole.found += account.found
            whole.decontaminated += account.decontaminated
            whole.pieces += account.pieces
            whole.units += account.units
            whole.allowances += account.allowances
            for step, examples in account.examples.items():
                whole.add_example(step, examples)
    return whole
