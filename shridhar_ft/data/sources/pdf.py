"""PDFs with a text layer: their lines joined into paragraphs, page by page."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from shridhar_ft.data.headings import is_heading
from shridhar_ft.data.hyphenation import hyphenation
from shridhar_ft.data.lines import breaks_off
from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.extras import library
from shridhar_ft.errors import UserError, first_line

FEWEST_HEADS = 3  # pages on which a line stands first or last that is no text
FULL = 0.8  # of the usual line's length: a shorter line ends its paragraph
_SENTENCE_END = re.compile(r"[.!?…:;][»”\")\]]*$")
_SPEECH = "—–•*-"
_NUMBERS = re.compile(r"[\W\d_]*\d[\W\d_]*")


class Piece(NamedTuple):
    """A line of a page."""

    text: str
    is_own: bool
    """It is the page's own: its number, or what stands on top or at the bottom of others too."""


def read_pdf(file: Path, work: str, say: Callable[[str], None]) -> Document:
    """One PDF as a work: title and author as its properties say, chapters as its outline does.

    A PDF knows lines, not paragraphs: a paragraph ends with a short line that ends a sentence or is followed by a
    capital, or before speech or a heading. Words divided at line ends are joined first, whatever `data.clean` says.
    Page numbers and running heads stay lines of their own, and form feeds part the pages, so that cleaning finds them.

    Args:
        file: The .pdf.
        work: Name of the work.
        say: Takes a line on pages without text.

    Raises:
        UserError: The file is damaged, encrypted or a scan, or the library is missing.
    """
    pypdf = library("pypdf", file)
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every oddity of a font
    try:
        reader = pypdf.PdfReader(file)
        encrypted = reader.is_encrypted
        pages = [page.extract_text().replace("\0", "") for page in reader.pages] if not encrypted else []
        said = reader.metadata if not encrypted else None
        outline = list(_titles(reader.outline)) if not encrypted else []
    except Exception as error:  # whatever the library raises over a damaged file
        what = first_line(error) or type(error).__name__
        raise UserError(f"{file}: it is no whole PDF ({what}); fetch it anew") from error
    if encrypted:
        raise UserError(f"{file}: it is encrypted; save a copy without password, and name that")
    blank = sum(not page.strip() for page in pages)
    if 2 * blank >= len(pages):
        raise UserError(
            f"{file}: {blank} of its {len(pages)} pages hold no text: it is a scan; put it through OCR (such as "
            f"ocrmypdf), and name the result"
        )
    if blank:
        say(f"{file.name}: {blank} of its {len(pages)} pages hold no text")
    text = _joined([page.strip("\n").split("\n") for page in hyphenation("\n\x0c".join(pages)).split("\x0c")])
    lines = {line.removeprefix("\x0c") for line in text.split("\n")}
    title, author = (str(value or "").strip() for value in ((said.title, said.author) if said else ("", "")))
    return Document(file.name, work, work, text, title, author, tuple(line for line in outline if line in lines))


def _joined(pages: Sequence[Sequence[str]]) -> str:
    """The paragraphs of all pages; one that goes over a page's end is joined where nothing stands between."""
    ends = Counter(_head(line) for page in pages for line in {page[0], page[-1]} if line.strip())
    own = {head for head, times in ends.items() if not head or times >= FEWEST_HEADS}
    text, was_own = "", False
    for page in pages:
        lines = [Piece(line.strip(), _head(line) in own and at in (0, len(page) - 1)) for at, line in enumerate(page)]
        found = paragraphs(lines)
        last = text.rpartition("\n")[2]
        if text and found and not (was_own or lines[0].is_own) and breaks_off(last, found[0]):
            text += " " + "\n".join(found)
        else:
            text += ("\n\x0c" if text else "") + "\n".join(found)
        was_own = lines[-1].is_own
    return text


def _head(line: str) -> str:
    """A page's own line without its number."""
    return _NUMBERS.sub("", line).strip().casefold()


def paragraphs(lines: Sequence[Piece]) -> list[str]:
    """The lines of a page joined into paragraphs."""
    lengths = [len(line.text) for line in lines if line.text]
    full = FULL * median(lengths) if lengths else 0
    found: list[str] = []
    for (before, was_own), (line, is_own) in pairwise([Piece("", True), *lines]):
        ends = not before or not line or was_own or is_own or is_heading(before) or is_heading(line)
        short = len(before) < full and (_SENTENCE_END.search(before) or not line[:1].islower())
        if ends or short or line[0] in _SPEECH:
            found.append(line)
        else:
            found[-1] += f" {line}"
    return list(filter(None, found))


def _titles(outline: list) -> Iterator[str]:
    """Titles of an outline in reading order, those of its branches too."""
    for entry in outline:
        if isinstance(entry, list):
            yield from _titles(entry)
        else:
            yield " ".join(str(entry.title).split())
