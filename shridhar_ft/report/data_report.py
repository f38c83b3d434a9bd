"""What report.json holds: the structure that a build writes and the page reads."""

from typing import Any, NotRequired, TypedDict

from shridhar_ft.data.histogram import Bins

WORDS_OF_A_SOURCE = ("source", "notes")
"""The only strings that a report may hold about dialogues, beside the names of steps and reasons."""


class Characters(TypedDict):
    """A character ledger; the last three by step."""

    kept: int
    removed: dict[str, int]
    added: dict[str, int]
    changed: dict[str, int]


class Counts(TypedDict):
    """Dialogues; dicts by reason or by what was found."""

    kept: int
    dropped: dict[str, int]
    turns: dict[str, int]
    found: NotRequired[dict[str, int]]


RowCounts = TypedDict("RowCounts", {"in": int, "dropped": dict[str, int]})
"""Rows read, and those that became no turn or text, by reason."""


class SourceReport(TypedDict):
    """One file."""

    source: str
    characters: Characters
    rows: int
    notes: NotRequired[list[str]]
    """What reading it showed: format, encoding."""


class Example(TypedDict):
    """What a step did to one passage."""

    before: str
    after: str
    where: str


class KindReport(TypedDict):
    """Books, or dialogues."""

    characters: Characters
    rows: int
    files: list[SourceReport]
    rows_read: NotRequired[RowCounts]
    found: NotRequired[dict[str, int]]
    """What steps looked for and found in books."""
    decontaminated: NotRequired[dict[str, int]]
    """What train shared with validation or test, by unit."""
    dialogues: NotRequired[Counts]
    examples: NotRequired[dict[str, list[Example]]]
    """Step → passages; of books only."""


class DataReport(TypedDict):
    """report.json."""

    books: KindReport
    dialogues: KindReport
    splits: dict[str, dict[str, dict[str, int]]]
    """Split → kind → rows, characters."""
    histograms: NotRequired[dict[str, Bins]]


def check_numbers_only(value: Any, key: str = "") -> None:  # noqa: ANN401 - whatever JSON holds
    """Assert that a report on dialogues holds numbers and names of files, and no text that somebody said."""
    if isinstance(value, dict):
        assert "examples" not in value, "what people said to one another is not shown"
        for inner, held in value.items():
            check_numbers_only(held, inner)
    elif isinstance(value, list):
        for held in value:
            check_numbers_only(held, key)
    else:
        assert not isinstance(value, str) or key in WORDS_OF_A_SOURCE, f"a report on dialogues holds text under {key}"
