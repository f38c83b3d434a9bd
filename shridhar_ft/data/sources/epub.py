"""EPUB 2 and 3: the documents of the spine in reading order; navigation, notes and pictures are left out."""

import posixpath
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.archives import Archive, check_size, open_archive
from shridhar_ft.data.sources.detection import detect
from shridhar_ft.data.sources.html_book import declared_encoding
from shridhar_ft.data.sources.markup import (
    Element,
    Line,
    html_lines,
    local_name,
    parse_html,
    parse_xml,
    text_and_chapters,
    text_of,
)
from shridhar_ft.errors import UserError

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_TYPE = ("{http://www.idpf.org/2007/ops}type", "epub:type")  # as XML and as HTML parsers name it
_NOTES = frozenset({"footnote", "footnotes", "endnote", "endnotes", "rearnote", "rearnotes", "note"})
_AROUND = frozenset({"noteref", "pagebreak", "toc", "landmarks", "page-list", "lot", "loi"})
_ROLES = {"doc-footnote": "footnote", "doc-endnote": "endnote", "doc-endnotes": "endnotes", "doc-noteref": "noteref"}
_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/xml", "text/xml"})


def read_epub(file: Path, work: str, say: Callable[[str], None]) -> Document:
    """One EPUB as a work: headings are chapters, title and author are those of its package.

    What is marked as notes, and documents outside the reading order (`linear="no"`, mostly notes too), would stand
    away from what they explain; they are left out, and that is said.

    Args:
        file: The .epub.
        work: Name of the work.
        say: Takes a line on what is left out.

    Raises:
        UserError: The file is damaged, locked by its seller, or no EPUB, or a library is missing.
    """
    with open_archive(file) as archive:
        package = _package(archive)
        root = parse_xml(archive.read(package), file, package)
        pages, aside = _spine(root, posixpath.dirname(package), archive)
        check_size(file, [archive.entries[name] for name in pages])
        _check_unlocked(archive, pages)
        lines: list[Line] = []
        notes = 0
        for name in pages:
            found, left_out = _lines(archive.read(name), file, name)
            lines += found
            notes += left_out
    if notes or aside:
        say(f"{file.name}: {notes:,} notes and {aside:,} documents outside the reading order are left out")
    text, chapters = text_and_chapters(lines)
    title = next(iter(_said(root, "title")), "")
    return Document(file.name, work, work, text, title, ", ".join(_said(root, "creator")), chapters)


def _package(archive: Archive) -> str:
    """Name of the file that lists the others."""
    if _CONTAINER not in archive.entries:
        raise UserError(f"{archive.file}: it is a ZIP archive, but no EPUB ({_CONTAINER} is missing); fetch it anew")
    container = parse_xml(archive.read(_CONTAINER), archive.file, _CONTAINER)
    for element in container.iter():
        path = element.get("full-path") if local_name(element) == "rootfile" else None
        if path in archive.entries:
            return path
    raise UserError(f"{archive.file}: the package file that {_CONTAINER} names is not in it; fetch it anew")


def _spine(root: Element, folder: str, archive: Archive) -> tuple[list[str], int]:
    """Names of the documents in reading order, and how many stand outside of it."""
    items = {item.get("id"): item for item in root.iter() if local_name(item) == "item"}
    pages: list[str] = []
    aside = 0
    for reference in (element for element in root.iter() if local_name(element) == "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _PAGES or "nav" in (item.get("properties") or "").split():
            continue
        if reference.get("linear") == "no":
            aside += 1
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", "").partition("#")[0])))
        if name not in archive.entries:
            raise UserError(f"{archive.file}: {name}, a part of the book, is not in it; fetch it anew")
        pages.append(name)
    if not pages:
        raise UserError(f"{archive.file}: its package names no documents to read; fetch it anew")
    return list(dict.fromkeys(pages)), aside


def _check_unlocked(archive: Archive, pages: list[str]) -> None:
    """Refuse a book whose text is encrypted; encrypted fonts do no harm."""
    if _ENCRYPTION not in archive.entries:
        return
    root = parse_xml(archive.read(_ENCRYPTION), archive.file, _ENCRYPTION)
    locked = {unquote(element.get("URI", "")) for element in root.iter() if local_name(element) == "cipherreference"}
    if locked.intersection(pages):
        raise UserError(f"{archive.file}: its text is encrypted (DRM); name a copy that is not locked")


def _lines(raw: bytes, file: Path, name: str) -> tuple[list[Line], int]:
    """Lines of one document, and how many notes in it were left out."""
    encoding = declared_encoding(raw) or detect(raw).encoding or "utf-8"
    try:
        page = parse_html(raw.decode(encoding), file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} ({name}): byte {error.start} is not {encoding}; fetch it anew") from error
    left_out = 0

    def skips(element: Element) -> bool:
        nonlocal left_out
        types = _types(element)
        left_out += bool(types & _NOTES)
        return bool(types & (_NOTES | _AROUND))

    return ([] if page is None else html_lines(page, skips)), left_out


def _types(element: Element) -> set[str]:
    """What EPUB says an element is."""
    said = " ".join(element.get(key) or "" for key in _TYPE).split()
    role = _ROLES.get(element.get("role") or "")
    return {*said, role} if role else set(said)


def _said(root: Element, name: str) -> list[str]:
    """Texts of the Dublin Core elements of this name."""
    found = [text_of(element) for element in root.iter() if local_name(element) == name]
    return [text for text in found if text]
