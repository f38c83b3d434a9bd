"""Drops tables of contents: a heading with its entries, or a run of lines that end in dot leaders and page numbers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from shridhar_ft.data.headings import opens_chapter
from shridhar_ft.data.lines import without_lines

LONGEST_ENTRY = 200  # characters
FEWEST_UNDER_HEADING = 2  # entries: fewer under the word "Contents" may be a chapter of that name
FEWEST_ALONE = 3  # consecutive entries that need no heading

_HEADING = re.compile(r"\W*(?:содержание|оглавление|(?:table of )?contents)\W*", re.IGNORECASE)
_LEADERS = re.compile(r"(?P<title>.*?\w.*?)\s*(?:\.{3,}|…+\.*|(?:\.\s){3,}|_{3,})\s*\d{1,4}")
_PAGED = re.compile(r"(?P<title>.*?\w.*?)[\s,.]+\d{1,4}")


def drop_contents(text: str) -> str:
    """The book without its tables of contents, wherever they stand.

    An entry ends in leaders and a page number; or, below a heading such as «Содержание», in a page number; or it
    stands word for word elsewhere in the book, as headings do. The list ends where the first of its own titles
    comes again: there the text begins.

    Args:
        text: One work, with line feeds as line ends.

    Returns:
        The text without those lines.
    """
    lines = text.split("\n")
    times = Counter(_key(line) for line in lines if len(line) <= LONGEST_ENTRY)
    dropped: set[int] = set()
    index = 0
    while index < len(lines):
        entries = []
        if _HEADING.fullmatch(lines[index]):
            entries = _entries_below(lines, index + 1, times)
            if len(entries) >= FEWEST_UNDER_HEADING:
                dropped.update([index, *entries])
        elif len(run := _run_of_leaders(lines, index)) >= FEWEST_ALONE:
            entries = run
            dropped.update(entries)
        index = entries[-1] + 1 if entries else index + 1
    return without_lines(lines, dropped) if dropped else text


def _entries_below(lines: Sequence[str], start: int, times: Mapping[str, int]) -> list[int]:
    """Indices of the entries from `start` on; blank lines between them are passed over."""
    found: list[int] = []
    titles: set[str] = set()
    for index in range(start, len(lines)):
        line = lines[index].strip()
        if not line:
            continue
        if _key(line) in titles or (title := _title(line, times)) is None:
            break
        titles.add(_key(title))
        found.append(index)
    return found


def _title(line: str, times: Mapping[str, int]) -> str | None:
    """The title of an entry without its page number; None for a line that is no entry."""
    if len(line) > LONGEST_ENTRY:
        return None
    if line[-1].isdigit() and (match := _LEADERS.fullmatch(line)):
        return match["title"]
    speech = line[0] in "—–-"
    if times[_key(line)] > 1 and any(map(str.isalnum, line)) and not speech:
        return line
    match = _PAGED.fullmatch(line)
    # "Глава 1" ends in a number that is no page: it heads the first chapter.
    if match and not speech and not (opens_chapter(line) and len(line.split()) == 2):
        return match["title"]
    return None


def _run_of_leaders(lines: Sequence[str], start: int) -> list[int]:
    """Indices of consecutive lines from `start` on that end in leaders and a page number."""
    found: list[int] = []
    for index in range(start, len(lines)):
        line = lines[index].strip()
        # A digit at the end is the cheap half of the pattern, which costs the square of a line's length.
        if len(line) > LONGEST_ENTRY or not line[-1:].isdigit() or not _LEADERS.fullmatch(line):
            break
        found.append(index)
    return found


def _key(line: str) -> str:
    """A title as it is compared: contents and chapters often differ in capitals and a final dot."""
    return line.strip().rstrip(".").casefold()
