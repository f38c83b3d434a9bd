"""FictionBook 2 (.fb2, .fb2.zip): the body's paragraphs; notes, pictures and the description are left out."""

from collections.abc import Callable
from pathlib import Path

from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.archives import check_text_size, open_archive
from shridhar_ft.data.sources.markup import Element, Line, joined, local_name, parse_xml, text_and_chapters, text_of
from shridhar_ft.errors import UserError

_LINES = frozenset({"p", "v", "subtitle", "text-author", "date", "tr"})
_NAME_PARTS = ("first-name", "middle-name", "last-name")


def read_fb2(file: Path, work: str, say: Callable[[str], None]) -> Document:
    """One FictionBook as a work.

    A section's title is a chapter, on one line. The bodies of notes would stand behind the last page, away from what
    they explain; they and the marks that point to them are left out, and that is said.

    Args:
        file: The .fb2, or a ZIP archive with one in it.
        work: Name of the work.
        say: Takes a line on what is left out.

    Raises:
        UserError: The file is damaged or no FictionBook, an archive holds none or several, or a library is missing.
    """
    check_text_size(file, file.stat().st_size)
    raw = _unpacked(file) if file.suffix.lower() == ".zip" else file.read_bytes()
    # Pictures go before the parser sees them: they are most of the file, and larger than it takes in one piece.
    root = parse_xml(_without_pictures(raw), file)
    if local_name(root) != "fictionbook":
        raise UserError(f"{file}: it is XML, but no FictionBook; give it the suffix of what it is")
    lines: list[Line] = []
    notes = 0
    for body in _children(root, "body"):
        if body.get("name") is None:
            lines += _lines(body)
        else:
            notes += len(text_of(body))
    if notes:
        say(f"{file.name}: {notes:,} characters of notes are left out")
    info = next((info for head in _children(root, "description") for info in _children(head, "title-info")), root)
    title = next((text_of(title) for title in _children(info, "book-title")), "")
    author = ", ".join(filter(None, map(_name, _children(info, "author"))))
    text, chapters = text_and_chapters(lines)
    return Document(file.name, work, work, text, title, author, chapters)


def _unpacked(file: Path) -> bytes:
    with open_archive(file) as archive:
        books = [name for name in archive.entries if name.lower().endswith(".fb2")]
        if len(books) != 1:
            raise UserError(
                f"{file}: {len(books)} .fb2 files are in it, not one; unpack it, and name the books themselves"
            )
        return archive.read(books[0])


def _without_pictures(raw: bytes) -> bytes:
    """The file with its `<binary>` elements empty."""
    kept, at = [], 0
    while (start := raw.find(b"<binary", at)) >= 0:
        begin = raw.find(b">", start) + 1
        end = raw.find(b"</binary", begin)
        if not begin or end < 0:
            break
        kept.append(raw[at:begin])
        at = begin if raw[begin - 2 : begin] == b"/>" else end
    return b"".join([*kept, raw[at:]])


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if local_name(child) == name]


def _name(author: Element) -> str:
    parts = [text_of(part) for name in _NAME_PARTS for part in _children(author, name)]
    return " ".join(filter(None, parts)) or " ".join(text_of(nick) for nick in _children(author, "nickname"))


def _lines(body: Element) -> list[Line]:
    """Paragraphs, verses and titles of a body, in order."""
    lines: list[Line] = []
    waiting = [body]
    while waiting:
        element = waiting.pop()
        name = local_name(element)
        if name == "title":
            text = _title(element)
            lines += [Line(text, is_heading=local_name(element.getparent()) != "body")] if text else []
        elif name in _LINES:
            text = _said(element)
            lines += [Line(text)] if text else []
        else:
            waiting.extend(reversed(element))
    return lines


def _title(element: Element) -> str:
    """The lines of a title as one: «Глава I. Дом»."""
    text = ""
    for part in filter(None, map(_said, _children(element, "p"))):
        text += (" " if text[-1] in ".!?…:—" else ". ") + part if text else part
    return text


def _said(element: Element) -> str:
    """The text of a paragraph without the marks of its notes; cells of a table row are parted by a space."""
    words: list[str] = []
    waiting: list[tuple[Element, bool]] = [(element, False)]
    while waiting:
        part, leaving = waiting.pop()
        if leaving or local_name(part) in ("", "image") or (local_name(part) == "a" and part.get("type") == "note"):
            words.append(" " if local_name(part) in ("td", "th") else "")
            words.append(part.tail or "" if part is not element else "")
            continue
        words.append(part.text or "")
        waiting.append((part, True))
        waiting.extend((child, False) for child in reversed(part))
    return joined("".join(words)).strip(" ")
