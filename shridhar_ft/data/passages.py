"""Finds the paragraphs of a book: a line each, or several where lines are broken at a width."""

from collections.abc import Sequence
from typing import NamedTuple

from shridhar_ft.data.lines import breaks_off, is_hard_wrapped

SHORT_LINE = 0.8  # of the width that nine lines in ten keep to: the last line of a paragraph is often shorter


class Passage(NamedTuple):
    """Lines of one block."""

    block: int
    first: int
    """Its first line."""
    end: int
    """The line after its last one."""


def passages_of(blocks: Sequence[Sequence[str]]) -> list[Passage]:
    """The paragraphs of a work, blank lines left out.

    In hard-wrapped text, blank lines divide paragraphs, and so does a short line after which no sentence goes on, as
    many books have no blank lines. A paragraph may so be found in two parts, never two as one for its sake.

    Args:
        blocks: The lines of each of the work's blocks.

    Returns:
        The paragraphs in reading order, none of them across two blocks.
    """
    all_lines = [line for lines in blocks for line in (*lines, "")]
    wrapped = is_hard_wrapped(all_lines)
    widths = sorted(len(line) for line in all_lines if line.strip())
    short = SHORT_LINE * widths[9 * len(widths) // 10] if widths else 0
    found: list[Passage] = []
    for block, lines in enumerate(blocks):
        goes_on = False
        for number, line in enumerate(lines):
            if not line.strip():
                goes_on = False
                continue
            if goes_on:
                found[-1] = found[-1]._replace(end=number + 1)
            else:
                found.append(Passage(block, number, number + 1))
            following = lines[number + 1] if number + 1 < len(lines) else ""
            goes_on = wrapped and (len(line) >= short or breaks_off(line, following))
    return found
