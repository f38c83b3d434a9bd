"""Plain-text books, one work a file."""

from collections.abc import Iterator
from pathlib import Path

from shridhar_ft import config
from shridhar_ft.data.records import Document
from shridhar_ft.data.sources.decoding import check_encoding, decode
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand

KEY = "data.books"


def book_files(books: config.Books) -> list[Path]:
    """The files of the shelf, sorted.

    Raises:
        UserError: A path matches nothing, or two files would be the same work.
    """
    files = expand(books.paths, ["*.txt"], f"{KEY}.paths")
    works: dict[str, Path] = {}
    for file in files:
        if file.stem in works:
            raise UserError(
                f"{KEY}.paths: {works[file.stem]} and {file} would both be the work '{file.stem}'; rename one of them"
            )
        works[file.stem] = file
    return files


def read_books(books: config.Books) -> Iterator[Document]:
    """Read the shelf lazily, one whole work at a time, uncleaned.

    Args:
        books: Where the files are and how they are encoded.

    Returns:
        The works in the order of their paths; a work is named by its file's stem.

    Raises:
        UserError: A path, the encoding, or a file's bytes are wrong, or a file is empty.
    """
    check_encoding(books.encoding, KEY)
    for file in book_files(books):
        text = decode(file.read_bytes(), books.encoding, str(file), KEY)
        if not text.strip():
            raise UserError(f"{file}: the file is empty; put the text in, or take the file out of {KEY}.paths")
        yield Document(source=file.name, id=file.stem, work=file.stem, text=text)
