"""Dialogues from JSON and JSON Lines."""

from collections.abc import Iterator
from pathlib import Path

from shridhar_ft import config
from shridhar_ft.data.records import Dialogue
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.sources.json_rows import Row, read_rows
from shridhar_ft.data.sources.shapes import nearest, read_alpaca, read_turns, takes_turns
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand

OPTIONAL = ("input", "system")  # columns of alpaca rows that a row may lack


def dialogue_files(source: config.Dialogues, key: str) -> list[Path]:
    """The files of a source, sorted.

    Raises:
        UserError: A path matches nothing.
    """
    return expand(source.paths, ["*.json", "*.jsonl"], f"{key}.paths")


def read_dialogues(source: config.Dialogues, key: str) -> Iterator[Dialogue]:
    """Read a source lazily, one dialogue at a time, neither cleaned nor normalised.

    Args:
        source: Where the files are and what their columns mean.
        key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.

    Returns:
        The dialogues in the order of files and rows. The id is the row's `id`, else the file's stem and the row's
        number.

    Raises:
        UserError: Something of the input is wrong (FILE:LINE and the mend are named), or, once all is read, no
            dialogue has an assistant's turn or a mapped column stands in no row.
    """
    check_encoding(source.encoding, key)
    answered = False
    unseen = {column: name for column in OPTIONAL if (name := getattr(source.columns, column))}
    last: Row | None = None
    for file in dialogue_files(source, key):
        turns = None
        for row in read_rows(file, source.format, source.encoding, key):
            if turns is None:
                turns = takes_turns(row, source, key)
            messages = read_turns(row, source, key) if turns else read_alpaca(row, source, key)
            answered = answered or any(m.role == "assistant" and m.content.strip() for m in messages)
            unseen = {column: name for column, name in unseen.items() if name not in row.value}
            own = row.value.get("id")
            id_ = str(own) if isinstance(own, str | int) and str(own) else f"{file.stem}-{row.number:06d}"
            yield Dialogue(file.name, id_, messages)
            last = row
    assert last is not None  # read_rows refuses a file without rows
    for column, name in unseen.items():
        near = nearest((name,), last.value)
        hint = f"did you mean '{near}'?" if near else f"mend {key}.columns.{column}, or take it away"
        raise UserError(f"{key}.columns.{column}: no row has the column '{name}'; {hint}")
    if not answered:
        raise UserError(
            f"{key}: no dialogue of {', '.join(source.paths)} has an assistant's turn; say who answers with "
            f"{key}.roles={{NAME: assistant}}, or where the answers stand with {key}.columns"
        )
