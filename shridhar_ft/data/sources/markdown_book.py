"""Books in Markdown (CommonMark with tables), with YAML front matter or without."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.extras import library
from shridhar_ft.data.sources.html_book import read_html
from shridhar_ft.errors import UserError, first_line

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def read_markdown(text: str, file: Path, work: str) -> Document:
    """A Markdown file as a work: marks of emphasis and links go, their words stay.

    Title and author are those of the front matter, else the title is the first heading of the first level.

    Args:
        text: The file, decoded.
        file: The file.
        work: Name of the work.

    Raises:
        UserError: The front matter is no YAML, or a library is not installed.
    """
    head: dict[str, Any] = {}
    if match := _FRONT_MATTER.match(text):
        head = _front_matter(match[1], file)
        text = text[match.end() :]
    page = library("markdown_it", file).MarkdownIt("commonmark", {"maxNesting": 100}).enable("table").render(text)
    document = read_html(page, file, work)
    headings = document.chapters if "<h1>" in page else ()
    title = _said(head.get("title")) or next(iter(headings), "")
    return replace(document, title=title, author=_said(head.get("author", head.get("authors"))))


def _front_matter(text: str, file: Path) -> dict[str, Any]:
    try:
        head = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file}:1: the front matter is no YAML ({first_line(error)}); mend it") from error
    return head if isinstance(head, dict) else {}


def _said(value: object) -> str:
    """A name, or several of them, as one line."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(str(one).strip() for one in values if isinstance(one, str | int | float | date))
