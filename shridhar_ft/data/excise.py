"""Takes unwanted runs of 13 words out of one block or one conversation: sentences, or exchanges, as few as it can.

Where text goes, its neighbours meet and may form another unwanted run: both functions look again until there is none.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shridhar_ft.data.blocks import SENTENCE_END
from shridhar_ft.data.hashset import Lookup
from shridhar_ft.data.lines import is_hard_wrapped, without_lines
from shridhar_ft.data.overlap import RUN, window_hashes
from shridhar_ft.data.records import Message
from shridhar_ft.data.words import words_of

_BREAK_IN_PARAGRAPH = re.compile(r"(?<=[^\n])\n(?=[^\n])")


class Excised(NamedTuple):
    """A block after excision."""

    text: str
    """Empty if the block goes as a whole."""
    gone: list[str]
    """The sentences that went, or the whole block."""


class Cut(NamedTuple):
    """A conversation after excision."""

    pieces: list[list[Message]]
    """What stood between the exchanges that went, each a conversation of its own; none if nothing is left."""
    exchanges: int
    """User turns with their answers that went."""
    system_turns: int
    """1 if the opening system turn went, else 0."""
    copied: int
    """Characters of copies of the system turn: every piece has one."""


# -------------------------------------------------------------------------------------------------- blocks


def excise_block(text: str, unwanted: Lookup) -> Excised:
    """Take out the sentences that unwanted runs touch; the whole block if more than half of it would go.

    Args:
        text: A block of a work.
        unwanted: Hashes of the runs that must not stay.
    """
    rest = text
    gone: list[str] = []
    while True:
        words = words_of([rest])
        found = unwanted.find(window_hashes(words.hashes, RUN))[0]
        if not len(found):
            return Excised(rest, gone)
        touched = words.starts[np.unique((found[:, None] + np.arange(RUN)).ravel())]
        shorter, sentences = _without_sentences(rest, touched)
        assert len(shorter) < len(rest), "a sentence must go"
        if 2 * len(shorter) < len(text):
            return Excised("", [text])
        rest = shorter
        gone += sentences


def _without_sentences(text: str, touched: np.ndarray) -> tuple[str, list[str]]:
    """The text without the sentences that these characters stand in, and those sentences."""
    # In hard-wrapped text a sentence goes on over line ends; as spaces they keep every place where it is.
    flat = _BREAK_IN_PARAGRAPH.sub(" ", text) if is_hard_wrapped(text.split("\n")) else text
    kept: list[str] = []
    emptied: set[int] = set()
    gone: list[str] = []
    start = 0
    for number, line in enumerate(flat.split("\n")):
        edges = np.array([-1, *(match.start(1) for match in SENTENCE_END.finditer(line)), len(line)]) + start
        hit = set((np.searchsorted(edges, touched[(touched >= start) & (touched < edges[-1])]) - 1).tolist())
        left = ""
        for sentence, (before, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            if sentence in hit:
                gone.append(text[before + 1 : end])
            else:
                left += (text[before] if left else "") + text[before + 1 : end]
        kept.append(left)
        if line and not left:
            emptied.add(number)
        start += len(line) + 1
    return without_lines(kept, emptied), gone


# ------------------------------------------------------------------------------------------- conversations


def cut_conversation(turns: Sequence[Message], unwanted: Lookup) -> Cut:
    """Cut out the exchanges that unwanted runs stand in; of those that share one, the shortest.

    Args:
        turns: A normalised conversation: user and assistant by turns, an answer at the end.
        unwanted: Hashes of the runs that must not stay; they reach from turn to turn.
    """
    opening, exchanges = _exchanges(turns)
    opening_stays = bool(opening)
    stays = [True] * len(exchanges)
    while True:
        pieces = _pieces(opening if opening_stays else [], exchanges, stays)
        if not opening_stays and not all(stays):
            break  # pieces without an opening turn bring no turns together that were apart
        # Segments of a piece: -1 is the opening system turn, which all pieces share, the others are exchanges.
        to_go = {segment for piece in pieces for segment in _to_go(piece, unwanted)}
        if not to_go:
            break
        opening_stays = opening_stays and -1 not in to_go
        stays = [stay and number not in to_go for number, stay in enumerate(stays)]
    with_opening = sum(piece[0][0] == -1 for piece in pieces)
    return Cut(
        [[turn for _, segment in piece for turn in segment] for piece in pieces],
        stays.count(False),
        int(bool(opening) and not opening_stays),
        max(0, with_opening - 1) * _length(opening),
    )


Segment = tuple[int, list[Message]]


def _exchanges(turns: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system turns that open a conversation, and its exchanges: all turns up to the next user turn after an
    answer. A system turn inside goes with the user turn that it stands before."""
    first = next(number for number, turn in enumerate(turns) if turn.role == "user")
    exchanges: list[list[Message]] = []
    waiting: list[Message] = []
    answered = True
    for turn in turns[first:]:
        if turn.role == "system":
            waiting.append(turn)
            continue
        if turn.role == "user" and answered:
            exchanges.append([])
        answered = turn.role == "assistant"
        exchanges[-1] += [*waiting, turn]
        waiting = []
    assert not waiting, "a normalised conversation ends with an answer"
    return list(turns[:first]), exchanges


def _pieces(opening: list[Message], exchanges: list[list[Message]], stays: Sequence[bool]) -> list[list[Segment]]:
    """What stands between the exchanges that go; an opening goes before each piece that brings none of its own."""
    pieces: list[list[Segment]] = []
    for number, (exchange, stay) in enumerate(zip(exchanges, stays, strict=True)):
        if stay and number and stays[number - 1]:
            pieces[-1].append((number, exchange))
        elif stay:
            own = exchange[0].role == "system"
            pieces.append([*([(-1, opening)] if opening and not own else []), (number, exchange)])
    return pieces


def _to_go(piece: Sequence[Segment], unwanted: Lookup) -> set[int]:
    """Segments of a piece without which none of its unwanted runs is left."""
    words = words_of(["\n".join(turn.content for turn in segment) for _, segment in piece])
    found = unwanted.find(window_hashes(words.hashes, RUN))[0]
    first = np.searchsorted(words.bounds, found, side="right") - 1
    last = np.searchsorted(words.bounds, found + RUN - 1, side="right") - 1
    to_go: set[int] = set()
    # Runs inside one segment leave no choice, so they come first.
    for begin, end in sorted(set(zip(first.tolist(), last.tolist(), strict=True)), key=lambda at: at[1] - at[0]):
        reached = piece[begin : end + 1]
        if not any(number in to_go for number, _ in reached):
            to_go.add(min(reached, key=lambda segment: _length(segment[1]))[0])
    return to_go


def _length(turns: Sequence[Message]) -> int:
    return sum(len(turn.content) for turn in turns)
