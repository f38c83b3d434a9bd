"""What a dump says about itself, and what was passed over in it."""

from collections import Counter
from dataclasses import dataclass, field

from shridhar_ft.data.sources.mysql.charsets import repair_double_encoded

SAMPLE = 300  # values other than ASCII of a column that are looked at
MOSTLY = 0.9


@dataclass
class Facts:
    """Facts of a dump, as far as it was read."""

    tool: str | None = None
    """The program that wrote it, from its first line, e.g. `MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)`."""
    server: str | None = None
    """Version of the server."""
    charset: str | None = None
    """The client charset (SET NAMES)."""
    databases: list[str] = field(default_factory=list)
    """Those named by USE."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Statements that may bear data or code and were not read, by kind: view, procedure, trigger, update, …"""
    truncated: str | None = None
    """Where and how the dump breaks off, if that was allowed."""
    repaired: int = 0
    """Texts whose double encoding was undone (`encoding: double`)."""
    unrepaired: int = 0
    """Texts with other than ASCII letters that were not encoded twice, and stayed as they are."""
    _doubles: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @property
    def double_encoded(self) -> dict[str, list[str]]:
        """Columns by table whose texts look like UTF-8 that was read as latin1 and encoded again."""
        found: dict[str, list[str]] = {}
        for (table, column), (seen, double) in self._doubles.items():
            if double and double >= MOSTLY * seen:
                found.setdefault(table, []).append(column)
        return found

    def notes(self) -> list[str]:
        """What a reader should know of the dump, in short."""
        said = [note for note in (self.tool, self.server and f"server {self.server}", self.truncated) if note]
        said.append(self.charset or "charset not said")
        if self.skipped:
            said.append("passed over: " + ", ".join(f"{number:,} {kind}" for kind, number in self.skipped.items()))
        if self.repaired or self.unrepaired:
            said.append(f"{self.repaired:,} texts that were encoded twice read back, {self.unrepaired:,} left alone")
        return said

    def look_at(self, table: str, column: str, values: list[object]) -> None:
        """Look for double encoding among the first texts of a column that are not ASCII."""
        counts = self._doubles.setdefault((table, column), [0, 0])
        if counts[0] >= SAMPLE:
            return
        for value in values:
            if isinstance(value, str) and not value.isascii():
                counts[0] += 1
                counts[1] += repair_double_encoded(value) is not None
                if counts[0] >= SAMPLE:
                    return

    def repair(self, values: list[object]) -> list[object]:
        """Undo the double encoding of a column's texts, and count."""
        mended = list(values)
        for index, value in enumerate(values):
            if isinstance(value, str) and not value.isascii():
                text = repair_double_encoded(value)
                if text is None:
                    self.unrepaired += 1
                else:
                    self.repaired += 1
                    mended[index] = text
        return mended
