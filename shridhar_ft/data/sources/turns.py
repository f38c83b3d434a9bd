"""Conversations from rows that are a turn each: grouped across a whole source, in memory that does not grow with it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from shridhar_ft import config_data
from shridhar_ft.data.records import Dialogue
from shridhar_ft.data.sources.counts import NO_TIME, RowCounts
from shridhar_ft.data.sources.formats import row_files
from shridhar_ft.data.sources.names import did_you_mean
from shridhar_ft.data.sources.reading import Reader
from shridhar_ft.data.sources.sessions import conversations, ordered
from shridhar_ft.data.sources.spill import UNKNOWN, Spill, partitions_for
from shridhar_ft.data.sources.text_stream import is_packed
from shridhar_ft.data.sources.turn_batches import ROLES, TurnMaker, schema
from shridhar_ft.errors import UserError

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")
UNPACKED = 8  # times the size of a packed file


def read_conversations(
    source: config_data.Dialogues, key: str, counts: RowCounts, spill: Path | None
) -> Iterator[Dialogue]:
    """Read all rows, then hand over the conversations that they make up.

    Args:
        source: Where the rows are and what their columns mean.
        key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.
        counts: Filled with the numbers of rows and conversations.
        spill: An existing folder that turns are sorted in (None: the system's folder for temporary files).

    Returns:
        Conversations, or their sessions, in the order of a hash of `columns.conversation`, which is their id too: see
        `sessions.conversations`. All of them are said to stand in the first file, as one may have turns of several.

    Raises:
        UserError: Something of the input is wrong, a mapped column is not there, or no conversation has both sides.
    """
    if source.session_gap is not None and not all(
        (table.columns.time or source.columns.time) for table in source.tables or [config_data.Table(name="")]
    ):
        raise UserError(f"{key}.session_gap needs the time of every turn; name its column with {key}.columns.time=…")
    maker = TurnMaker(source, key, counts)
    with (
        TemporaryDirectory(prefix="turns-", dir=spill) as folder,
        Spill(Path(folder), schema(), partitions_for(_size(source, key))) as turns,
    ):
        name = _spill(source, key, counts, maker, turns)
        both = False
        for partition in turns.partitions():
            found = ordered(partition, source.session_gap)
            counts.conversations += found.conversations
            counts.sessions_cut += len(found.sessions) - found.conversations
            if found.timeless:
                counts.dropped[NO_TIME] += found.timeless
            for id_, messages in conversations(found):
                both = both or len({message.role for message in messages} - {"system"}) == 2
                yield Dialogue(name, id_, messages)
    if not both:
        raise UserError(_never_meet(source, key, counts))


def _size(source: config_data.Dialogues, key: str) -> int:
    """About how many bytes the source has, unpacked."""
    if source.hub:
        return UNKNOWN
    return sum(
        file.stat().st_size * (UNPACKED if is_packed(file) or file.suffix in (".zst", ".parquet") else 1)
        for file in row_files(source, key)
    )


def _spill(source: config_data.Dialogues, key: str, counts: RowCounts, maker: TurnMaker, turns: Spill) -> str:
    """Read all rows into the partitions, check what they held, and return what to call the source."""
    reader = Reader(source, key, counts)
    name = ""
    seen: set[str] = set()
    for batch in reader.batches(lambda table: list(maker.mapping(table).columns())):
        if batch.table not in seen:
            seen.add(batch.table)
            if batch.table in reader.whole:
                _check_columns(reader, maker, batch.table)
        name = name or batch.file
        turns.append(maker.turns(batch))
    for table in seen:
        _check_columns(reader, maker, table)
    for table, timed in maker.timed.items():
        if not timed:
            mapping = maker.mapping(table)
            raise UserError(
                f"{mapping.key}.columns.time: no value of {' or '.join(mapping.time)} in {table} is a time such as "
                f"2018-02-01 23:23:46 or seconds since 1970; name the right column, or take the key away"
            )
    _check_sides(source, key, counts, maker)
    return name


def _check_columns(reader: Reader, maker: TurnMaker, table: str) -> None:
    """Refuse a mapped column that the table does not have."""
    mapping = maker.mapping(table)
    for name, column in mapping.columns().items():
        if name not in reader.columns[table]:
            raise UserError(
                f"{mapping.key}.columns.{column}: {table} has no column '{name}'; "
                f"{did_you_mean(name, reader.columns[table])}"
            )


def _check_sides(source: config_data.Dialogues, key: str, counts: RowCounts, maker: TurnMaker) -> None:
    """Refuse a mapping by which only one side speaks."""
    spoke = {role for roles in maker.spoke.values() for role in roles}
    if not spoke:
        raise UserError(
            f"{key}: none of its {counts.rows_in:,} rows is a turn ({counts.reasons()}); mend {key}.columns or "
            f"{key}.filter"
        )
    for side, other, says in ((ASSISTANT, USER, "answers"), (USER, ASSISTANT, "asks")):
        if side in spoke:
            continue
        tables = ", ".join(sorted(maker.spoke))
        silent = [table.name for table in source.tables if table.role == ROLES[side]]
        if silent:
            mend = f"no row of {silent[0]} could be used ({counts.reasons()}); mend the columns or filter of it"
        elif any(maker.mapping(table).role for table in maker.spoke):
            mend = f"say which value of the role column is the one who {says} with {key}.roles={{VALUE: {ROLES[side]}}}"
        else:
            mend = (
                f"name the table in which the other side's messages stand with "
                f"{key}.tables=[…, {{name: …, role: {ROLES[side]}}}]"
            )
        raise UserError(f"{key}: every turn of {tables} is the {ROLES[other]}'s, nobody {says}; {mend}")


def _never_meet(source: config_data.Dialogues, key: str, counts: RowCounts) -> str:
    between = f" between {' and '.join(table.name for table in source.tables)}" if len(source.tables) > 1 else ""
    gap = f", or {key}.session_gap longer" if counts.sessions_cut else ""
    return (
        f"{key}: none of the {counts.conversations:,} conversations has both sides; make {key}.columns.conversation "
        f"the columns whose values questions and answers share{between}{gap}"
    )
