"""Packs token sequences into windows of one length, with nothing lost: best fit, longest first."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """Tokens `start` (inclusive) to `stop` (exclusive) of one document."""

    document: int
    start: int
    stop: int


def pack(lengths: Sequence[int], context: int) -> list[list[Piece]]:
    """Place every token of every document into exactly one window.

    A document longer than the window is cut into windows of its own; what remains of it, and the shorter
    documents, go longest first each into the fullest window that still has room (best-fit decreasing, never more
    than 11/9 of the windows that the best packing needs, plus one).

    Args:
        lengths: Tokens of each document; documents without tokens are passed over.
        context: Tokens in a window.

    Returns:
        The windows, in order of their first piece; the pieces of a window are in the order of their documents.
        A window is at most `context` tokens long.
    """
    assert context > 0, context
    windows: list[list[Piece]] = []
    rest: list[Piece] = []
    for document, length in enumerate(lengths):
        cut = int(length) // context * context
        windows += [[Piece(document, start, start + context)] for start in range(0, cut, context)]
        if cut < length:
            rest.append(Piece(document, cut, int(length)))
    windows += _best_fit(rest, context)
    for window in windows:
        window.sort()
    windows.sort(key=lambda window: window[0])
    return windows


def _best_fit(pieces: list[Piece], context: int) -> list[list[Piece]]:
    """Windows of whole pieces, none longer than `context`; O(n log n)."""
    windows: list[list[Piece]] = []
    with_room: dict[int, list[int]] = {}  # free tokens -> windows that have just so many
    rooms: list[int] = []  # the keys of with_room, sorted: at most `context` of them, so an insert moves little memory
    for piece in sorted(pieces, key=lambda p: (p.start - p.stop, p)):
        size = piece.stop - piece.start
        at = bisect_left(rooms, size)
        if at == len(rooms):
            window, room = len(windows), context
            windows.append([])
        else:
            room = rooms[at]
            window = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        windows[window].append(piece)
        left = room - size
        if left:
            if left not in with_room:
                with_room[left] = []
                insort(rooms, left)
            with_room[left].append(window)
    return windows
