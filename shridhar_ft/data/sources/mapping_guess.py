"""Proposes what the columns of a table mean, from their names and some of their values; a person has the last word."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shridhar_ft.data.sources.shapes import ANSWERS, LISTS, QUESTIONS, ROLES
from shridhar_ft.data.sources.times import microseconds

Samples = Mapping[str, Sequence[Any]]
"""Some values of each column."""
Guess = dict[str, Any]
"""A source as the recipe has it, without format and paths."""

# Words of a column's name, by what it may be; earlier ones are better. "ca" is a conversation's account.
_CONVERSATION = ("conversation", "dialog", "dialogue", "chat", "thread", "session", "ticket", "room", "topic")
_PEOPLE = ("account", "user", "ca", "peer", "client", "customer", "contact", "person", "member", "owner")
_PLACE = ("engine", "platform", "channel", "network", "source")  # where accounts of the same number differ
_ROLE = ("role", "speaker", "from", "sender", "author", "direction", "is_bot", "is_out", "out", "incoming", "side")
_TIME = ("send", "sent", "created", "posted", "date", "time", "timestamp", "at")
_NOT_SAID = ("norm", "id", "hash", "external", "url", "key")  # of a text column: made from the text, or none
_SIDES = (("in", "out"), ("incoming", "outgoing"), ("inbox", "outbox"), ("received", "sent"),
          ("questions", "answers"), ("question", "answer"), ("requests", "responses"), ("users", "bots"))  # fmt: skip
_FEW = 8  # different values that a role column has at most
_SHORTEST_TEXT = 12  # characters of a text column's longest sample
_SHORTEST_WORK = 80  # characters on average of a column that is read like a book
_GAP = 6  # hours
_ANSWERING = {"1", "true", "out", "outgoing", "sent", "operator", "support", "agent", "admin", "manager", "answer"}


def guess_mapping(table: str, columns: Samples) -> Guess | None:
    """What a table of its own may be: whole conversations, turns with their roles, or texts.

    Args:
        table: Its name; it stands in the proposal where rows are turns.
        columns: Some values of each column, the same rows in all of them.

    Returns:
        `{"dialogues": {...}}` or `{"texts": {...}}` with the keys of a source but format and paths; None where nothing
        fits, as in a table without rows.
    """
    filled = {name: [value for value in values if value is not None] for name, values in columns.items()}
    if not any(filled.values()):
        return None
    if found := _whole(filled):
        return {"dialogues": found}
    turns = _turns(filled)
    if turns and (role := _role_of(filled)):
        roles = _roles(filled[role])
        mapped = {**turns, "role": role}
        return {"dialogues": {"columns": mapped, **({"roles": roles} if roles else {}), **_gap(turns)}}
    if turns is None and (text := _text_of(filled)) and _mean_length(filled[text]) >= _SHORTEST_WORK:
        title = next((name for name in ("title", "book", "work", "name") if name in filled and name != text), None)
        author = next((name for name in filled if name == "author"), None)
        named = {"text": text, "title": title, "author": author}
        return {"texts": {"columns": {column: name for column, name in named.items() if name}}}
    return None


def guess_mappings(tables: Mapping[str, Samples]) -> Guess | None:
    """What the tables of a source may be together: first two that hold a side each, else the first that is whole.

    Args:
        tables: Some values of each column, by table; a table without rows has columns without values.

    Returns:
        As `guess_mapping`, with `tables` where they are needed.
    """
    if pair := _pair(tables):
        return {"dialogues": pair}
    for table, columns in tables.items():
        if found := guess_mapping(table, columns):
            (kind, source), *_ = found.items()
            return {kind: {**source, "tables": [{"name": table}]}} if len(tables) > 1 else found
    return None


def _pair(tables: Mapping[str, Samples]) -> Guess | None:
    """Two tables of one name but for a word, one with the questions and one with the answers."""
    by_words = {tuple(_words(table)): table for table, columns in tables.items() if any(map(any, columns.values()))}
    for asks, answers in _SIDES:
        for words, table in by_words.items():
            if asks not in words:
                continue
            other = by_words.get(tuple(answers if word == asks else word for word in words))
            user = other and _turns(tables[table])
            assistant = other and _turns(tables[other])
            if other and user and assistant and (shared := _shared(user, assistant)):
                return {
                    "columns": {"conversation": shared, **{k: v for k, v in user.items() if k != "conversation"}},
                    "tables": [
                        {"name": table, "role": "user"},
                        {"name": other, "role": "assistant", **_difference(user, assistant)},
                    ],
                    **_gap(user),
                }
    return None


def _shared(user: Guess, assistant: Guess) -> list[str]:
    return [name for name in user["conversation"] if name in assistant["conversation"]]


def _difference(user: Guess, assistant: Guess) -> Guess:
    """The columns that the second table names otherwise."""
    own = {column: name for column, name in assistant.items() if column != "conversation" and user.get(column) != name}
    return {"columns": own} if own else {}


def _gap(turns: Guess) -> Guess:
    return {"session_gap": _GAP} if "time" in turns else {}


def _whole(columns: Samples) -> Guess | None:
    """A row that is a conversation: a list of turns, or a question and its answer."""
    for name, values in columns.items():
        turn = next((value[0] for value in values if isinstance(value, list) and value), None)
        if isinstance(turn, dict):
            return _list_of_turns(name, turn)
    question = _named(columns, QUESTIONS)
    answer = _named(columns, ANSWERS)
    if not question or not answer:
        return None
    named = {"instruction": question, "output": answer}
    if (about := _named(columns, ("input",))) and about not in named.values():
        named["input"] = about
    usual = question in QUESTIONS and answer in ANSWERS and named.get("input", "input") == "input"
    consistent = [name for name in columns if name.startswith("is_") and _truths(columns[name])]
    filtered = {"filter": {consistent[0]: True}} if len(consistent) == 1 else {}
    return {"shape": "alpaca", **({} if usual else {"columns": named}), **filtered}


def _list_of_turns(name: str, turn: Mapping[str, Any]) -> Guess | None:
    role = next((key for key in ("role", "from", "speaker", "sender", "author") if key in turn), None)
    text = next((key for key in ("content", "value", "text", "message") if key in turn), None)
    if role is None or text is None:
        return None
    shape = {("role", "content"): "messages", ("from", "value"): "sharegpt"}.get((role, text))
    columns = {} if name in LISTS else {"messages": name}
    if shape is None:
        columns |= {"role": role, "text": text}
    return {"shape": shape or "messages", **({"columns": columns} if columns else {})}


def _named(columns: Samples, wanted: Sequence[str]) -> str | None:
    """The column of one of these names, or the one that holds it and is in Russian or by itself."""
    for name in wanted:
        if name in columns and not _russian(columns, name):
            return name
        longer = [column for column in columns if name in _words(column)]
        if russian := _russian(columns, name):
            return russian
        if len(longer) == 1:
            return longer[0]
    return None


def _russian(columns: Samples, name: str) -> str | None:
    """`original_output_ru` beside translations of `output` into other languages."""
    return next(
        (one for one in columns if name in (words := _words(one)) and words[-1] == "ru" and len(words) > 1), None
    )


def _turns(columns: Samples) -> Guess | None:
    """A row that is a turn, without who speaks."""
    ids = [name for name, values in columns.items() if any(value not in (None, "") for value in values)]
    conversation = [name for name in ids if _is_id_of(name, _CONVERSATION)][:1] or [
        name for name in ids if _is_id_of(name, _PEOPLE)
    ]
    if conversation and not _is_id_of(conversation[0], _CONVERSATION):
        conversation = [name for name in ids if _words(name)[-1] in _PLACE] + conversation
    text = _text_of({name: values for name, values in columns.items() if name not in conversation})
    if not conversation or not text:
        return None
    found: Guess = {"conversation": conversation, "text": text}
    if times := _times_of(columns):
        found["time"] = times
    if order := next((name for name in columns if name.lower() in ("id", "message_id", "msg_id", "n", "number")), None):
        found["order"] = order
    return found if "time" in found or "order" in found else None


def _is_id_of(name: str, things: Sequence[str]) -> bool:
    words = _words(name)
    return (words[-1] in ("id", "key", "uuid", "hash") and any(word in things for word in words[:-1])) or (
        len(words) == 1 and words[0] in things
    )


def _times_of(columns: Samples) -> str | list[str] | None:
    """The column that says when it was sent, and those that stand in for it where it is empty."""
    times = [name for name, values in columns.items() if _is_time(name, values)]
    times.sort(key=lambda name: min((_TIME.index(word) for word in _words(name) if word in _TIME), default=len(_TIME)))
    if not times:
        return None
    gaps = any(value in (None, "") for value in columns[times[0]])
    return times if gaps and len(times) > 1 else times[0]


def _is_time(name: str, values: Sequence[Any]) -> bool:
    held = [value for value in values if value not in (None, "")]
    numbers = all(isinstance(value, int | float) for value in held)
    if not held or (numbers and not any(word in _TIME for word in _words(name))):
        return False
    return microseconds(held).null_count == 0


def _text_of(columns: Samples) -> str | None:
    """The column with the longest texts, of which those come last that are made from another one."""
    lengths = {
        name: _mean_length(values)
        for name, values in columns.items()
        if (texts := [value for value in values if isinstance(value, str) and value])
        and max(map(len, texts)) >= _SHORTEST_TEXT
        and not _is_time(name, values)
        and (any(" " in text for text in texts) or "text" in _words(name))
    }
    return max(lengths, key=lambda name: (not set(_words(name)) & set(_NOT_SAID), lengths[name]), default=None)


def _mean_length(values: Sequence[Any]) -> float:
    lengths = [len(value) for value in values if isinstance(value, str) and value]
    return sum(lengths) / max(1, len(lengths))


def _role_of(columns: Samples) -> str | None:
    """The column that says who speaks."""
    for name, values in columns.items():
        words = {name.lower(), *_words(name)}
        if words & set(_ROLE) and _words(name)[-1] != "id" and 0 < len({str(value) for value in values}) <= _FEW:
            return name
    return None


def _roles(values: Sequence[Any]) -> dict[str, str]:
    """Roles for values that are not the usual names: a guess, as 0 and 1 do not tell who is who."""
    names = sorted({str(int.from_bytes(value)) if isinstance(value, bytes) else str(value) for value in values})
    if all(name.strip().casefold() in ROLES for name in names):
        return {}
    return {
        name: ROLES.get(name.strip().casefold(), "assistant" if name.lower() in _ANSWERING else "user")
        for name in names
    }


def _truths(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, bool) for value in values)


def _words(name: str) -> list[str]:
    """`accountId`, `account_id` and `Account ID` are account and id."""
    return [word.lower() for word in re.findall(r"[A-ZА-ЯЁ]?[a-zа-яё]+|[A-ZА-ЯЁ]+(?![a-zа-яё])|\d+", name)] or [
        name.lower()
    ]
