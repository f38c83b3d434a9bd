"""Brings a conversation into the form that training wants: user and assistant by turns, an answer at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shridhar_ft.data.records import Message

ASSISTANT_FIRST = "assistant spoke first"
NO_ANSWER = "no answer followed"
NO_USER = "no user turn"
NO_ASSISTANT = "no assistant turn"


@dataclass(frozen=True)
class Normalised:
    """A conversation after normalisation."""

    messages: tuple[Message, ...]
    """Empty when the whole conversation is dropped."""
    dropped: str | None
    """Why the whole conversation is dropped, or None."""
    turns: dict[str, int]
    """Turns dropped or merged, by reason."""
    removed: dict[str, int]
    """Characters removed, by reason."""
    added: dict[str, int]
    """Characters added, by reason (line ends between merged turns)."""


def normalise(messages: Sequence[Message]) -> Normalised:
    """Strip, drop empty turns, drop what has no answer or answers nothing, merge turns of one speaker.

    A system turn counts for neither side: it stays where it stands, unless nothing of the assistant follows it.

    Args:
        messages: The turns in order.

    Returns:
        The turns that stay, and what went, counted: the characters of `messages` plus `added` minus `removed` are
        those of the result.
    """
    turns: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    kept = []
    for message in messages:
        text = message.content.strip()
        removed["strip"] += len(message.content) - len(text)
        if text:
            kept.append(Message(message.role, text))
        else:
            turns["empty turns"] += 1

    roles = [message.role for message in kept]
    why = _unfit(roles)
    if why:
        removed[why] += _characters(kept)
        return Normalised((), why, dict(turns), dict(+removed), {})

    first_user = roles.index("user")
    last_answer = len(roles) - roles[::-1].index("assistant")
    early = [message for message in kept[:first_user] if message.role == "assistant"]
    late = kept[last_answer:]
    for reason, gone in ((ASSISTANT_FIRST, early), (NO_ANSWER, late)):
        turns[reason] += len(gone)
        removed[reason] += _characters(gone)
    opening = [message for message in kept[:first_user] if message.role != "assistant"]

    merged: list[Message] = []
    for message in opening + kept[first_user:last_answer]:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content}\n{message.content}")
            turns["merged turns"] += 1
        else:
            merged.append(message)
    added = {"merged turns": turns["merged turns"]} if turns["merged turns"] else {}
    return Normalised(tuple(merged), None, dict(+turns), dict(+removed), added)


def _unfit(roles: Sequence[str]) -> str | None:
    """Why no user turn is followed by an assistant's, or None."""
    if "user" not in roles:
        return NO_USER
    return None if "assistant" in roles[roles.index("user") :] else NO_ASSISTANT


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
