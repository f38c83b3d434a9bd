"""Reads a source of rows in any format: picks its tables, filters, counts; as rows or as batches of columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from shridhar_ft import config_data
from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.csv_rows import read_csv
from shridhar_ft.data.sources.datasets_rows import dataset_columns, open_folder, open_hub, read_dataset
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.sources.filters import Filters
from shridhar_ft.data.sources.formats import Unit, unit_table, units_of
from shridhar_ft.data.sources.json_rows import read_json
from shridhar_ft.data.sources.mysql.charsets import DOUBLE
from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.data.sources.names import did_you_mean, listed
from shridhar_ft.data.sources.parquet_rows import parquet_columns, read_parquet
from shridhar_ft.data.sources.row import Row, batches_of, rows_of, size_of, table_name
from shridhar_ft.data.sources.text_stream import text_encoding
from shridhar_ft.errors import UserError

Columns = Callable[[str], Sequence[str]]
"""Columns that are needed of a table."""


class Reader:
    """One reading of a source."""

    def __init__(self, source: config_data.Rows, key: str, counts: RowCounts) -> None:
        """
        Args:
            source: Where the rows are, which tables and rows of them are read.
            key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.
            counts: Rows read and rows filtered are counted in it.
        """
        self.source, self.key, self.counts = source, key, counts
        self.columns: dict[str, dict[str, None]] = {}
        """Names of the columns by table, as far as it was read."""
        self.whole: set[str] = set()
        """Tables all of whose columns are known from the first row on; rows of JSON may differ."""
        self.rows_by_table: dict[str, int] = {table.name: 0 for table in source.tables}
        self._filters = Filters(source, key)
        self._chosen = {table.name for table in source.tables}
        self._there: dict[str, None] = {}  # names of all the source's tables
        self._several_dumps = False

    def rows(self, needed: Columns | None = None) -> Iterator[Row]:
        """The rows that stay, one at a time.

        Args:
            needed: Columns that are wanted of a table, where leaving out the others saves time (None: all of them).

        Raises:
            UserError: Something of the input is wrong, or, once all is read, a table or a filter's column that the
                recipe names was not there.
        """
        for unit in self._units():
            if unit is not None and unit.format in ("json", "jsonl", "csv", "auto"):
                for row in self._read_rows(unit):
                    self._meet(row.table, 1)
                    self.columns.setdefault(row.table, {}).update(dict.fromkeys(row.value))
                    if self._stays(row):
                        yield row
            else:
                for batch in self._read_batches(unit, needed and self._with_filters(needed)):
                    self._meet(batch.table, size_of(batch))
                    yield from filter(self._stays, rows_of(batch))
        self._check()

    def batches(self, needed: Columns) -> Iterator[Batch]:
        """Batches of the rows that stay, one table after another or mixed, as they stand in the source.

        Args:
            needed: Columns that are wanted of a table; those that it has are read.

        Raises:
            UserError: As `rows`.
        """
        for unit in self._units():
            for batch in self._read_batches(unit, self._with_filters(needed)):
                self._meet(batch.table, size_of(batch))
                places = self._filters.places(batch, self.counts.dropped)
                if places is None or len(places) == size_of(batch):
                    yield batch
                elif places:
                    columns = {name: [values[at] for at in places] for name, values in batch.columns.items()}
                    yield batch._replace(columns=columns)
        self._check()

    # -------------------------------------------------------------------------------------------- what is read

    def _units(self) -> list[Unit | None]:
        """What is read, None for the dataset on the Hub."""
        if self.source.encoding != DOUBLE:
            check_encoding(self.source.encoding, self.key)
        if self.source.hub is not None:
            self._there[self.source.hub.rpartition("/")[2]] = None
            self._check_tables()
            return [None]
        units = units_of(self.source, self.key)
        tables = {id(unit): unit_table(unit) for unit in units}
        self._there |= dict.fromkeys(name for name in tables.values() if name is not None)
        dumps = [unit for unit in units if unit.format == "mysql_dump"]
        if self.source.encoding == DOUBLE and (others := [unit for unit in units if unit not in dumps]):
            raise UserError(
                f"{self.key}.encoding: {DOUBLE} undoes what a MySQL dump encoded twice, and {others[0].paths[0]} is no "
                "dump; take it away, or make two sources"
            )
        self._several_dumps = len(dumps) > 1
        if not dumps:
            self._check_tables()
        return [unit for unit in units if (name := tables[id(unit)]) is None or self._is_chosen(name)]

    def _with_filters(self, needed: Columns) -> Columns:
        return lambda table: [*needed(table), *self._filters.columns(table)]

    def _is_chosen(self, table: str) -> bool:
        return not self._chosen or table in self._chosen

    def _read_rows(self, unit: Unit) -> Iterator[Row]:
        (file,) = unit.paths
        encoding = text_encoding(file, self.source.encoding, self.key)
        if unit.format == "csv":
            self.whole.add(table_name(file))
            rows = read_csv(file, encoding, self.key)
        else:
            assert unit.format in ("json", "jsonl", "auto")
            rows = read_json(file, unit.format, encoding, self.key)
        self._note(file.name, f"{'json' if unit.format == 'auto' else unit.format}, {encoding}")
        return rows

    def _read_batches(self, unit: Unit | None, needed: Columns | None) -> Iterator[Batch]:
        """Batches of a unit's chosen tables with the needed columns of those that are there."""
        if unit is None:
            assert self.source.hub is not None
            self._note(self.source.hub, "a dataset on the Hub")
            yield from self._of_dataset(open_hub(self.source, self.key), self.source.hub, needed)
        elif unit.format == "mysql_dump":
            yield from self._of_dump(unit.paths, needed)
        elif unit.format == "datasets":
            (folder,) = unit.paths
            self._note(folder.name, "a folder of the datasets library")
            yield from self._of_dataset(open_folder(folder, self.source.splits, self.key), folder.name, needed)
        elif unit.format == "parquet":
            (file,) = unit.paths
            self._note(file.name, "parquet")
            table = table_name(file)
            self._know(table, parquet_columns(file, self.key))
            yield from read_parquet(file, needed and needed(table), self.key)
        else:
            rows = self._read_rows(unit)
            first = next(rows)  # a file without rows is refused
            table = first.table
            yield from batches_of(self._noting_columns(chain([first], rows)), needed and needed(table))

    def _noting_columns(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.columns.setdefault(row.table, {}).update(dict.fromkeys(row.value))
            yield row

    def _of_dataset(self, splits: Mapping[str, object], name: str, needed: Columns | None) -> Iterator[Batch]:
        table = name.rpartition("/")[2]
        names = dataset_columns(splits)
        if names is not None:
            self._know(table, names)
        for batch in read_dataset(splits, name, needed and needed(table), self.key):
            self.columns.setdefault(table, {}).update(dict.fromkeys(batch.columns))
            yield batch

    def _of_dump(self, files: list[Path], needed: Columns | None) -> Iterator[Batch]:
        dump = Dump(files, self.key, self.source.encoding, self.source.partial)
        wanted = None
        # A dump refuses a table that it lacks. Of several dumps each may hold some of the tables, so these are read
        # with all their columns.
        if self._chosen and needed and not self._several_dumps:
            wanted = {name: list(dict.fromkeys(needed(name))) for name in self._chosen}
        for batch in dump.batches(wanted):
            if self._is_chosen(batch.table):
                self._know(batch.table, [column.name for column in dump.tables[batch.table].columns])
                yield batch
        self._there |= dict.fromkeys(name for name, table in dump.tables.items() if not table.is_view)
        self.rows_by_table |= {
            name: table.rows
            for name, table in dump.tables.items()
            if not table.is_view and name not in self.rows_by_table
        }
        if doubled := {name: columns for name, columns in dump.facts.double_encoded.items() if self._is_chosen(name)}:
            name, columns = next(iter(doubled.items()))
            raise UserError(
                f"{dump.name}: the texts of {name}.{columns[0]} are UTF-8 that MySQL took for latin1 and encoded "
                f"again; {self.key}.encoding={DOUBLE} undoes it"
            )
        self._note(dump.name, "; ".join(["a dump", *dump.facts.notes()]))

    # -------------------------------------------------------------------------------------------- what was met

    def _know(self, table: str, names: Sequence[str]) -> None:
        if table not in self.whole:
            self.whole.add(table)
            self.columns[table] = dict.fromkeys(names)

    def _meet(self, table: str, rows: int) -> None:
        self.counts.rows_in += rows
        self.rows_by_table[table] = self.rows_by_table.get(table, 0) + rows

    def _stays(self, row: Row) -> bool:
        why = self._filters.fails(row.table, row.value)
        if why:
            self.counts.dropped[why] += 1
        return why is None

    def _note(self, file: str, note: str) -> None:
        self.counts.notes[file] = note

    def _check_tables(self) -> None:
        for index, table in enumerate(self.source.tables):
            if table.name not in self._there:
                raise UserError(
                    f"{self.key}.tables.{index}: there is no table '{table.name}'; "
                    f"{did_you_mean(table.name, self._there)}"
                )

    def _check(self) -> None:
        """Refuse what the recipe names and the source does not have, or has empty."""
        self._check_tables()
        for index, table in enumerate(self.source.tables):
            if not self.rows_by_table[table.name]:
                full = [name for name, rows in self.rows_by_table.items() if rows]
                raise UserError(
                    f"{self.key}.tables.{index}: the table {table.name} is empty; take it out, or name one that has "
                    f"rows ({listed(full)})"
                )
        self._filters.check(self.columns)
