"""Tells parts that were swapped by the rows: they go back in their order where one part ends and the next begins."""

import re
from collections.abc import Sequence
from itertools import islice
from operator import lt

from shridhar_ft.data.sources.mysql.stream import Stream
from shridhar_ft.data.sources.mysql.window import Window
from shridhar_ft.errors import UserError


class Order:
    """Watches the keys of tables whose rows are dumped in their order.

    What a swap does to the rows that the parts cut often goes unseen: two halves may make a row that looks whole.
    """

    def __init__(self, stream: Stream, window: Window) -> None:
        self._stream = stream
        self._window = window
        self._last: dict[str, int] = {}  # by table
        self._without: set[str] = set()  # tables that go back elsewhere too, and tell nothing

    def watch(self, table: str, keys: Sequence[bytes], rows_at: int, row: re.Pattern[bytes]) -> None:
        """Look at consecutive rows of a table.

        Args:
            table: Its name.
            keys: Their keys as they are written.
            rows_at: Where the first of them stands in the window.
            row: The pattern of a row.

        Raises:
            UserError: They go back at a joint, and did not before.
        """
        if table in self._without:
            return
        try:
            numbers = [self._last.get(table, float("-inf")), *map(int, keys)]
        except ValueError:
            self._without.add(table)
            return
        self._last[table] = int(numbers[-1])
        if all(map(lt, numbers, numbers[1:])):
            return
        back = next(index for index in range(len(keys)) if numbers[index + 1] <= numbers[index])
        matches = row.scanner(self._window.data, rows_at).match  # type: ignore[attr-defined]
        rows = list(islice(iter(matches, None), back + 2))
        if len(rows) > back:
            begin, end = self._window.offset(rows[max(back - 2, 0)].start()), self._window.offset(rows[-1].end())
            if any(begin <= joint <= end for joint in self._stream.joints()):
                raise UserError(
                    f"{self._window.place(rows[back].start())}: the rows of the table {table} go back where one part "
                    f"ends and the next begins; the parts are out of order or renamed: give them back their names"
                )
        self._without.add(table)
