"""How the rows of an INSERT are read: which values belong to which columns, and which of them are wanted."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shridhar_ft.data.sources.mysql import lexer
from shridhar_ft.data.sources.mysql.charsets import Decode
from shridhar_ft.data.sources.mysql.create_table import Column, Table, unquote
from shridhar_ft.data.sources.mysql.rows import wrong_width
from shridhar_ft.data.sources.mysql.values import Convert
from shridhar_ft.data.sources.mysql.window import Window
from shridhar_ft.errors import UserError

Wanted = Mapping[str, Sequence[str]]
"""Columns by table."""


@dataclass
class Layout:
    """How the rows behind one head of an INSERT are read."""

    table: Table
    width: int
    row: re.Pattern[bytes]
    places: tuple[int, ...]
    """Of the captured values in a row."""
    columns: list[tuple[Column, int | None, Convert]]
    """Columns of the batch, with their place among the captured values; None if this INSERT does not list it."""
    key: int | None
    """Place among the captured values of the column whose order is watched, if one is."""


def lay_out(
    window: Window,
    head: re.Match[bytes],
    table: Table,
    width: int | None,
    wanted: Wanted | None,
    watch: bool,
    decode: Decode,
    convert: Callable[[Column], Convert],
) -> Layout:
    """Decide how the rows behind a head are read.

    Args:
        window: Where it stands.
        head: The INSERT up to its first row.
        table: Its table; columns that it lists are added if no CREATE TABLE told them.
        width: Values of its first row, if it lists no columns.
        wanted: Columns by table; None: all.
        watch: Whether to capture the column that rows are ordered by.
        decode: Decoder of names.
        convert: The converter of a column.

    Raises:
        UserError: The rows do not fit the table.
    """
    there = [column for column in table.columns if not column.invisible]
    if head[3]:
        there = [_column(window, table, name) for name in listed_columns(head, decode)]
    elif width != len(there):
        raise wrong_width(window, table, table.rows, str(width), len(there))
    chosen = there
    if wanted is not None:
        by_name = {column.name: column for column in table.columns}
        chosen = [by_name[name] for name in wanted.get(table.name, ())]
    captured = {column.name for column in chosen} | ({table.ordered_by} if watch else set())
    places = tuple(place for place, column in enumerate(there) if column.name in captured)
    order = {there[place].name: index for index, place in enumerate(places)}
    return Layout(
        table,
        len(there),
        lexer.row_pattern(len(there), places, head[0]),
        places,
        [(column, order.get(column.name), convert(column)) for column in chosen],
        order.get(table.ordered_by) if watch and table.ordered_by else None,
    )


def listed_columns(head: re.Match[bytes], decode: Decode) -> list[str]:
    """The columns that an INSERT lists."""
    return [unquote(name, decode) for name in lexer.LISTED.findall(head[3] or b"")]


def check_columns(table: Table, wanted: Wanted | None, place: str) -> None:
    """Refuse a wanted column that this table lacks.

    Raises:
        UserError: Names it, and the nearest.
    """
    by_name = {column.name: column for column in table.columns}
    for name in (wanted or {}).get(table.name, ()):
        if name not in by_name:
            raise UserError(f"{place}: the table {table.name} has no column '{name}'; {_near(name, by_name, 'it has')}")
        if by_name[name].generated:
            raise UserError(
                f"{place}: the column {table.name}.{name} is computed by the server and not in the dump; "
                f"take what it is computed from"
            )


def check_tables(tables: Mapping[str, Table], wanted: Wanted | None, place: str) -> None:
    """Refuse a wanted table that was not there, or is a view.

    Raises:
        UserError: Names it, and the nearest.
    """
    for name in wanted or ():
        if name not in tables:
            raise UserError(f"{place}: the dump has no table '{name}'; {_near(name, tables, 'there are')}")
        if tables[name].is_view:
            raise UserError(
                f"{place}: {name} is a view, whose rows are not in the dump; take the tables that it is made of"
            )


def _column(window: Window, table: Table, name: str) -> Column:
    """The column of this name, which MySQL compares without regard to case."""
    for column in table.columns:
        if column.name.lower() == name.lower():
            return column
    if table.told:
        raise window.malformed(f"a row names the column {name}, which the table {table.name} lacks", window.at)
    column = Column(name, "")
    table.columns += (column,)
    return column


def _near(name: str, names: Mapping[str, Any], listing: str) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}{listing} {', '.join(list(names)[:40]) or 'none'}"
