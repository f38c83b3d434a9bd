"""`filter:` of a source and of its tables: which rows stay, by what their columns hold."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from shridhar_ft import config_data
from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.names import did_you_mean
from shridhar_ft.data.sources.row import size_of
from shridhar_ft.errors import UserError

_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,2})?")
_WIDEST_BITS = 8  # bytes of a BIT column


def forms(value: object) -> set[object]:
    """All that a value may be written as; two values are the same if they have a form in common.

    A truth is 1 or "true", bits are the number that they make, text may be the text of a number, and an empty cell of
    CSV, which knows no NULL, is also none.
    """
    if value is None:
        return {None}
    if isinstance(value, bool):
        return {int(value), str(value).lower()}
    if isinstance(value, int | float | Decimal):
        return {value}
    if isinstance(value, bytes):
        number = {int.from_bytes(value)} if 0 < len(value) <= _WIDEST_BITS else set()
        return {value.decode("utf-8", errors="replace")} | number
    text = value if isinstance(value, str) else str(value)
    found: set[object] = {text, None} if not text else {text}
    if text.lower() in ("true", "false"):
        found.add(text.lower())
    if _NUMBER.fullmatch(text):
        found.add(int(text) if text.lstrip("+-").isdecimal() else float(text))
    return found


class Filters:
    """The conditions of a source; a row stays if its columns meet all of them."""

    def __init__(self, source: config_data.Rows, key: str) -> None:
        """
        Args:
            source: Its `filter` and those of its tables are taken.
            key: Recipe key of the source, e.g. `data.dialogues.0`.
        """
        self._common = [(f"{key}.filter", column, _wanted(value)) for column, value in source.filter.items()]
        self._own = {
            table.name: [
                (f"{key}.tables.{index}.filter", column, _wanted(value)) for column, value in table.filter.items()
            ]
            for index, table in enumerate(source.tables)
        }

    def columns(self, table: str) -> list[str]:
        """The columns that conditions for this table's rows look at."""
        return [column for _, column, _ in self._of(table)]

    def fails(self, table: str, row: Mapping[str, Any]) -> str | None:
        """Why this row goes, or None if it stays."""
        for _, column, wanted in self._of(table):
            if wanted.isdisjoint(forms(row.get(column))):
                return reason(column)
        return None

    def places(self, batch: Batch, dropped: Counter[str]) -> list[int] | None:
        """Places of the rows of a batch that stay, None if no condition looks at them; the others are counted."""
        conditions = self._of(batch.table)
        if not conditions:
            return None
        stay = range(size_of(batch))
        for _, column, wanted in conditions:
            values = batch.columns.get(column) or [None] * size_of(batch)
            memo: dict[object, bool] = {}  # a column that is filtered by holds few different values
            left = [place for place in stay if _meets(values[place], wanted, memo)]
            if len(left) < len(stay):
                dropped[reason(column)] += len(stay) - len(left)
            stay = left  # type: ignore[assignment]
        return list(stay)

    def check(self, columns: Mapping[str, Collection[str]]) -> None:
        """Refuse a column that no row had, once all are read.

        Args:
            columns: Names of the columns that were met, by table.

        Raises:
            UserError: A column stands in no row; names the nearest one.
        """
        every = dict.fromkeys(name for names in columns.values() for name in names)
        _check(self._common, every)
        for table, conditions in self._own.items():
            _check(conditions, columns.get(table, ()))

    def _of(self, table: str) -> list[tuple[str, str, set[object]]]:
        return self._common + self._own.get(table, [])


def reason(column: str) -> str:
    """How rows are named that a condition on this column drops."""
    return f"filtered by {column}"


def _wanted(value: object) -> set[object]:
    """The forms of the value, or of any of the values, that a recipe asks for."""
    values = value if isinstance(value, list) else [value]
    return {form for one in values for form in forms(one) if form is not None or one is None}


def _meets(value: object, wanted: set[object], memo: dict[object, bool]) -> bool:
    try:
        found = memo.get((type(value), value))
    except TypeError:  # a list or an object
        return not wanted.isdisjoint(forms(value))
    if found is None:
        found = not wanted.isdisjoint(forms(value))
        if len(memo) < 1000:
            memo[type(value), value] = found
    return found


def _check(conditions: Iterable[tuple[str, str, set[object]]], columns: Collection[str]) -> None:
    for key, column, _ in conditions:
        if column not in columns:
            raise UserError(f"{key}: no row has the column '{column}'; {did_you_mean(column, columns)}")
