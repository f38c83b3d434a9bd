"""Drops running heads: the title, author or chapter that stands on top of every page.

Such a head is a short line that comes again beside page numbers or form feeds, or within sentences at page distance;
or one with the page's number in it.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise
from statistics import median

from shridhar_ft.data.headings import is_heading, opens_chapter
from shridhar_ft.data.page_numbers import LONGEST_PAGE, SHORTEST_PAGE, Mark, page_number_lines, pages_of
from shridhar_ft.data.pages import (
    DASHES,
    DEEPEST_GAP,
    FEWEST_REPEATS,
    LONGEST_HEAD,
    NUMBER_LINE,
    Book,
    cuts_a_sentence,
    dropped_until_stable,
)

TITLE_WITHIN = 500  # characters from the book's beginning

_HEAD_BEFORE = re.compile(rf"(?P<number>\d{{1,4}})(?:\s*[|{DASHES}•·]\s*|\s+)(?P<head>\S.*\S)")
_HEAD_AFTER = re.compile(rf"(?P<head>\S.*\S)(?:\s*[|{DASHES}•·]\s*|\s+)(?P<number>\d{{1,4}})")


def running_heads(text: str) -> str:
    """The book without the title, author or chapter that stands on top of every page.

    Args:
        text: One work, as for `page_numbers`, before that.

    Returns:
        The text without those lines; the first of a chapter's heads stays where it is the heading itself.
    """
    return dropped_until_stable(text, _running_head_lines)


def _running_head_lines(book: Book) -> set[int]:
    numbers = page_number_lines(book)
    return _numbered_heads(book) | _repeated_heads(book, numbers)


def _numbered_heads(book: Book) -> set[int]:
    """Lines of one head and a rising page number: `12 Н. В. Гоголь`, `Вий | 13`."""
    heads: defaultdict[str, list[Mark]] = defaultdict(list)
    for index, line in enumerate(book.stripped):
        # "Глава 1", "Глава 2" is a head and a rising number too.
        if len(line) > LONGEST_HEAD or opens_chapter(line) or NUMBER_LINE.fullmatch(line):
            continue
        for pattern in (_HEAD_BEFORE, _HEAD_AFTER):
            match = pattern.fullmatch(line)
            if match and any(map(str.isalpha, match["head"])):
                heads[match["head"].casefold()].append(Mark(index, book.starts[index], int(match["number"])))
    found: set[int] = set()
    for marks in heads.values():
        if len(marks) >= FEWEST_REPEATS and len(pages := pages_of(book, marks)) >= FEWEST_REPEATS:
            found.update(mark.line for mark in pages)
    return found


def _repeated_heads(book: Book, numbers: Collection[int]) -> set[int]:
    """Lines that come again beside a page number or a form feed, or within sentences at page distance."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for index, line in enumerate(book.stripped):
        if len(line) <= LONGEST_HEAD and sum(map(str.isalpha, line[:LONGEST_HEAD])) >= 3:
            places[line].append(index)
    found: set[int] = set()
    for line, indices in places.items():
        if len(indices) < FEWEST_REPEATS:
            continue
        beside = [index for index in indices if _beside_a_break(book, index, numbers)]
        cut = [index for index in indices if cuts_a_sentence(book, index)]
        if len(beside) >= FEWEST_REPEATS and 4 * len(beside) >= 3 * len(indices):
            heads = sorted({*beside, *cut})
        elif len(cut) >= FEWEST_REPEATS and 3 * len(cut) >= len(indices) and _at_page_distance(book, indices):
            heads = indices
        else:
            continue
        if not cuts_a_sentence(book, heads[0]) and _opens_its_chapter(book, line, indices):
            heads = heads[1:] if heads[0] == indices[0] else heads
        found.update(heads)
    return found


def _beside_a_break(book: Book, line: int, numbers: Collection[int]) -> bool:
    """Whether a page number or form feed stands beside a line, with nothing but blank lines between."""
    above = range(line - 1, max(-1, line - 1 - DEEPEST_GAP), -1)
    below = range(line + 1, min(len(book.lines), line + 1 + DEEPEST_GAP))
    for side in (above, below):
        for at in side:
            if at in numbers or (book.fed[at] and not book.stripped[at]):
                return True
            if book.stripped[at]:
                break
    return book.fed[line]


def _at_page_distance(book: Book, indices: Sequence[int]) -> bool:
    """Whether the middle half of the distances is alike, and a page or a few long."""
    apart = sorted(book.starts[b] - book.starts[a] for a, b in pairwise(indices))
    low, high = apart[len(apart) // 4], apart[(3 * len(apart)) // 4]
    return 2 * SHORTEST_PAGE <= median(apart) <= 3 * LONGEST_PAGE and high <= 2 * low


def _opens_its_chapter(book: Book, line: str, indices: Sequence[int]) -> bool:
    """Whether the first of these lines is the heading that the others repeat.

    A chapter's head runs for a chapter, a book's for the whole: its first may stand on the second page.
    """
    first, last = book.starts[indices[0]], book.starts[indices[-1]]
    whole = 2 * (last - first) > book.starts[-1]
    return is_heading(line) or not whole or first < TITLE_WITHIN
