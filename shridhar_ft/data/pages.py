"""A book by its lines, as the search for page numbers and running heads sees it, and how such lines are dropped."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

from shridhar_ft.data.lines import breaks_off, is_hard_wrapped

FEWEST_REPEATS = 4  # of a line that may be a running head
LONGEST_HEAD = 100  # characters
DEEPEST_GAP = 12  # lines between the text of two pages, on one side of a number or head

DASHES = "-\u2010-\u2015"
NUMBER_LINE = re.compile(
    rf"(?P<open>[{DASHES}~*·•|]+|\[|\(|(?:стр(?:аница)?|с|page|p)\b\.?)?\s*(?P<number>\d{{1,4}})\s*(?:[{DASHES}~*·•|]+|\]|\))?",
    re.IGNORECASE,
)


class Book(NamedTuple):
    """A text by its lines, with what both steps look up."""

    lines: list[str]
    stripped: list[str]
    starts: list[int]
    """Characters before each line."""
    fed: list[bool]
    """Whether a form feed stands in the line."""
    furniture: frozenset[int]
    """Lines that are passed over in looking for the text around a page's end: blank ones, numbers, and what repeats."""


def dropped_until_stable(text: str, find: Callable[[Book], set[int]]) -> str:
    """The text without the lines that `find` finds by their indices, until it finds none."""
    while True:
        book = read_lines(text)
        dropped = find(book)
        if not dropped:
            return text
        text = _without(book, dropped)


def read_lines(text: str) -> Book:
    lines = text.split("\n")
    stripped = [line.strip() for line in lines]
    starts, at = [], 0
    for line in lines:
        starts.append(at)
        at += len(line) + 1
    fed = ["\x0c" in line for line in lines] if "\x0c" in text else [False] * len(lines)
    times = Counter(line for line in stripped if len(line) <= LONGEST_HEAD)
    furniture = frozenset(
        index
        for index, line in enumerate(stripped)
        if not line or NUMBER_LINE.fullmatch(line) or (times[line] >= FEWEST_REPEATS and len(line) > 3)
    )
    return Book(lines, stripped, starts, fed, furniture)


def cuts_a_sentence(book: Book, line: int) -> bool:
    """Whether the text around a line is one sentence."""
    before, after = around(book, line)
    return before is not None and after is not None and breaks_off(book.lines[before], book.lines[after])


def around(book: Book, line: int) -> tuple[int | None, int | None]:
    """Indices of the text before and behind a line, past blank lines and what else stands on pages."""
    above = range(line - 1, max(-1, line - 1 - DEEPEST_GAP), -1)
    below = range(line + 1, min(len(book.lines), line + 1 + DEEPEST_GAP))
    before, after = (next((at for at in side if at not in book.furniture), None) for side in (above, below))
    return before, after


def _without(book: Book, dropped: Collection[int]) -> str:
    """The lines without the dropped ones; where they cut a sentence, its halves are joined."""
    wrapped, spaced = is_hard_wrapped(book.lines), _is_spaced(book)
    lines = list(book.lines)
    kept: list[int] = []
    index = 0
    while index < len(lines):
        if index not in dropped:
            kept.append(index)
            index += 1
            continue
        # The gap: the dropped lines, and the blank ones around them, up to text on either side.
        while kept and not book.stripped[kept[-1]]:
            kept.pop()
        first = kept[-1] + 1 if kept else 0
        while index < len(lines) and (index in dropped or not book.stripped[index]):
            index += 1
        if not kept or index == len(lines):
            continue
        gap = range(first, index)
        before, after = kept[-1], index
        if before in book.furniture or after in book.furniture:
            # What is left of the page's own lines is for the other step, which looks for the form feed.
            blank = next((at for at in gap if book.fed[at]), None)
            if blank is None:
                blank = next((at for at in gap if at not in dropped), None)
            if blank is not None:
                lines[blank] = "\x0c" if book.fed[blank] else ""
                kept.append(blank)
        elif breaks_off(lines[before], lines[after]):
            lines[before], lines[after] = lines[before].rstrip(), lines[after].lstrip("\x0c")
            # A divided word is hyphenation's to join.
            if not wrapped and lines[before][-1] not in "-\u2010\xad":
                lines[after] = f"{lines[before]} {lines[after].lstrip()}"
                kept.pop()
        elif spaced and any(not book.stripped[at] for at in gap):
            lines[first] = ""
            kept.append(first)
    return "\n".join(lines[at] for at in kept)


def _is_spaced(book: Book) -> bool:
    """Whether blank lines part paragraphs, away from page ends."""
    blank = text = 0
    for index in range(1, len(book.lines) - 1):
        if book.stripped[index]:
            text += 1
        elif book.furniture.isdisjoint((index - 1, index + 1)):
            blank += 1
    return 20 * blank >= text > 0
