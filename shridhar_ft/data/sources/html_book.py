"""Books in HTML: the body's paragraphs; scripts, styles, navigation and pictures are left out."""

import codecs
import re
from pathlib import Path

from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.markup import html_lines, parse_html, text_and_chapters, text_of

_DECLARED = re.compile(rb"""<(?:meta[^>]*\bcharset|\?xml[^>]*\bencoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_WITHIN = 4096  # bytes; browsers look through the first 1024


def declared_encoding(raw: bytes) -> str | None:
    """The encoding that the page says it is in, if Python knows it."""
    if raw.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    match = _DECLARED.search(raw[:_WITHIN])
    try:
        return codecs.lookup(match[1].decode()).name if match else None
    except LookupError:
        return None


def read_html(text: str, file: Path, work: str) -> Document:
    """One page as a work: title and author as its head says, headings as chapters.

    Args:
        text: The page, decoded.
        file: The file.
        work: Name of the work.

    Raises:
        UserError: The library for it is not installed.
    """
    root = parse_html(text, file)
    if root is None:
        return Document(file.name, work, work, "")
    lines, chapters = text_and_chapters(html_lines(root))
    author = next(
        (meta.get("content", "") for meta in root.iter("meta") if meta.get("name", "").lower() == "author"), ""
    )
    return Document(file.name, work, work, lines, text_of(root.find(".//title")), author.strip(), chapters)
