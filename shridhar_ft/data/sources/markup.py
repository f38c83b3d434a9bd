"""Paragraphs of HTML and XML: parsed without entities and network, one paragraph a line, headings marked."""

import re
from collections.abc import Callable, Iterable
from html.entities import html5
from pathlib import Path
from typing import Any, NamedTuple

from shridhar_ft.data.sources.extras import library
from shridhar_ft.errors import UserError, first_line

Element = Any  # lxml's have no types

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS = HEADINGS | {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "summary",
    "table", "tr", "ul",
}  # fmt: skip
_SKIPPED = frozenset(
    {"audio", "button", "canvas", "embed", "head", "iframe", "img", "input", "map", "math", "nav", "noscript", "object"}
    | {"script", "select", "style", "svg", "template", "textarea", "title", "video"}
)
_CELLS = frozenset({"td", "th"})
# Spaces that markup may break and join; a no-break space is the author's.
_SPACES = re.compile("[ \t\n\r\f]+")
_ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]{1,31});")
_XML_ENTITIES = {b"amp", b"lt", b"gt", b"quot", b"apos"}


class Line(NamedTuple):
    """One paragraph."""

    text: str
    is_heading: bool = False


def parse_xml(raw: bytes, file: Path, name: str = "") -> Element:
    """The root of an XML document; its entities are not resolved, nothing is fetched.

    Args:
        raw: Its bytes; the encoding is the one it declares.
        file: The file, for messages.
        name: The entry of the archive, for messages.

    Raises:
        UserError: It is not well-formed, or declares entities of its own, which can grow without end.
    """
    etree = library("lxml.etree", file)
    where = f"{file} ({name})" if name else f"{file}"
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        root = etree.fromstring(_numeric_entities(raw), parser)
    except (etree.XMLSyntaxError, LookupError, ValueError) as error:
        raise UserError(
            f"{where}: it is not well-formed XML ({first_line(error)}); mend it, or fetch it anew"
        ) from error
    if (dtd := root.getroottree().docinfo.internalDTD) is not None and any(True for _ in dtd.iterentities()):
        raise UserError(f"{where}: it declares XML entities, as no book does; take the file out")
    return root


def parse_html(text: str, file: Path) -> Element | None:
    """The root of an HTML document, however broken; None where there is no element in it.

    Raises:
        UserError: Its elements are nested thousands deep.
    """
    lxml_html = library("lxml.html", file)
    etree = library("lxml.etree", file)
    # HTML has no entities of its own, so that nothing in it can grow; without `huge_tree`, long text would be dropped.
    parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except etree.ParserError:
        root = None
    for entry in parser.error_log:
        if entry.level == etree.ErrorLevels.FATAL:  # the rest was dropped; what is only wrong is mended
            raise UserError(f"{file}:{entry.line}: the HTML cannot be read ({entry.message.strip()}); mend the file")
    return root


def html_lines(root: Element, skips: Callable[[Element], bool] = lambda element: False) -> list[Line]:
    """Paragraphs, headings, list items and table rows of an HTML body, a line each; `<br>` ends a line too.

    Args:
        root: The document, or a part of it.
        skips: Which further elements are left out.
    """
    lines: list[Line] = []
    words: list[str] = []

    def end(is_heading: bool = False) -> None:
        parts = [part.strip(" ") for part in joined("".join(words)).split("\v")]
        words.clear()
        if is_heading:
            lines.extend(Line(text, True) for text in [" ".join(filter(None, parts))] if text)
        else:
            lines.extend(Line(part) for part in parts if part)

    def add(text: str | None) -> None:
        words.append((text or "").replace("\n", "\v") if inside_pre else text or "")

    inside_pre = 0
    # By hand, not by recursion: books nest elements deeper than Python's stack.
    waiting: list[tuple[Element, bool]] = [(root, False)]
    while waiting:
        element, leaving = waiting.pop()
        name = local_name(element)
        if leaving:
            inside_pre -= name == "pre"
            if name in _BLOCKS:
                end(name in HEADINGS)
            elif name in _CELLS:
                words.append(" ")
        elif name in _SKIPPED or skips(element):
            leaving = True
        else:
            if name in _BLOCKS:
                end()
            inside_pre += name == "pre"
            words.append("\v" if name == "br" else "")
            add(element.text)
            waiting.append((element, True))
            waiting.extend((child, False) for child in reversed(element))
        if leaving and element is not root:
            add(element.tail)
    end()
    return lines


def joined(text: str) -> str:
    """Text with each run of plain spaces and line ends as one space."""
    return _SPACES.sub(" ", text)


def local_name(element: Element) -> str:
    """Name without its namespace, in small letters; empty for what is no element (a comment, an entity)."""
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def text_of(element: Element | None) -> str:
    """All the text in an element, on one line."""
    return "" if element is None else joined("".join(element.itertext())).strip()


def text_and_chapters(lines: Iterable[Line]) -> tuple[str, tuple[str, ...]]:
    """The lines as a text, and those of them that are headings."""
    lines = list(lines)
    return "\n".join(line.text for line in lines), tuple(line.text for line in lines if line.is_heading)


def _numeric_entities(raw: bytes) -> bytes:
    """HTML's named entities by number: XML knows five names only, and books use the others."""
    if b"&" not in raw:
        return raw

    def number(match: re.Match[bytes]) -> bytes:
        sign = html5.get(match[1].decode() + ";")
        if sign is None or match[1] in _XML_ENTITIES:
            return match[0]
        return "".join(f"&#{ord(letter)};" for letter in sign).encode()

    return _ENTITY.sub(number, raw)
