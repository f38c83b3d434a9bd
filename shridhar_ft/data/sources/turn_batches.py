"""Batches of rows, each a turn, brought into the one form that they are sorted in: keys, times, roles, bytes."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from shridhar_ft import config_data
from shridhar_ft.data.records import Role
from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.counts import NO_CONVERSATION, NO_ROLE, NO_TEXT, NO_TIME, SERVICE, RowCounts
from shridhar_ft.data.sources.filters import forms
from shridhar_ft.data.sources.row import kind, size_of
from shridhar_ft.data.sources.shapes import ANYONE, DROP, columns_of, role_of
from shridhar_ft.data.sources.times import microseconds
from shridhar_ft.data.sources.turn_keys import conversation_keys, order_columns
from shridhar_ft.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ROLES: tuple[Role, ...] = get_args(Role)
SERVED = -1
DEFAULT_TEXT = "text"
TRUTHS = {"true": True, "false": False}


class TableMapping(NamedTuple):
    """What the columns of a table mean."""

    rank: int
    """Its place among the recipe's tables."""
    key: str
    """Recipe key that it is mapped by, for messages."""
    conversation: list[str]
    time: list[str]
    order: str | None
    text: str
    role: str | None
    """The column that says who speaks, where the table does not."""
    speaker: Role | None
    """Who says all that stands in the table."""

    def columns(self) -> dict[str, str]:
        """Columns that are needed, and the key of `columns` that each is mapped by."""
        named = dict.fromkeys(self.conversation, "conversation") | dict.fromkeys(self.time, "time")
        single = ((self.order, "order"), (self.role, "role"), (self.text, "text"))
        return named | {name: column for name, column in single if name}


def mapping_of(source: config_data.Dialogues, table: str, key: str) -> TableMapping:
    """What the recipe says of a table.

    Raises:
        UserError: It does not say who speaks, or does not say which conversation a row belongs to.
    """
    columns = columns_of(source, table)
    rank, own = next(((rank, one) for rank, one in enumerate(source.tables) if one.name == table), (0, None))
    where = key if own is None else f"{key}.tables.{rank}"
    speaker = own.role if own else None
    if speaker and own and own.columns.role:
        raise UserError(f"{where}.columns.role has no effect where {where}.role is given; keep one of them")
    if not speaker and not columns.role:
        raise UserError(
            f"{where}: it is not said who speaks; name the column that says it with {key}.columns.role=…, or, where "
            f"questions and answers stand in a table each, say {key}.tables=[{{name: …, role: user}}, …]"
        )
    if not columns.conversation:
        raise UserError(
            f"{where}.columns.conversation: name the column, or the columns, that all rows of one conversation share"
        )
    return TableMapping(
        rank,
        where,
        columns.conversation,
        columns.time,
        columns.order,
        columns.text or DEFAULT_TEXT,
        None if speaker else columns.role,
        speaker,
    )


def schema() -> "pa.Schema":
    """The form of a turn; its parts that order it are numbers, so that sorting need not look at Python's objects."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key_high", pa.uint64()),  # xxh3 (128 bits) of the conversation's columns
            ("key_low", pa.uint64()),
            ("time", pa.int64()),  # microseconds since 1970
            ("rank", pa.int32()),
            ("order_kind", pa.int8()),
            ("order_whole", pa.int64()),
            ("order_rest", pa.float64()),  # behind the point
            ("order_text", pa.large_binary()),
            ("position", pa.int64()),  # among all rows of the source
            ("role", pa.int8()),  # of ROLES
            ("text", pa.large_binary()),  # UTF-8 with halves of surrogate pairs, which JSON can bring in
        ]
    )


class TurnMaker:
    """Makes turns of rows, counts those that are none, and watches what the tables hold."""

    def __init__(self, source: config_data.Dialogues, key: str, counts: RowCounts) -> None:
        """
        Args:
            source: What the columns mean.
            key: Recipe key of the source, e.g. `data.dialogues.0`.
            counts: Rows that cannot be used are counted in it.
        """
        self._source, self._key, self._counts = source, key, counts
        self._mappings: dict[str, TableMapping] = {}
        self._roles: dict[str, dict[Any, int | None]] = {}
        self._position = 0
        self.spoke: dict[str, set[int]] = {}
        """Roles that had a turn, by table."""
        self.timed: dict[str, bool] = {}
        """Whether a time was read, by tables that have something in a column for it."""

    def mapping(self, table: str) -> TableMapping:
        """What the recipe says of a table."""
        if table not in self._mappings:
            self._mappings[table] = mapping_of(self._source, table, self._key)
        return self._mappings[table]

    def turns(self, batch: Batch) -> "pa.RecordBatch":
        """The turns of a batch, in the order of its rows."""
        import numpy as np
        import pyarrow as pa

        mapping = self.mapping(batch.table)
        size = size_of(batch)
        first, self._position = self._position, self._position + size

        def values(name: str) -> list[Any]:
            return batch.columns.get(name) or [None] * size

        keys = conversation_keys([values(name) for name in mapping.conversation])
        try:
            texts = [_bytes(value) for value in values(mapping.text)]
        except (TypeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{batch.where} or below: {mapping.text} of {batch.table} holds something else than text; name the "
                f"right column with {mapping.key}.columns.text=…"
            ) from error
        times = self._times(batch.table, [values(name) for name in mapping.time], size)
        order = values(mapping.order) if mapping.order else [None] * size
        must_have_time = bool(mapping.time) and mapping.order is None
        timeless = times.is_null().to_numpy(zero_copy_only=False) if must_have_time else np.zeros(size, bool)
        roles = self._roles_of(batch, mapping, values, size)

        stay = []
        gone: Counter[str] = Counter()
        for at, (key, text, role) in enumerate(zip(keys, texts, roles, strict=True)):
            if key is None:
                gone[NO_CONVERSATION] += 1
            elif text is None:
                gone[NO_TEXT] += 1
            elif role is None:
                gone[NO_ROLE] += 1
            elif role == SERVED:
                gone[SERVICE] += 1
            elif timeless[at]:
                gone[NO_TIME] += 1
            else:
                stay.append(at)
        self._counts.dropped.update(gone)

        halves = np.frombuffer(b"".join(keys[at] for at in stay), dtype=">u8").astype(np.uint64).reshape(-1, 2)  # type: ignore[misc]
        kept = [role for at in stay if (role := roles[at]) is not None]
        if kept:
            self.spoke.setdefault(batch.table, set()).update(kept)
        kinds, wholes, rests, order_texts = order_columns([order[at] for at in stay])
        places = np.asarray(stay, dtype=np.int64)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(np.ascontiguousarray(halves[:, 0])),
                pa.array(np.ascontiguousarray(halves[:, 1])),
                times.take(pa.array(places)),
                pa.array(np.full(len(stay), mapping.rank, np.int32)),
                kinds,
                wholes,
                rests,
                order_texts,
                pa.array(places + first),
                pa.array(kept, pa.int8()),
                pa.array([texts[at] for at in stay], pa.large_binary()),
            ],
            schema=schema(),
        )

    def _times(self, table: str, columns: Sequence[Sequence[object]], size: int) -> "pa.Array":
        """Of each row the first time that can be read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not columns:
            return pa.nulls(size, pa.int64())
        times = pc.coalesce(*(microseconds(column) for column in columns))
        if times.null_count < size:
            self.timed[table] = True
        elif any(value not in (None, "") for column in columns for value in column):
            self.timed.setdefault(table, False)
        return times

    def _roles_of(
        self, batch: Batch, mapping: TableMapping, values: Callable[[str], list[Any]], size: int
    ) -> list[int | None]:
        """Places among ROLES of who speaks, SERVED for one whose role is drop; None where it is not said."""
        if mapping.speaker:
            return [ROLES.index(mapping.speaker)] * size
        assert mapping.role is not None
        memo = self._roles.setdefault(batch.table, {})
        found = []
        for value in values(mapping.role):
            if isinstance(value, list | dict):
                raise UserError(
                    f"{batch.where} or below: who speaks is {kind(value)}, not a name; mend {self._key}.columns.role"
                )
            if value not in memo:
                memo[value] = self._role(value, batch, mapping)
            found.append(memo[value])
        return found

    def _role(self, value: object, batch: Batch, mapping: TableMapping) -> int | None:
        roles = self._source.roles
        if value is None or value == "":
            anyone = roles.get(ANYONE)
            return None if anyone is None else SERVED if anyone == DROP else ROLES.index(anyone)
        # The recipe names a bit, a number or a truth by any of its forms: 1, "1", true.
        own = forms(value)
        named = (name for name in roles if own & forms(TRUTHS.get(name.lower(), name)))
        shown = sorted(text for text in map(str, own) if text.isprintable())
        speaker = (
            value if isinstance(value, str) and value in roles else next(named, shown[0] if shown else repr(value))
        )
        where = f"{batch.where} or below: {mapping.role} of {batch.table}"
        role = role_of(speaker, roles, where, self._key)
        return SERVED if role == DROP else ROLES.index(role)


def _bytes(value: object) -> bytes | None:
    """A text, None if it is blank or none.

    Raises:
        TypeError, UnicodeDecodeError: It is no text.
    """
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise TypeError(type(value))
    text = value if isinstance(value, str) else value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return text.encode("utf-8", "surrogatepass") if text and not text.isspace() else None
