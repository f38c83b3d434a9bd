"""Whole conversations in a row (messages, sharegpt, alpaca): told apart by their columns, read into messages."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from shridhar_ft import config_data
from shridhar_ft.data.records import Message, Role
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.names import listed, nearest, quotable
from shridhar_ft.data.sources.row import Row, kind
from shridhar_ft.errors import UserError

# Keys of config_data.Columns, by the shape that they belong to.
LIST_COLUMNS = ("messages", "role", "text")
ALPACA_COLUMNS = ("instruction", "input", "output", "system")
TURNS_COLUMNS = ("conversation", "order", "time", "role", "text")
Speaker = Role | Literal["drop"]

LISTS = ("messages", "conversations")  # where the turns stand
SPEAKERS = {"messages": ("role",), "sharegpt": ("from",)}  # who speaks, in a turn
TEXTS = {"messages": ("content",), "sharegpt": ("value",)}  # what was said, in a turn
QUESTIONS = ("instruction", "prompt", "question")
ANSWERS = ("output", "response", "answer", "completion")
ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), "assistant"),
    "system": "system",
}
DROP: Literal["drop"] = "drop"  # in `roles`: what such a one says is left out
ANYONE = "*"  # in `roles`: whoever is not named otherwise


def is_turns(source: config_data.Dialogues, key: str) -> bool:
    """Whether each row is one turn, and rows are to be grouped into conversations.

    Raises:
        UserError: A mapped column does not fit the shape.
    """
    named = _named(source.columns).union(*(_named(table.columns) for table in source.tables))
    turns = source.shape == "turns" or (source.shape == "auto" and "conversation" in named)
    if turns and "conversation" not in named:
        raise UserError(
            f"{key}.columns.conversation: the shape turns needs it; name the column, or the columns, that all rows of "
            f"one conversation share"
        )
    if turns:
        useless = [column for column in named if column not in TURNS_COLUMNS]
        shape = "turns"
    elif source.shape == "auto":
        useless = [column for column in named if column not in (*LIST_COLUMNS, *ALPACA_COLUMNS)]
        shape = "messages, sharegpt or alpaca (with columns.conversation it is turns)"
    else:
        useless = [column for column in named if column not in _columns_of(source.shape)]
        shape = source.shape
    if useless:
        raise UserError(f"{key}.columns.{min(useless)} has no effect on the shape {shape}; take it away")
    if source.session_gap is not None and not turns:
        raise UserError(f"{key}.session_gap has no effect on the shape {shape}; take it away")
    if role := next((table for table in source.tables if table.role and not turns), None):
        raise UserError(f"{key}.tables: role of {role.name} has no effect on the shape {shape}; take it away")
    return turns


def takes_lists(row: Row, source: config_data.Dialogues, columns: config_data.Columns, key: str) -> bool:
    """Whether rows hold a list of turns (messages, sharegpt) or an instruction and its output (alpaca).

    Args:
        row: The first row of a table.
        source: The recipe's source; its shape decides where it is given.
        columns: The table's columns.
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: The shape is auto and no column tells it, or columns of both shapes are mapped.
    """
    named = _named(columns)
    of_lists = [column for column in LIST_COLUMNS if column in named]
    of_alpaca = [column for column in ALPACA_COLUMNS if column in named]
    if of_lists and of_alpaca:
        raise UserError(
            f"{key}.columns: {of_lists[0]} belongs to lists of turns and {of_alpaca[0]} to alpaca rows; "
            f"keep one, or make two sources"
        )
    if source.shape != "auto":
        return source.shape != "alpaca"
    if named:
        return bool(of_lists)
    if any(name in row.value for name in LISTS):
        return True
    if any(name in row.value for name in (*QUESTIONS, *ANSWERS)):
        return False
    raise UserError(
        f"{row.where}: no column tells the shape of the rows ({listed(row.value)}); name the list of turns with "
        f"{key}.columns.messages=…, question and answer with {key}.columns.instruction=… and {key}.columns.output=…, "
        f"or, if a row is one turn, {key}.columns.conversation=…"
    )


def columns_of(source: config_data.Rows, table: str) -> config_data.Columns:
    """The columns of a table: the source's own, but for those that the table names otherwise."""
    own = next((one.columns for one in source.tables if one.name == table), config_data.Columns())
    return source.columns.model_copy(update={column: getattr(own, column) for column in _named(own)})


def _named(columns: config_data.Columns) -> set[str]:
    """The keys that a recipe gives."""
    return {column for column, name in columns if name}


def _columns_of(shape: str) -> Sequence[str]:
    return ALPACA_COLUMNS if shape == "alpaca" else LIST_COLUMNS


def read_list(
    row: Row, source: config_data.Dialogues, columns: config_data.Columns, key: str, counts: RowCounts
) -> tuple[Message, ...]:
    """The messages of a row of the shape messages or sharegpt; those of a role that is dropped are counted.

    Raises:
        UserError: A column is missing or holds something else, or a speaker's role is not known.
    """
    shapes = ("messages", "sharegpt") if source.shape == "auto" else (source.shape,)
    speakers = [name for shape in shapes for name in SPEAKERS[shape]]
    texts = [name for shape in shapes for name in TEXTS[shape]]
    turns = _take(row.value, columns.messages, LISTS, "messages", row.where, key)
    if isinstance(turns, dict):
        turns = _transposed(turns)
    if turns is not None and not isinstance(turns, list):
        raise UserError(
            f"{row.where}: the turns are {kind(turns)}, not a list; name the list with {key}.columns.messages=…"
        )
    messages = []
    for turn in turns or ():
        if not isinstance(turn, dict):
            raise UserError(f"{row.where}: a turn is {kind(turn)}, not an object with {listed(speakers)}; mend the row")
        speaker = _take(turn, columns.role, speakers, "role", row.where, key)
        content = _text(_take(turn, columns.text, texts, "text", row.where, key), "what was said", row.where)
        role = _role(speaker, source.roles, row.where, key)
        if role == "drop":
            counts.turns_dropped += 1
        else:
            messages.append(Message(role, content))
    return tuple(messages)


def read_alpaca(row: Row, columns: config_data.Columns, key: str) -> tuple[Message, ...]:
    """The messages of a row of the shape alpaca: the system text if there is one, the question, the answer.

    Raises:
        UserError: A column is missing or holds something else than text.
    """
    instruction = _text(
        _take(row.value, columns.instruction, QUESTIONS, "instruction", row.where, key), "the instruction", row.where
    )
    output = _text(_take(row.value, columns.output, ANSWERS, "output", row.where, key), "the output", row.where)
    context = _text(row.value.get(columns.input or "input"), "the input", row.where)
    system = _text(row.value.get(columns.system or "system"), "the system text", row.where)
    question = "\n\n".join(part for part in (instruction, context) if part.strip())
    opening = (Message("system", system),) if system.strip() else ()
    return (*opening, Message("user", question), Message("assistant", output))


def _take(
    holder: Mapping[str, Any], named: str | None, usual: Sequence[str], column: str, where: str, key: str
) -> object:
    """The value of the named column, or of the first usual one that is there."""
    wanted = (named,) if named else usual
    for name in wanted:
        if name in holder:
            return holder[name]
    near = nearest(wanted, holder)
    missing = " or ".join(f"'{name}'" for name in wanted)
    raise UserError(
        f"{where}: there is no {missing} among the columns {listed(holder)}; "
        f"name the right one with {key}.columns.{column}={near or '…'}"
    )


def _transposed(turns: dict[str, Any]) -> object:
    """A list of turns, where `datasets` kept it as one list a key; else what was given."""
    lists = list(turns.values())
    if not lists or not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
        return turns
    return [dict(zip(turns, values, strict=True)) for values in zip(*lists, strict=True)]


def _text(value: object, what: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} is {kind(value)}, not text; mend the row")
    return value


def _role(speaker: object, roles: Mapping[str, Speaker], where: str, key: str) -> Speaker:
    if not isinstance(speaker, str):
        raise UserError(f"{where}: who speaks is {kind(speaker)}, not a name; mend the row")
    return role_of(speaker, roles, where, key)


def role_of(speaker: str, roles: Mapping[str, Speaker], where: str, key: str) -> Speaker:
    """The role of a speaker's name: what the recipe says, the usual one, or that of anyone.

    Raises:
        UserError: It has none.
    """
    role = roles.get(speaker) or ROLES.get(speaker.strip().casefold()) or roles.get(ANYONE)
    if role is None and quotable(speaker) != speaker:
        raise UserError(
            f"{where}: who speaks is a text of {len(speaker):,} characters; name the column that says it with "
            f"{key}.columns.role=…"
        )
    if role is None:
        raise UserError(
            f"{where}: the speaker '{speaker}' has no role; give it one (system, user, assistant) with "
            f"{key}.roles={{{speaker}: assistant}}, or everyone who is not named with {key}.roles={{'{ANYONE}': user}}"
        )
    return role
