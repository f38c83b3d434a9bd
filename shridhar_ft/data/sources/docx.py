"""Word documents (.docx): paragraphs and tables in order; headers, footers, notes and pictures are left out."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.archives import open_archive
from shridhar_ft.data.sources.extras import library
from shridhar_ft.data.sources.markup import Line, parse_xml, text_and_chapters, text_of
from shridhar_ft.errors import UserError, first_line

_HEADING = re.compile(r"(?:heading|заголовок) \d", re.IGNORECASE)


def read_docx(file: Path, work: str, say: Callable[[str], None]) -> Document:
    """One Word document as a work: paragraphs in a heading style are chapters, title and author its properties.

    Args:
        file: The .docx.
        work: Name of the work.
        say: Takes a line on what is left out.

    Raises:
        UserError: The file is damaged, encrypted or no Word document, or a library is missing.
    """
    with open_archive(file) as archive:
        archive.check_all()
    docx = library("docx", file)
    try:
        document = docx.Document(str(file))
        notes = sum(_size_of_notes(document, file))
        lines, properties = list(_lines(document)), document.core_properties
        title, author = properties.title.strip(), properties.author.strip()
    except Exception as error:  # whatever the library and its parser raise over a damaged file
        raise UserError(f"{file}: it is no whole Word document ({first_line(error)}); save it anew") from error
    if notes:
        say(f"{file.name}: {notes:,} characters of notes are left out")
    text, chapters = text_and_chapters(lines)
    return Document(file.name, work, work, text, title, author, chapters)


def _size_of_notes(document: Any, file: Path) -> Iterator[int]:  # noqa: ANN401 - python-docx's document
    for relation in document.part.rels.values():
        if relation.reltype.endswith(("/footnotes", "/endnotes")):
            yield len(text_of(parse_xml(relation.target_part.blob, file)))


def _lines(document: Any) -> Iterator[Line]:  # noqa: ANN401 - python-docx's document
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                # A merged cell stands in each of its columns.
                texts = {cell._tc: " ".join(cell.text.split()) for cell in row.cells}
                if text := " ".join(filter(None, texts.values())):
                    yield Line(text)
            continue
        is_heading = bool(_HEADING.match(block.style.name or "")) if block.style is not None else False
        parts = [part.strip() for part in block.text.split("\n")]
        if is_heading:
            parts = [" ".join(parts)]
        yield from (Line(part.strip(), is_heading) for part in parts if part.strip())
