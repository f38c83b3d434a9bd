"""Books, one work a file: text, Markdown, HTML, FictionBook, EPUB, Word, PDF."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from shridhar_ft import config_data
from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.sources.docx import read_docx
from shridhar_ft.data.sources.epub import read_epub
from shridhar_ft.data.sources.fb2 import read_fb2
from shridhar_ft.data.sources.html_book import declared_encoding, read_html
from shridhar_ft.data.sources.markdown_book import read_markdown
from shridhar_ft.data.sources.pdf import read_pdf
from shridhar_ft.data.sources.plain_text import check_in_order, read_text
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand

KEY = "data.books"
SUFFIXES = (".txt", ".md", ".html", ".htm", ".fb2", ".fb2.zip", ".epub", ".docx", ".pdf")
PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]

Say = Callable[[str], None]

_READERS: dict[str, Callable[[Path, str, Say], Document]] = {
    ".fb2": read_fb2,
    ".fb2.zip": read_fb2,
    ".epub": read_epub,
    ".docx": read_docx,
    ".pdf": read_pdf,
}


def _quiet(line: str) -> None:
    pass


def book_files(books: config_data.Books) -> list[Path]:
    """The files of the shelf, sorted.

    Raises:
        UserError: A path matches nothing, or two files would be the same work.
    """
    files = find_books(books.paths, f"{KEY}.paths")
    works: dict[str, Path] = {}
    for file in files:
        if (other := works.setdefault(work_name(file), file)) != file:
            raise UserError(
                f"{KEY}.paths: {other} and {file} would both be the work '{work_name(file)}'; rename one of them"
            )
    return files


def find_books(paths: Sequence[str], key: str) -> list[Path]:
    """Files that these paths name; a folder stands for the books in it, whatever the case of their suffix.

    Args:
        paths: Absolute files, folders or globs.
        key: Their recipe key, for messages.

    Raises:
        UserError: A path matches nothing, or a folder holds no book.
    """
    named: list[str] = []
    for path in paths:
        inside = [str(file) for file in Path(path).iterdir() if is_book(file)] if Path(path).is_dir() else []
        named += inside or [path]  # what is there to say of a path that holds none, `expand` says
    return expand(named, PATTERNS, key)


def is_book(file: Path) -> bool:
    """Whether a file is a book by its suffix."""
    return file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".") and file.is_file()


def work_name(file: Path) -> str:
    """Name of the work that stands in a file: its name without the suffix, or without both of `.fb2.zip`."""
    return file.name[: -len(_suffix(file))] or file.name


def _suffix(file: Path) -> str:
    return ".fb2.zip" if file.name.lower().endswith(".fb2.zip") else file.suffix


def read_books(books: config_data.Books, say: Say = _quiet, mojibake_allowed: bool = False) -> Iterator[Document]:
    """Read the shelf lazily, one whole work at a time, uncleaned.

    Args:
        books: Where the files are and how they are encoded.
        say: Takes lines on what was detected, left out, or passed over; none of them quotes a text.
        mojibake_allowed: Hand over wrongly decoded text that `data.clean.mojibake` repairs, instead of refusing it.

    Returns:
        The works in the order of their paths; a work is named by its file's stem.

    Raises:
        UserError: A path, the encoding, or a file's bytes are wrong, or a file is empty.
    """
    check_encoding(books.encoding, KEY)
    files = book_files(books)
    for folder in filter(Path.is_dir, map(Path, books.paths)):
        files_there = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        others = sorted(file.name for file in files_there if not is_book(file))
        if others:
            shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            say(f"{folder}: passed over, as their suffixes are no book's: {shown}")
    for file in files:
        document = read_book(file, books.encoding, KEY, say, mojibake_allowed)
        yield document if document.author or not books.author else replace(document, author=books.author)


def read_book(file: Path, encoding: str, key: str = KEY, say: Say = _quiet, mojibake_allowed: bool = False) -> Document:
    """Read one work, uncleaned. A suffix that is no book's is taken for plain text, if it is text.

    Args:
        file: The file.
        encoding: Encoding of plain text, or `auto`; the other formats declare their own.
        key: Recipe key of the source, for messages.
        say: As in `read_books`.
        mojibake_allowed: As in `read_books`.

    Raises:
        UserError: The file is damaged, empty, or not what its suffix says, or a library is missing.
    """
    if file.is_dir():
        raise UserError(f"{file}: it is a folder, not a book; name the folder itself under {key}")
    document = _read(file, encoding, key, say)
    if not document.text.strip():
        raise UserError(f"{file}: the file is empty; put the text in, or do not name it under {key}")
    check_in_order(document.text, str(file), mojibake_allowed)
    return document


def _read(file: Path, encoding: str, key: str, say: Say) -> Document:
    work, suffix = work_name(file), _suffix(file).lower()
    if reader := _READERS.get(suffix):
        return reader(file, work, say)
    if suffix in (".html", ".htm"):
        return read_html(read_text(file, encoding, key, say, declared_encoding), file, work)
    text = read_text(file, encoding, key, say)
    return read_markdown(text, file, work) if suffix == ".md" else Document(file.name, work, work, text)
