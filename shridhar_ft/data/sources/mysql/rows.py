"""Rows of an INSERT that are not as mysqldump writes them, or not wholly in the window: value by value."""

import re

from shridhar_ft.data.sources.mysql import lexer
from shridhar_ft.data.sources.mysql.create_table import Table
from shridhar_ft.data.sources.mysql.window import AHEAD, Window
from shridhar_ft.errors import UserError

WIDEST = 4096
"""Most columns that a table of MySQL has."""


class BreaksOff(Exception):
    """The dump ends where something should follow; the text goes on after "the dump breaks off"."""


def read_row(window: Window, table: Table | None, width: int, number: int) -> tuple[list[bytes], int] | None:
    """Read the row that stands at the window's place.

    Args:
        window: Where to read; its place is not moved.
        table: The table, None if it is not known yet: then the row may have any width.
        width: Values that a row has, or at most has.
        number: The row's number in its table, from 0, for messages.

    Returns:
        Its values as they are written, and the place behind it; None if its end is not in the window yet.

    Raises:
        BreaksOff: The dump ends within the row.
        UserError: It is no row, or has another width.
    """
    data, values = window.data, list[bytes]()
    opens = lexer.ROW.match(data, window.at)
    if not opens:
        _wait(window, table, window.at)
        return None
    at = opens.end()
    while True:
        value = lexer.VALUE.match(data, at)
        if not value:
            _wait(window, table, at)
            return None
        if value.end() > len(data) - AHEAD and not window.ended:
            return None
        values.append(value[1])
        at = value.end()
        if value[2] == b")":
            break
        if len(values) == width:
            raise wrong_width(window, table, number, f"more than {width}", width)
    if table is not None and len(values) != width:
        raise wrong_width(window, table, number, str(len(values)), width)
    return values, at


def wrong_width(window: Window, table: Table | None, number: int, values: str, width: int) -> UserError:
    """The error that a row has more or fewer values than its table has columns."""
    row = f"row {number + 1} of the table {table.name}" if table else "a row"
    return window.malformed(f"{row} has {values} values where {width} belong", window.at)


def another_follows(window: Window, table: Table, delimiter: bytes) -> bool | None:
    """Pass over what stands behind a row: whether another one follows; None if that is not in the window yet.

    Raises:
        BreaksOff: The dump ends within a comment.
        UserError: Neither another row nor the statement's end stands there.
    """
    data = window.data
    at = blank_end(data, window.at)
    cut = lexer.COMMENT_MARK.match(data, at)
    if not window.ended and (cut or len(data) - at < AHEAD):
        return None
    for end in (delimiter, b";"):
        if data.startswith(end, at):
            window.at = at + len(end)
            return False
    if data.startswith(b",", at):
        window.at = at + 1
        return True
    if at == len(data):  # written by hand, without the last delimiter
        window.at = at
        return False
    tail = lexer.statement_pattern(delimiter, True).match(data, at) if lexer.TAIL.match(data, at) else None
    if tail:
        window.at = tail.end()
        return False
    if cut or lexer.TAIL.match(data, at):
        if not window.ended:
            return None
        raise BreaksOff(f"behind a row of the table {table.name}")
    raise window.malformed(f"what follows a row of the table {table.name} is neither a comma nor the end", at)


def blank_end(data: bytes, at: int) -> int:
    """The place behind blank space and comments, which may be none."""
    match = lexer.BLANK.match(data, at)
    assert match is not None
    return match.end()


def _wait(window: Window, table: Table | None, at: int) -> None:
    """Let pass what more bytes may complete.

    Raises:
        BreaksOff: There are no more.
        UserError: More bytes would not help.
    """
    data = window.data
    start = blank_end(data, at)
    value: re.Match[bytes] | None = None
    if not lexer.COMMENT_MARK.match(data, start):
        value = lexer.ANY_VALUE.match(data, start)
    end = blank_end(data, value.end()) if value else start
    is_open = lexer.COMMENT_MARK.match(data, end) or (not value and lexer.OPEN_STRING.match(data, end))
    if not window.ended and (is_open or len(data) - end < AHEAD):
        return
    of = f" of the table {table.name}" if table else ""
    if window.ended and (is_open or end == len(data)):
        raise BreaksOff(f"inside a row{of}")
    raise window.malformed(f"a row{of} holds something else than a constant, or a comma or quote is missing", start)
