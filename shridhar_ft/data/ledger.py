"""The character ledger: what came in, what each step took or added, what was kept; the two sides must meet."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """Characters of one source or one kind of source.

    `kept` is measured where the text ends up, not derived from the other three, so that a balance of zero proves
    something.
    """

    characters_in: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    """Characters that a step took away, by step."""
    added: Counter[str] = field(default_factory=Counter)
    """Characters that a step put in, by step (e.g. the space that breaks a special token)."""
    changed: Counter[str] = field(default_factory=Counter)
    """Characters that a step removed or replaced, by step; it explains, it is no side of the balance."""

    @property
    def difference(self) -> int:
        """in + added - removed - kept; zero when every character is accounted for."""
        return self.characters_in + self.added.total() - self.removed.total() - self.kept

    def shortened(self, step: str, by: int) -> None:
        """Book that a step made a text shorter by so many characters (longer, where negative)."""
        if by > 0:
            self.removed[step] += by
        elif by < 0:
            self.added[step] -= by

    def include(self, other: "Ledger") -> None:
        """Add another ledger's numbers to this one's."""
        self.characters_in += other.characters_in
        self.kept += other.kept
        self.removed += other.removed
        self.added += other.added
        self.changed += other.changed

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> "Ledger":
        """What `as_dict` wrote."""
        counters = {side: Counter(numbers[side]) for side in ("removed", "added", "changed")}
        return cls(numbers["in"], numbers["kept"], **counters)

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "in": self.characters_in,
            "kept": self.kept,
            "removed": dict(self.removed),
            "added": dict(self.added),
            "changed": dict(self.changed),
        }
