"""Drops publishers' front matter: copyright, ISBN, editors, print run, addresses, before the text begins."""

import re
from itertools import pairwise

from shridhar_ft.data.headings import is_heading, opens_chapter
from shridhar_ft.data.lines import without_lines

FIRST_LINES = 150  # front matter is looked for in these only
LONGEST_IMPRINT = 200  # characters; a longer line without an anchor is prose, and the text begins there
NEAR = 15  # lines from an anchor within which weaker signs count

# An anchor stands in no novel's first lines; the other signs do ("Редактор." may be who speaks in a play), so they
# count only near an anchor.
_ANCHOR = re.compile(
    r"©|\bcopyright\b|\(c\)\s*\d{4}|\bISBN\b|\bУДК\b|\bББК\b|^\W*все права\b|\ball rights reserved\b",
    re.IGNORECASE,
)
_SIGN = re.compile(
    r"^\W*(?:издательств|издатель\b|изд-во|ооо\b|зао\b|оао\b|типографи|отпечатано|подписано в печать|сдано в набор"
    r"|тираж|формат\b.*\d|бумага\b|гарнитура|печать офсет|усл\.?\s*печ|уч\.?-изд|заказ\b.*\d|лицензия|перевод с"
    r"|(?:наш\s+)?адрес|e-?mail|электронная почта|сайт\b|факс|printed in|published by|publisher)"
    r"|^\W*(?:\w+ый\s+)?(?:редактор|корректор|переводчик|художник|составитель|дизайн\w*|в[её]рстка|оформление)"
    r"(?:\s\w+){0,2}\s*(?:[:—–-]|[A-ZА-ЯЁ]\.)"
    r"|\bтел\.|\bтелефон\w*:|\bул\.|\bа/я\b|\b\d{6},"
    r"|[\w.+-]+@[\w-]+\.\w{2,}|https?://|\bwww\.",
    re.IGNORECASE,
)


def drop_front_matter(text: str) -> str:
    """The book without its publisher's lines; title and author stay, and no prose goes.

    Looked at are the first lines up to the first chapter heading or paragraph of prose. Lines with an anchor (©,
    ISBN, УДК …) go, lines with a weaker sign near an anchor go, and so does a line or two enclosed by such lines.

    Args:
        text: One work, with line feeds as line ends.

    Returns:
        The text without those lines.
    """
    lines = text.split("\n")
    end = _text_begins(lines)
    anchors = [index for index in range(end) if _ANCHOR.search(lines[index])]
    if not anchors:
        return text
    dropped = set(anchors)
    for index in range(end):
        if _SIGN.search(lines[index]) and min(abs(index - anchor) for anchor in anchors) <= NEAR:
            dropped.add(index)
    marked = sorted(dropped)
    for before, after in pairwise(marked):
        between = range(before + 1, after)
        if len(between) <= 2 and all(lines[index].strip() and not is_heading(lines[index]) for index in between):
            dropped.update(between)
    return without_lines(lines, dropped)


def _text_begins(lines: list[str]) -> int:
    """Index of the first line that front matter cannot hold."""
    for index, line in enumerate(lines[:FIRST_LINES]):
        prose = len(line) > LONGEST_IMPRINT and not _ANCHOR.search(line)
        if prose or opens_chapter(line):
            return index
    return min(len(lines), FIRST_LINES)
