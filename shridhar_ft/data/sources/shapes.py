"""The shapes of dialogue rows (messages, sharegpt, alpaca), told apart by their columns, read into messages."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from shridhar_ft import config
from shridhar_ft.data.records import Message, Role
from shridhar_ft.data.sources.json_rows import Row, kind
from shridhar_ft.errors import UserError

TURN_COLUMNS = ("messages", "role", "text")  # keys of config.Columns; the others are alpaca's
LISTS = ("messages", "conversations")  # where the turns stand
SPEAKERS = {"messages": ("role",), "sharegpt": ("from",)}  # who speaks, in a turn
TEXTS = {"messages": ("content",), "sharegpt": ("value",)}  # what was said, in a turn
ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), "assistant"),
    "system": "system",
}
ANYONE = "*"  # in `roles`: whoever is not named otherwise
MOST_NAMED = 12  # columns that a message lists


def takes_turns(row: Row, source: config.Dialogues, key: str) -> bool:
    """Whether rows hold a list of turns (messages, sharegpt) or an instruction and its output (alpaca).

    Args:
        row: The first row of a file.
        source: The recipe's source; its shape and columns decide where they are given.
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: The shape is auto and no column tells it, or a mapped column does not fit it.
    """
    named = source.columns.model_dump(exclude_none=True)
    of_turns = [column for column in named if column in TURN_COLUMNS]
    of_alpaca = [column for column in named if column not in TURN_COLUMNS]
    if of_turns and of_alpaca:
        raise UserError(
            f"{key}.columns: {of_turns[0]} belongs to lists of turns and {of_alpaca[0]} to alpaca rows; "
            f"keep one, or make two sources"
        )
    if source.shape != "auto":
        turns = source.shape != "alpaca"
        if useless := of_alpaca if turns else of_turns:
            raise UserError(f"{key}.columns.{useless[0]} has no effect on the shape {source.shape}; take it away")
        return turns
    if named:
        return bool(of_turns)
    if any(name in row.value for name in LISTS):
        return True
    if "instruction" in row.value or "output" in row.value:
        return False
    raise UserError(
        f"{row.where}: no column tells the shape of the rows ({_listed(row.value)}); name the list of turns with "
        f"{key}.columns.messages=…, or question and answer with {key}.columns.instruction=… and {key}.columns.output=…"
    )


def read_turns(row: Row, source: config.Dialogues, key: str) -> tuple[Message, ...]:
    """The messages of a row of the shape messages or sharegpt.

    Raises:
        UserError: A column is missing or holds something else, or a speaker's role is not known.
    """
    columns = source.columns
    shapes = ("messages", "sharegpt") if source.shape == "auto" else (source.shape,)
    speakers = [name for shape in shapes for name in SPEAKERS[shape]]
    texts = [name for shape in shapes for name in TEXTS[shape]]
    listed = _take(row.value, columns.messages, LISTS, "messages", row.where, key)
    if listed is not None and not isinstance(listed, list):
        raise UserError(
            f"{row.where}: the turns are {kind(listed)}, not a list; name the list with {key}.columns.messages=…"
        )
    messages = []
    for turn in listed or ():
        if not isinstance(turn, dict):
            raise UserError(
                f"{row.where}: a turn is {kind(turn)}, not an object with {_listed(speakers)}; mend the row"
            )
        speaker = _take(turn, columns.role, speakers, "role", row.where, key)
        content = _text(_take(turn, columns.text, texts, "text", row.where, key), "what was said", row.where)
        messages.append(Message(_role(speaker, source.roles, row.where, key), content))
    return tuple(messages)


def read_alpaca(row: Row, source: config.Dialogues, key: str) -> tuple[Message, ...]:
    """The messages of a row of the shape alpaca: the system text if there is one, the question, the answer.

    Raises:
        UserError: A column is missing or holds something else than text.
    """
    columns = source.columns
    instruction = _text(
        _take(row.value, columns.instruction, ("instruction",), "instruction", row.where, key),
        "the instruction",
        row.where,
    )
    output = _text(_take(row.value, columns.output, ("output",), "output", row.where, key), "the output", row.where)
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
        f"{where}: there is no {missing} among the columns {_listed(holder)}; "
        f"name the right one with {key}.columns.{column}={near or '…'}"
    )


def nearest(wanted: Sequence[str], existing: Mapping[str, Any]) -> str | None:
    """The existing name that holds a wanted one, as `original_output_ru` holds `output`, or is like it, or None."""
    for name in wanted:
        if longer := [other for other in existing if name in other]:
            return min(longer, key=len)
        if near := difflib.get_close_matches(name, list(existing), n=1, cutoff=0.54):
            return near[0]
    return None


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    """The names, shortened where there are many; names only, for what the columns hold may be private."""
    shown = list(names)[:MOST_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more


def _text(value: object, what: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} is {kind(value)}, not text; mend the row")
    return value


def _role(speaker: object, roles: Mapping[str, Role], where: str, key: str) -> Role:
    if not isinstance(speaker, str):
        raise UserError(f"{where}: who speaks is {kind(speaker)}, not a name; mend the row")
    role = roles.get(speaker) or ROLES.get(speaker.strip().casefold()) or roles.get(ANYONE)
    if role is None:
        raise UserError(
            f"{where}: the speaker '{speaker}' has no role; give it one (system, user, assistant) with "
            f"{key}.roles={{{speaker}: assistant}}, or everyone who is not named with {key}.roles={{'{ANYONE}': user}}"
        )
    return role
