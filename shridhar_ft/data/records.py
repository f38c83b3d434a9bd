"""What the readers hand over: documents (whole works) and dialogues, before any cleaning."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True)
class Document:
    """One work, whole."""

    source: str
    """Name of the file that it stands in."""
    id: str
    work: str
    """Name of the work; its blocks are `work/0000`, `work/0001`, …"""
    text: str
    title: str = ""
    """As its file says it; empty where it does not."""
    author: str = ""
    chapters: tuple[str, ...] = ()
    """Chapter titles that the file's format marks as such, in reading order; each is a line of `text`."""


@dataclass(frozen=True)
class Dialogue:
    """One conversation, in the order in which it was held."""

    source: str
    """Name of the file that it stands in."""
    id: str
    """The row's own id, or the file's stem and the row's number."""
    messages: tuple[Message, ...]
