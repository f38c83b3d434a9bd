"""Reads a dump of MySQL or MariaDB: bytes in, rows out, batch by batch, in memory that does not grow with it."""

import re
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.sources.mysql import lexer
from shridhar_ft.data.sources.mysql.charsets import DOUBLE, text_decoder
from shridhar_ft.data.sources.mysql.create_table import Column, Table, kind_of_create, parse_create_table, unquote
from shridhar_ft.data.sources.mysql.facts import Facts
from shridhar_ft.data.sources.mysql.foreign import HEAD, STATEMENTS, foreign_dump, looks_like_dump
from shridhar_ft.data.sources.mysql.layout import Layout, Wanted, check_columns, check_tables, lay_out, listed_columns
from shridhar_ft.data.sources.mysql.order import Order
from shridhar_ft.data.sources.mysql.parts import dump_groups, dump_name
from shridhar_ft.data.sources.mysql.rows import WIDEST, BreaksOff, another_follows, read_row
from shridhar_ft.data.sources.mysql.session import Session
from shridhar_ft.data.sources.mysql.stream import Stream
from shridhar_ft.data.sources.mysql.values import BadValue, Convert, converter
from shridhar_ft.data.sources.mysql.window import AHEAD, CHUNK, Window
from shridhar_ft.errors import UserError

__all__ = ["Column", "Dump", "Facts", "Table", "dump_groups", "foreign_dump", "looks_like_dump"]

ROWS = 10_000
"""Most rows of a batch."""
LAYOUTS = 64
"""Most ways of writing an INSERT that are remembered."""
_HEAD_OF_INSERT = 1 << 20  # bytes: 4096 columns with names of 64 characters
_QUIET = {
    "set",
    "lock",
    "unlock",
    "drop",
    "use",
    "commit",
    "start",
    "begin",
    "flush",
    "create database",
    "create schema",
}
"""Statements that neither bear rows nor code, and are not counted."""


class Dump:
    """One dump, in one file or in parts.

    With `encoding: auto` texts are decoded by the client charset that the dump sets (SET NAMES; with `binary`, by
    their column's own), with a Python codec's name by that, and with `double` as with auto, after which the double
    encoding is undone that MySQL made of UTF-8 that came as latin1. Under auto such texts are told (`facts`), and
    left alone.
    """

    def __init__(self, files: Sequence[Path], key: str, encoding: str = "auto", partial: bool = False) -> None:
        """Nothing is read yet.

        Args:
            files: The file, or the parts in their order (see `dump_groups`).
            key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.
            encoding: auto, double, or the name of a codec.
            partial: Whether a dump that breaks off is read up to its last whole row, instead of refused.

        Raises:
            UserError: There is no such encoding.
        """
        if encoding != DOUBLE:
            check_encoding(encoding, key)
        self.files = tuple(files)
        self.name = dump_name(files)
        self.key = key
        self.encoding = encoding
        self.partial = partial
        self.tables: dict[str, Table] = {}
        self.facts = Facts()

    def batches(self, wanted: Wanted | None = None, chunk: int = CHUNK) -> Iterator[Batch]:
        """Read the dump from its beginning.

        Args:
            wanted: Columns by table; others are lexed, counted and not converted. None: every column of every table.
            chunk: Bytes to read at once; a batch holds the rows of one such stretch, and at most ROWS.

        Returns:
            The rows in their order. Values are int, float, Decimal, str (texts, dates, times, JSON), bytes (binary
            types and geometry) or None. `tables` and `facts` are filled on the way.

        Raises:
            UserError: The dump is another engine's, damaged, cut off or written in a way that cannot be read, or lacks
                a table or column that is wanted.
        """
        self.tables = {}
        self.facts = Facts()
        stream = Stream(self.files)
        try:
            yield from _Reading(self, stream, wanted, chunk).run()
        finally:
            stream.close()


class _Reading:
    """One reading of a dump, from its first byte to its last."""

    def __init__(self, dump: Dump, stream: Stream, wanted: Wanted | None, chunk: int) -> None:
        self.dump = dump
        self.tables = dump.tables
        self.facts = dump.facts
        self.wanted = wanted
        self.stream = stream
        self.window = Window(stream, chunk)
        self.session = Session(dump.facts)
        self.keys: dict[tuple[str | None, str], str] = {}  # (database, table) -> name in tables
        self.layouts: dict[tuple[bytes, str | None, str | None], Layout] = {}
        self.layout: Layout | None = None
        self.rows: list[tuple[bytes, ...]] = []
        self.order = Order(stream, self.window)
        self.rows_at = 0  # where the first of rows stands in the window

    # -------------------------------------------------------------------------------------- statements

    def run(self) -> Iterator[Batch]:
        window = self.window
        while len(window.data) < HEAD and not window.ended:
            window.more()
        if engine := foreign_dump(window.data[:HEAD]):
            raise UserError(
                f"{self.dump.files[0]}: this dump is not MySQL's, it was written by {engine}; "
                f"give a dump that mysqldump or mariadb-dump wrote"
            )
        if window.data.startswith(b"\xef\xbb\xbf"):
            window.at = 3
        try:
            while not (yield from self._statement()):
                pass
            if self.session.unfinished:
                raise BreaksOff("before its closing line, '-- Dump completed'")
        except BreaksOff as error:
            what = f"{self.dump.files[-1]}: the dump breaks off {error} ({window.place()})"
            if not self.dump.partial:
                raise UserError(
                    f"{what}; find the missing part, or read what is there with {self.dump.key}.partial=true"
                ) from None
            self.facts.truncated = what
        yield from self._flush()
        check_tables(self.tables, self.wanted, str(self.dump.files[0]))

    def _more(self) -> Iterator[Batch]:
        """Read on; rows that were read are handed over first, as their bytes are let go."""
        yield from self._flush()
        self.window.more()

    def _statement(self) -> Generator[Batch, None, bool]:
        """Read one statement; True at the dump's end."""
        window, session = self.window, self.session
        data, at = window.data, window.at
        blank = lexer.BLANK.match(data, at)
        assert blank is not None
        if not window.ended and blank.end() > len(data) - AHEAD:
            yield from self._more()
            return False
        session.comments(blank[0])
        window.at = at = blank.end()
        if at == len(data):
            return True
        if delimiter := lexer.DELIMITER.match(data, at):
            session.delimiter = delimiter[1]
            window.at = delimiter.end()
            return False
        if data.startswith(session.delimiter, at):
            window.at += len(session.delimiter)
            return False
        if _first_word(data, at) not in STATEMENTS and not lexer.COMMENT_MARK.match(data, at):
            raise window.malformed("what begins here is no statement of MySQL", at)
        if lexer.INSERT_WORD.match(data, at):
            if head := lexer.INSERT.match(data, at):
                session.check_rows(window.place())
                yield from self._insert(head)
                return False
            if not window.ended and len(data) - at < _HEAD_OF_INSERT:
                yield from self._more()
                return False
        pattern = lexer.statement_pattern(session.delimiter, session.backslashes)
        found = pattern.match(data, at)
        if not found and not window.ended:
            yield from self._more()
            return False
        # The last statement of a file written by hand may lack its delimiter.
        found = found or pattern.match(data + session.delimiter, at)
        if not found:
            raise BreaksOff("in the middle of a statement")
        self._take(found[1])
        window.at = min(found.end(), len(data))
        return False

    def _take(self, statement: bytes) -> None:
        """Learn from a statement that bears no rows."""
        statement = lexer.VERSION_MARKS.sub(b" ", statement)
        first = _first_word(statement, 0)
        place = self.window.place()
        kind = first
        if first == "set":
            self.session.set(statement, place)
        elif first == "use":
            self.session.use(statement)
        elif first == "create":
            what, name = kind_of_create(statement)
            kind = f"create {what}" if what in ("database", "schema") else what
            if what == "table" and self._create_table(statement, place):
                return
            if what == "view":
                key = self._key(self.session.database, unquote(name, self.session.identifier))
                if key in self.tables and self.tables[key].is_view:
                    return  # first a placeholder is created, for views that need one another
                self.tables[key] = Table(key, is_view=True)
        elif first == "copy" and lexer.COPY.match(statement):
            raise UserError(f"{place}: this is a dump of PostgreSQL; give a dump that mysqldump or mariadb-dump wrote")
        elif first in ("insert", "replace"):
            kind = f"{first} without rows"
        elif first == "alter" and lexer.ALTER_KEYS.search(statement):
            return
        if kind not in _QUIET:
            self.facts.skipped[kind] += 1

    def _create_table(self, statement: bytes, place: str) -> bool:
        created = parse_create_table(statement, self.session.identifier)
        if created is None:
            return False
        key = self._key(created.database or self.session.database, created.name)
        known = self.tables.get(key)
        if known and known.rows + len(self.rows if self.layout and self.layout.table is known else ()):
            if created.careful:
                return True
            raise UserError(
                f"{place}: the table {key} is created a second time, after rows of it; this file holds two dumps, "
                f"one after the other: give one of them"
            )
        self.tables[key] = table = Table(key, created.columns, ordered_by=created.ordered_by)
        check_columns(table, self.wanted, place)
        return True

    def _key(self, database: str | None, name: str) -> str:
        """The table's name, with its database's if another database of this dump has one of the same name."""
        key = self.keys.get((database, name))
        if key is None:
            key = f"{database}.{name}" if database and name in self.keys.values() else name
            self.keys[database, name] = key
        return key

    # -------------------------------------------------------------------------------------------- rows

    def _insert(self, head: re.Match[bytes]) -> Iterator[Batch]:
        """Read the rows of an INSERT, up to behind its delimiter."""
        window = self.window
        signature = (head[0], self.session.client, self.session.database)
        layout = self.layouts.get(signature)
        window.at = head.end()
        if layout is None:
            yield from self._flush()
            width = None
            if not head[3]:
                while (first := read_row(window, None, WIDEST, 0)) is None:
                    yield from self._more()
                width = len(first[0])
            layout = self._lay_out(head, width)
            if len(self.layouts) >= LAYOUTS:
                self.layouts.clear()
            self.layouts[signature] = layout
        if layout is not self.layout:
            yield from self._flush()
            self.layout = layout
        scanner = layout.row.scanner  # type: ignore[attr-defined]  # like finditer, but no gap is passed over
        while True:
            if not self.rows:
                self.rows_at = window.at
            # First as many rows as stand there the way mysqldump writes them, at full speed.
            last, room = None, ROWS - len(self.rows)
            for last in islice(iter(scanner(window.data, window.at).match, None), room):
                self.rows.append(last.groups())
            if last:
                window.at = last.end()
                full = len(self.rows) >= ROWS
                if full:
                    yield from self._flush()
                if window.data.startswith(b"(", window.at):
                    if full:
                        continue
                else:
                    break
            # Then one that is written in another way, or not wholly in the window.
            row = read_row(window, layout.table, layout.width, layout.table.rows + len(self.rows))
            if row is None:
                yield from self._more()
                continue
            values, window.at = row
            self.rows.append(tuple(values[place] for place in layout.places))
            while (follows := another_follows(window, layout.table, self.session.delimiter)) is None:
                yield from self._more()
            if not follows:
                return
        while another_follows(window, layout.table, self.session.delimiter) is None:
            yield from self._more()

    def _lay_out(self, head: re.Match[bytes], width: int | None) -> Layout:
        """How to read the rows behind this head; a table that no CREATE TABLE told is made up from it."""
        identifier = self.session.identifier
        names = [unquote(name, identifier) for name in head.group(1, 2) if name]
        key = self._key(names[0] if len(names) > 1 else self.session.database, names[-1])
        table = self.tables.get(key)
        if table is None or table.is_view:
            columns = listed_columns(head, identifier) or [f"column_{place}" for place in range(1, (width or 0) + 1)]
            table = self.tables[key] = Table(key, tuple(Column(name, "") for name in columns), told=False)
            check_columns(table, self.wanted, self.window.place())
        watch = len(self.dump.files) > 1 and table.ordered_by is not None
        return lay_out(self.window, head, table, width, self.wanted, watch, identifier, self._converter)

    def _converter(self, column: Column) -> Convert:
        return converter(column, text_decoder(self.dump.encoding, self.session.client, column.charset))

    def _flush(self) -> Iterator[Batch]:
        """Hand over the rows that were read."""
        if not self.rows:
            return
        assert self.layout is not None
        layout, table, rows = self.layout, self.layout.table, self.rows
        self.rows = []
        number = table.rows
        table.rows += len(rows)
        values = list(zip(*rows, strict=True))
        if layout.key is not None:
            self.order.watch(table.name, values[layout.key], self.rows_at, layout.row)
        if not layout.columns:
            return
        columns: dict[str, list[Any]] = {}
        for column, index, convert in layout.columns:
            if index is None:
                columns[column.name] = [None] * len(rows)  # this INSERT does not list it
                continue
            try:
                converted = convert(values[index])
            except BadValue as error:
                raise self._bad_value(table, column, error) from error
            if column.is_text or not column.type:
                if self.dump.encoding == DOUBLE:
                    converted = self.facts.repair(converted)
                else:
                    self.facts.look_at(table.name, column.name, converted)
            columns[column.name] = converted
        yield Batch(table.name, self.dump.name, self.window.place(self.rows_at), number, columns)

    def _bad_value(self, table: Table, column: Column, error: BadValue) -> UserError:
        window = self.window
        at = max(window.data.find(error.token, self.rows_at), self.rows_at)
        what = f"a value of {table.name}.{column.name} {error.reason}"
        begin, end = window.offset(at), window.offset(at + len(error.token))
        if not error.is_encoding or any(begin < joint < end for joint in self.stream.joints()):
            return window.malformed(what, at)
        return UserError(
            f"{window.place(at)}: {what}; if the texts are in another charset, say so with {self.dump.key}.encoding=… "
            f"(a codec's name, e.g. cp1251)"
        )


def _first_word(data: bytes, at: int) -> str:
    match = lexer.WORD.match(data, at)
    assert match is not None  # it may be empty
    return match[1].decode("latin-1").lower()
