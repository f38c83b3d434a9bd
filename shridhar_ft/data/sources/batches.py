"""A batch: some rows of one table, column by column; what every reader of rows hands over."""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Consecutive rows of one table."""

    table: str
    """Its name; that of the file's stem for formats without tables."""
    file: str
    """Name of the file (a dump in parts: the dump's common name)."""
    where: str
    """Where the first row stands, for messages: FILE:LINE, or FILE and byte."""
    number: int
    """Number of the first row in its table, from 0."""
    columns: dict[str, list[Any]]
    """Values by column, all columns equally long."""
