"""What reading a source of rows counted; the caller makes it, the reader fills it."""

from collections import Counter
from dataclasses import dataclass, field

NO_TEXT = "no text"
NO_CONVERSATION = "no conversation id"
NO_ROLE = "no role"
NO_TIME = "no time"
SERVICE = "said by someone whose role is drop"


@dataclass
class RowCounts:
    """Numbers of one source."""

    rows_in: int = 0
    """Rows read from the tables that the recipe names."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows of them that were not used, by reason."""
    turns_dropped: int = 0
    """Lists of turns: turns of those whose role is drop."""
    conversations: int = 0
    """Turns: conversations that the rows belong to."""
    sessions_cut: int = 0
    """Turns: how often a pause longer than `session_gap` cut a conversation."""
    notes: dict[str, str] = field(default_factory=dict)
    """Format and encoding, by file."""

    def reasons(self) -> str:
        """The reasons with their numbers, for a sentence."""
        return ", ".join(f"{number:,} {reason}" for reason, number in self.dropped.items() if number) or "none read"
