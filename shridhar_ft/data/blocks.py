"""Cuts a cleaned work into chapter blocks: the units that the split draws.

A split by whole books would put an author's only treatment of a subject wholly into one split, and a split by
paragraph would leak: neighbours finish each other's sentences. A chapter, or a few pages of it, lies between.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from math import ceil
from typing import NamedTuple

from shridhar_ft import config_data
from shridhar_ft.data.headings import is_heading

SHORTEST_LIMIT = 1000  # characters: shorter blocks hold no thought
BLOCKS_A_WORK = 20  # a shorter work gets shorter blocks, so that tenths of it can be drawn

SENTENCE_END = re.compile(r"[.!?…]+[»\"”’)\]]*( )(?=[—–«\"“„(]*\s?[A-ZА-ЯЁ\d])")


class Piece(NamedTuple):
    """A stretch of the text, and the one character (line feed or space) between it and the piece before."""

    separator: str
    text: str


def block_limit(length: int, split: config_data.Split) -> int:
    """Longest block, in characters, of a work of this length."""
    return min(split.block_chars, max(SHORTEST_LIMIT, length // BLOCKS_A_WORK))


def cut_blocks(text: str, limit: int, chapters: Collection[str] = ()) -> list[str]:
    """Cut one work into blocks that end with a chapter or a paragraph.

    Chapters longer than `limit` are cut at paragraph ends into pieces of similar length; a paragraph longer than
    `limit` is cut at sentence ends, and a sentence longer than it stands whole. Chapters shorter than an eighth of
    `limit` (a title page, «Часть первая») go with the next one, and pieces shorter than half of it are joined to a
    neighbour where both fit.

    Args:
        text: The cleaned work, not empty.
        limit: Longest block, in characters.
        chapters: Lines that are chapter titles because the work's file says so.

    Returns:
        The blocks in reading order, none of them blank. One character of the text is lost at each cut: a line
        feed, or a space inside a paragraph. So `"\\n".join(blocks)` is the text, but for line feeds in place of the
        spaces where a paragraph longer than `limit` was cut.
    """
    pieces: list[Piece] = []
    for chapter in _join_short_chapters(_chapters(_paragraphs(text), chapters), limit // 8):
        pieces += _fill(_divide(chapter, limit), limit)
    return [piece.text for piece in _join_short_pieces(pieces, limit)]


def _paragraphs(text: str) -> list[str]:
    """Lines with the blank lines after them; blank lines at the top go with the first."""
    found: list[str] = []
    blank_so_far = True
    for line in text.split("\n"):
        if found and (blank_so_far or not line.strip()):
            found[-1] += "\n" + line
        else:
            found.append(line)
        blank_so_far = blank_so_far and not line.strip()
    return found


def chapter_titles(blocks: Sequence[str], chapters: Collection[str] = ()) -> Iterator[str]:
    """The chapter that each block begins in, by the last heading up to its first line; empty before the first one."""
    current = ""
    for block in blocks:
        lines = block.split("\n")
        first = next((line for line in lines if line.strip()), "")
        yield first.strip() if _opens(first, chapters) else current
        current = next((line.strip() for line in reversed(lines) if _opens(line, chapters)), current)


def _opens(line: str, chapters: Collection[str]) -> bool:
    return line.strip() in chapters or is_heading(line)


def _chapters(paragraphs: Sequence[str], chapters: Collection[str]) -> list[list[str]]:
    found: list[list[str]] = []
    for paragraph in paragraphs:
        if not found or _opens(paragraph, chapters):
            found.append([])
        found[-1].append(paragraph)
    return found


def _join_short_chapters(chapters: Sequence[list[str]], shortest: int) -> list[list[str]]:
    joined: list[list[str]] = []
    waiting: list[str] = []
    for chapter in chapters:
        waiting += chapter
        if sum(map(len, waiting)) >= shortest:
            joined.append(waiting)
            waiting = []
    if waiting and joined:
        joined[-1] += waiting
    elif waiting:
        joined.append(waiting)
    return joined


def _divide(paragraphs: Sequence[str], limit: int) -> list[Piece]:
    """Paragraphs, those longer than the limit as sentences."""
    pieces: list[Piece] = []
    for paragraph in paragraphs:
        ends = [match.start(1) for match in SENTENCE_END.finditer(paragraph)] if len(paragraph) > limit else []
        separator = "\n"
        start = 0
        for end in (*ends, len(paragraph)):
            pieces.append(Piece(separator, paragraph[start:end]))
            separator, start = " ", end + 1
    return pieces


def _fill(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """Join pieces up to the limit so that the results are about equally long."""
    filled = [pieces[0]]
    left = sum(len(piece.text) + 1 for piece in pieces)  # from the last of `filled` on
    for piece in pieces[1:]:
        share = left / ceil(left / limit)
        size = len(filled[-1].text) + 1 + len(piece.text)
        # Cut on that side of the piece which is nearer to the equal share.
        if size <= limit and size - len(piece.text) / 2 <= share:
            filled[-1] = _join(filled[-1], piece)
        else:
            left -= len(filled[-1].text) + 1
            filled.append(piece)
    return filled


def _join_short_pieces(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        before = len(joined[-1].text) if joined else 0
        size = before + 1 + len(piece.text)
        if joined and size <= limit and min(before, len(piece.text)) < limit // 2:
            joined[-1] = _join(joined[-1], piece)
        else:
            joined.append(piece)
    return joined


def _join(first: Piece, second: Piece) -> Piece:
    return Piece(first.separator, first.text + second.separator + second.text)
