"""What a table's columns hold: rows, kinds of values, how full they are, how much of their text is Cyrillic."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SAMPLED = 200  # values of each column looked at in a batch: letters are counted in these only
SAMPLES = 3  # rows shown of a table
HELD = 100  # rows whose values are held, to tell what the columns mean
LONGEST_SHOWN = 300  # characters of a sample's value

_LETTERS = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f]+")
_KINDS = {str: "text", bool: "true/false", int: "integer", bytes: "bytes", list: "list", dict: "object"}


@dataclass
class ColumnStats:
    """One column."""

    name: str
    kinds: Counter[str] = field(default_factory=Counter)
    """How many of the sampled values are text, integers, lists … or empty."""
    letters: int = 0
    cyrillic: int = 0
    texts: int = 0
    characters: int = 0

    def see(self, values: Sequence[Any]) -> None:
        """Take some values of the column in."""
        step = max(1, len(values) // SAMPLED)
        for value in values[::step]:
            if value is None or value in ("", b""):
                self.kinds["empty"] += 1
                continue
            self.kinds[_KINDS.get(type(value), "number")] += 1
            for text in texts_in(value):
                self.texts += 1
                self.characters += len(text)
                self.letters += sum(map(len, _LETTERS.findall(text)))
                self.cyrillic += sum(map(len, _CYRILLIC.findall(text)))

    def as_dict(self, declared: str = "") -> dict[str, Any]:
        """The figures: type, empty values (0 to 1), mean characters of a text, Cyrillic among its letters (0 to 1)."""
        seen = self.kinds.total()
        filled = Counter({kind: number for kind, number in self.kinds.items() if kind != "empty"})
        kind = filled.most_common(1)[0][0] if filled else "empty"
        return {
            "name": self.name,
            "type": declared or kind,
            "empty": round(self.kinds["empty"] / seen, 3) if seen else None,
            "mean_characters": round(self.characters / self.texts, 1) if self.texts else None,
            "cyrillic": cyrillic_share(self.cyrillic, self.letters),
        }


@dataclass
class TableStats:
    """One table, its columns, and a few of its rows."""

    name: str
    rows: int = 0
    columns: dict[str, ColumnStats] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    """Types of the columns, where the source says them."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, list[Any]] = field(default_factory=dict)
    """The values of the first rows, by column."""

    def declare(self, types: Mapping[str, str]) -> None:
        """Take in what the source says of its columns, those of a table without rows too."""
        self.declared = dict(types)
        for name in types:
            self.columns.setdefault(name, ColumnStats(name))
            self.held.setdefault(name, [])

    def see(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take consecutive rows in, column by column."""
        count = max(map(len, columns.values()), default=0)
        self.rows += count
        for name, values in columns.items():
            self.columns.setdefault(name, ColumnStats(name)).see(values)
        before = max(map(len, self.held.values()), default=0)
        for name, values in columns.items() if before < HELD else ():
            held = self.held.setdefault(name, [])
            held += [None] * (before - len(held)) + list(values[: HELD - before])
        for index in range(count):
            if len(self.samples) >= SAMPLES:
                break
            row = {name: values[index] for name, values in columns.items()}
            if any(True for value in row.values() for _ in texts_in(value)):
                self.samples.append(row)


def texts_in(value: Any) -> Iterator[str]:  # noqa: ANN401 - whatever a row holds
    """Every text in a value, those inside lists and objects too."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def shown(value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
    """A value as a sample shows it: what JSON can hold, long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_SHOWN else value[:LONGEST_SHOWN] + "…"
    if isinstance(value, bytes):
        return "0x" + value[:32].hex() + ("…" if len(value) > 32 else "")
    if isinstance(value, Mapping):
        return {key: shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(inner) for inner in value[:4]] + (["…"] if len(value) > 4 else [])
    return value if isinstance(value, int | float | None) else str(value)


def share_of_cyrillic(text: str) -> float | None:
    """Cyrillic letters among a text's letters (0 to 1); None for a text without letters."""
    return cyrillic_share(sum(map(len, _CYRILLIC.findall(text))), sum(map(len, _LETTERS.findall(text))))


def cyrillic_share(cyrillic: int, letters: int) -> float | None:
    """The share, rounded as it is told; None where there are no letters."""
    return round(cyrillic / letters, 3) if letters else None
