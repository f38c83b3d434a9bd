"""Rows of CSV and TSV files: the delimiter is told by the first lines, quoted cells may hold line ends."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from shridhar_ft.data.sources.names import quotable
from shridhar_ft.data.sources.row import Row, table_name
from shridhar_ft.data.sources.text_stream import LONGEST_ROW, text_lines, too_long
from shridhar_ft.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
_LOOKED_AT = 50  # lines that tell the delimiter
_LONGEST_NAME = 64  # characters of a column's name, as in MySQL


def read_csv(file: Path, encoding: str, key: str) -> Iterator[Row]:
    """Read rows lazily, in the memory of the longest row; all values are text.

    Args:
        file: The file, packed by gzip if its name ends so; its first line names the columns.
        encoding: What `text_encoding` gave.
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: The first line names no columns, a row has more or fewer cells than it, quotes do not close, or
            there is no row.
    """
    delimiter = _delimiter_of(file, encoding, key)
    # The limit is the module's own; nothing else here reads CSV, and its default would refuse long texts.
    csv.field_size_limit(LONGEST_ROW)
    lines = (f"{text}\n" for _, text in text_lines(file, encoding, key))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number, table, name, line = 0, table_name(file), file.name, 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise too_long(file, line) from error
            raise UserError(
                f"{file}:{line}: the row's quotes are wrong ({error}); write a quote inside a cell twice, "
                f"and close every quoted cell"
            ) from error
        where, line = f"{file}:{line}", reader.line_num + 1
        if cells is None:
            break
        if names is None:
            names = _header(cells, where)
        elif len(cells) == len(names):
            yield Row(number, where, dict(zip(names, cells, strict=True)), name, table)
            number += 1
        elif cells:  # a blank line is no row
            raise UserError(
                f"{where}: the row has {len(cells)} cells and the first line names {len(names)} columns; "
                f"mend the row (a cell that holds the delimiter '{_shown(delimiter)}' must be quoted)"
            )
    if not number:
        raise UserError(f"{file}: there are no rows below the names; fill the file, or take it out of {key}.paths")


def _delimiter_of(file: Path, encoding: str, key: str) -> str:
    """The delimiter that cuts the first lines into most cells and leaves them equally wide, if one does."""
    head = [f"{text}\n" for _, text in islice(text_lines(file, encoding, key), _LOOKED_AT)]
    return max(DELIMITERS, key=lambda delimiter: _fit(head, delimiter))  # of equals the first one


def _fit(head: Sequence[str], delimiter: str) -> tuple[bool, int]:
    """Whether all rows are as wide as the first one, more than one cell; and how wide that is."""
    widths = []
    with contextlib.suppress(csv.Error):  # if something is wrong, `read_csv` tells what
        widths += [len(cells) for cells in csv.reader(head, delimiter=delimiter) if cells]
    if len(widths) > 2 and len(head) == _LOOKED_AT:
        widths.pop()  # it may go on behind the lines that were looked at
    first = widths[0] if widths else 0
    return first > 1 and len(set(widths)) == 1, first


def _header(cells: Sequence[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    wrong = None
    if any(len(name) > _LONGEST_NAME or "\n" in name for name in names):
        wrong = "a text stands there"
    elif not any(name and not _is_number(name) for name in names):
        wrong = "only numbers stand there"
    elif len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        wrong = f"{quotable(twice)} stands there twice" if twice else "two have no name"
    if wrong:
        raise UserError(f"{where}: the first line must name the columns, each once ({wrong}); put the names there")
    return names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _shown(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else delimiter
