"""Plain texts in rows of any format: a row is a work, or rows of one title, one after another, are."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from shridhar_ft import config_data
from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.counts import NO_TEXT, RowCounts
from shridhar_ft.data.sources.names import did_you_mean
from shridhar_ft.data.sources.reading import Reader
from shridhar_ft.data.sources.row import Row, kind
from shridhar_ft.data.sources.shapes import columns_of
from shridhar_ft.errors import UserError

DEFAULT_TEXT = "text"
COLUMNS = ("text", "title", "author")  # keys of config_data.Columns that texts have


def read_texts(source: config_data.Texts, key: str, counts: RowCounts | None = None) -> Iterator[Document]:
    """Read a source lazily, one work at a time, uncleaned.

    Args:
        source: Where the rows are and what their columns mean.
        key: Recipe key of the source, e.g. `data.texts.0`, for messages.
        counts: Filled with the numbers of the rows.

    Returns:
        The works in the order of files and rows. With `columns.title`, the rows of one title are a work of this name,
        a line end between them; a row without one, and without `columns.title` every row, is a work by itself, named
        by its table and number.

    Raises:
        UserError: A column is missing or holds something else than text, rows of one title do not stand together, or
            no text is left.
    """
    counts = RowCounts() if counts is None else counts
    if useless := [column for column, name in source.columns if name and column not in COLUMNS]:
        raise UserError(f"{key}.columns.{useless[0]} has no effect on texts; take it away")
    found = False
    ended: set[int] = set()
    for (file, work), group in groupby(_pieces(source, key, counts), key=lambda piece: (piece.file, piece.work)):
        pieces = list(group)
        first = pieces[0]
        if first.title:
            if (mark := hash((file, work))) in ended:
                raise UserError(
                    f"{first.where}: the title in {key}.columns.title had ended and begins again; sort the rows so "
                    f"that those of one title stand together"
                )
            ended.add(mark)
        found = True
        yield Document(
            file, work, work, "\n".join(piece.text for piece in pieces), title=first.title, author=first.author
        )
    if not found:
        raise UserError(
            f"{key}: none of its {counts.rows_in:,} rows holds a text ({counts.reasons()}); mend the source"
        )


class _Piece(NamedTuple):
    """The text of a row."""

    where: str
    file: str
    work: str
    title: str
    author: str
    text: str


def _pieces(source: config_data.Texts, key: str, counts: RowCounts) -> Iterator[_Piece]:
    """The rows that hold a text."""
    reader = Reader(source, key, counts)

    def needed(table: str) -> list[str]:
        columns = columns_of(source, table)
        return [name for name in (columns.text or DEFAULT_TEXT, columns.title, columns.author) if name]

    for row in reader.rows(needed):
        columns = columns_of(source, row.table)
        text = _value(row, columns.text or DEFAULT_TEXT, "text", reader, key)
        title = _value(row, columns.title, "title", reader, key).strip()
        author = _value(row, columns.author, "author", reader, key).strip()
        if text.strip():
            yield _Piece(row.where, row.file, title or f"{row.table}-{row.number:06d}", title, author, text)
        else:
            counts.dropped[NO_TEXT] += 1


def _value(row: Row, name: str | None, column: str, reader: Reader, key: str) -> str:
    """The text of a column, empty if it is not mapped or holds none."""
    if name is None:
        return ""
    if name not in row.value:
        raise UserError(
            f"{row.where}: there is no '{name}' among the columns; {key}.columns.{column}: "
            f"{did_you_mean(name, reader.columns[row.table])}"
        )
    value = row.value[name]
    if value is not None and not isinstance(value, str):
        raise UserError(
            f"{row.where}: the {column} is {kind(value)}, not text; mend the row, or {key}.columns.{column}"
        )
    return value or ""
