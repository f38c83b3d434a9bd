"""A row of a source, one at a time, and the way between rows and batches of them."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from shridhar_ft.data.sources.batches import Batch

BATCH_ROWS = 1000
"""Rows of a batch that is made here."""


class Row(NamedTuple):
    """One row of a source."""

    number: int
    """Its number in its table, from 0."""
    where: str
    """FILE:LINE, or FILE row N (from 1), for messages."""
    value: dict[str, Any]
    """Values by column; a row of JSON may lack some of its table's columns."""
    file: str
    """Name of its file."""
    table: str
    """Name of its table; that of the file's stem for formats without tables."""


def table_name(path: Path) -> str:
    """The name of the table that a file or folder is: its stem, `talks` for `talks.jsonl.gz`."""
    name = path.name.removesuffix(".gz")
    return name if path.is_dir() else Path(name).stem


def rows_of(batch: Batch) -> Iterator[Row]:
    """The rows of a batch."""
    names = list(batch.columns)
    for number, values in enumerate(zip(*batch.columns.values(), strict=True), start=batch.number):
        yield Row(number, place(batch, number), dict(zip(names, values, strict=True)), batch.file, batch.table)


def place(batch: Batch, number: int) -> str:
    """Where the row of this number stands: FILE row N, and the table where the file does not tell it."""
    table = "" if Path(batch.file).name.startswith(batch.table) else f" {batch.table}"
    return f"{batch.file}{table} row {number + 1}"


def batches_of(rows: Iterable[Row], wanted: Collection[str] | None) -> Iterator[Batch]:
    """Rows of one table put together; a column that a row lacks holds None.

    Args:
        rows: Rows of one table, in order.
        wanted: The columns of the batches (None: all that their rows have).
    """
    rows = iter(rows)
    while held := list(islice(rows, BATCH_ROWS)):
        names = dict.fromkeys(wanted if wanted is not None else (name for row in held for name in row.value))
        columns = {name: [row.value.get(name) for row in held] for name in names}
        yield Batch(held[0].table, held[0].file, held[0].where, held[0].number, columns)


def size_of(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.columns.values()), ()))


def kind(value: object) -> str:
    """What JSON calls this value, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
