"""Dialogues from rows of any format: whole conversations in a row, or one turn a row."""

from collections.abc import Iterator
from pathlib import Path

from shridhar_ft import config_data
from shridhar_ft.data.records import Dialogue
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.formats import row_files
from shridhar_ft.data.sources.names import nearest
from shridhar_ft.data.sources.reading import Reader
from shridhar_ft.data.sources.shapes import columns_of, is_turns, read_alpaca, read_list, takes_lists
from shridhar_ft.data.sources.turns import read_conversations
from shridhar_ft.errors import UserError

__all__ = ["read_dialogues", "row_files"]

OPTIONAL = ("input", "system")  # columns of alpaca rows that a row may lack


def read_dialogues(
    source: config_data.Dialogues, key: str, counts: RowCounts | None = None, spill: Path | None = None
) -> Iterator[Dialogue]:
    """Read a source lazily, one dialogue at a time, neither cleaned nor normalised.

    Args:
        source: Where the rows are and what their columns mean.
        key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.
        counts: Filled with the numbers of the rows, whole once all is read.
        spill: An existing folder that turns are sorted in; it needs room for their texts and is left as it was
            (None: the system's folder for temporary files).

    Returns:
        The dialogues in the order of files and rows, and with the row's `id`, else the table's name and the row's
        number; turns put together in the order and with the ids of `read_conversations`.

    Raises:
        UserError: Something of the input is wrong (FILE:LINE and the mend are named), or, once all is read, no
            dialogue has an assistant's turn or a mapped column stands in no row.
    """
    counts = RowCounts() if counts is None else counts
    if is_turns(source, key):
        yield from read_conversations(source, key, counts, spill)
    else:
        yield from _whole(source, key, counts)


def _whole(source: config_data.Dialogues, key: str, counts: RowCounts) -> Iterator[Dialogue]:
    """Rows that are whole conversations."""
    reader = Reader(source, key, counts)
    answered, lists, met = False, False, ("", "")
    columns = source.columns
    for row in reader.rows():
        if (row.file, row.table) != met:
            columns = columns_of(source, row.table)
            lists = takes_lists(row, source, columns, key)
            met = (row.file, row.table)
        messages = read_list(row, source, columns, key, counts) if lists else read_alpaca(row, columns, key)
        answered = answered or any(m.role == "assistant" and m.content.strip() for m in messages)
        own = row.value.get("id")
        id_ = str(own) if isinstance(own, str | int) and str(own) else f"{row.table}-{row.number:06d}"
        yield Dialogue(row.file, id_, messages)
    _check_optional(source, key, reader)
    if counts.rows_in == sum(counts.dropped.values()):
        raise UserError(f"{key}: none of its {counts.rows_in:,} rows is left ({counts.reasons()}); mend {key}.filter")
    if not answered:
        raise UserError(
            f"{key}: no dialogue of {source.hub or ', '.join(source.paths)} has an assistant's turn; say who answers "
            f"with {key}.roles={{NAME: assistant}}, or where the answers stand with {key}.columns"
        )


def _check_optional(source: config_data.Dialogues, key: str, reader: Reader) -> None:
    """Refuse an optional column that the recipe names and no row has."""
    there = {name: None for names in reader.columns.values() for name in names}
    for column in OPTIONAL:
        for where in (source.columns, *(table.columns for table in source.tables)):
            name = getattr(where, column)
            if name and name not in there:
                near = nearest((name,), there)
                hint = f"did you mean '{near}'?" if near else f"mend {key}.columns.{column}, or take it away"
                raise UserError(f"{key}.columns.{column}: no row has the column '{name}'; {hint}")
