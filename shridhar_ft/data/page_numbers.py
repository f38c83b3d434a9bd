"""Drops page numbers on lines of their own.

A number alone says nothing: chapters, verses and notes have them too. Page numbers are a chain of rising numbers,
spaced like pages, with a sign that no chapter gives: a sentence goes on behind them, a form feed follows them, or
numbers are left out while the spacing holds.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from shridhar_ft.data.pages import NUMBER_LINE, Book, around, cuts_a_sentence, dropped_until_stable

FEWEST_NUMBERS = 3  # in a chain
LONGEST_NUMBER = 20  # characters of a page number's line
SHORTEST_PAGE, LONGEST_PAGE = 300, 6000  # characters a page, on average between two numbers of a chain
LOOK_BACK = 100  # candidates before one that it may follow in a chain: bounds the cost


class Mark(NamedTuple):
    """A line that may be a page's own: its number, its running head, or both."""

    line: int
    """Index."""
    at: int
    """Characters before it."""
    number: int


def page_numbers(text: str) -> str:
    """The book without page numbers on lines of their own; where one cut a sentence, its halves are joined.

    Args:
        text: One work, with line feeds, and form feeds where a page ends, as line ends.

    Returns:
        The text without those lines; applied again, nothing changes.
    """
    return dropped_until_stable(text, page_number_lines)


def page_number_lines(book: Book) -> set[int]:
    styles: defaultdict[str, list[Mark]] = defaultdict(list)
    for index, line in enumerate(book.stripped):
        if len(line) <= LONGEST_NUMBER and (match := NUMBER_LINE.fullmatch(line)):
            style = (match["open"] or "").casefold()[:1]
            styles[style].append(Mark(index, book.starts[index], int(match["number"])))
    found: set[int] = set()
    for style, marks in styles.items():
        found.update(mark.line for mark in pages_of(book, marks, sure=style in ("с", "p")))
    return found


def pages_of(book: Book, marks: Sequence[Mark], sure: bool = False) -> list[Mark]:
    """The marks that number pages; none without a sign of it. `sure`: the form itself is one."""
    fed = sum(book.fed) >= FEWEST_NUMBERS
    # Where form feeds tell the pages, their length need not.
    chain = _chain(marks, LONGEST_PAGE if not fed else 10 * LONGEST_PAGE)
    if len(chain) < FEWEST_NUMBERS or not (sure or _numbers_pages(book, chain)):
        return []
    return _beyond(_between(chain, marks), marks)


def _chain(marks: Sequence[Mark], longest: int) -> list[Mark]:
    """The longest run of marks, in reading order, whose numbers rise with the pages' length between them."""
    best: list[tuple[int, int]] = []  # length of the best chain that ends here, and the mark before
    for index, mark in enumerate(marks):
        length, before = 1, -1
        for other in range(index - 1, max(-1, index - 1 - LOOK_BACK), -1):
            step = mark.number - marks[other].number
            apart = mark.at - marks[other].at
            if step > 0 and SHORTEST_PAGE * step <= apart <= longest * step and best[other][0] >= length:
                length, before = best[other][0] + 1, other
        best.append((length, before))
    chain: list[Mark] = []
    at = max(range(len(best)), key=lambda index: best[index][0], default=-1)
    while at >= 0:
        chain.append(marks[at])
        at = best[at][1]
    return chain[::-1]


def _numbers_pages(book: Book, chain: Sequence[Mark]) -> bool:
    """Whether something says that these numbers are pages' and not chapters'."""
    cut = sum(cuts_a_sentence(book, mark.line) for mark in chain)
    if 4 * cut >= len(chain) and cut >= 2:
        return True
    if 2 * sum(_ends_a_page(book, mark.line) for mark in chain) > len(chain):
        return True
    return _skips_evenly(chain)


def _ends_a_page(book: Book, line: int) -> bool:
    """Whether a form feed follows, and text stands before the number on its page."""
    before, after = around(book, line)
    stop = len(book.lines) if after is None else after + 1
    return before is not None and any(book.fed[line + 1 : stop]) and not any(book.fed[before + 1 : line])


def _skips_evenly(chain: Sequence[Mark]) -> bool:
    """Whether most numbers are missing, yet as many characters a page lie between those that are there.

    And before the first: no list of years or sums is so placed in its book.
    """
    pages = chain[-1].number - chain[0].number
    if pages < 2 * (len(chain) - 1):
        return False
    rates = [(b.at - a.at) / (b.number - a.number) for a, b in pairwise(chain)]
    middle = median(rates)
    rates.append(chain[0].at / chain[0].number)
    return all(0.6 * middle <= rate <= 1.6 * middle for rate in rates)


def _between(chain: Sequence[Mark], marks: Sequence[Mark]) -> list[Mark]:
    """The chain, and the marks that fit between two of its numbers by number and place: short pages break no chain."""
    found = list(chain)
    places = [mark.at for mark in chain]
    for mark in marks:
        at = bisect_left(places, mark.at)
        if 0 < at < len(chain) and places[at] != mark.at and chain[at - 1].number < mark.number < chain[at].number:
            found.append(mark)
    return found


def _beyond(pages: Sequence[Mark], marks: Sequence[Mark]) -> list[Mark]:
    """The pages, and the short ones before the first and behind the last."""
    found = sorted(pages)
    for mark in marks:
        if mark.at > found[-1].at and mark.number == found[-1].number + 1 and mark.at - found[-1].at <= LONGEST_PAGE:
            found.append(mark)
    for mark in reversed(marks):
        if mark.at < found[0].at and mark.number == found[0].number - 1 and found[0].at - mark.at <= LONGEST_PAGE:
            found.insert(0, mark)
    return found
