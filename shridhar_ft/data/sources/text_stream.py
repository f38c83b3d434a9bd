"""Decodes text files piece by piece, packed by gzip or not: strictly, and with the line of what is wrong."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shridhar_ft.data.sources.decoding import AUTO, decode, is_utf8
from shridhar_ft.data.sources.detection import encoding_of
from shridhar_ft.errors import UserError

CHUNK = 1 << 20  # bytes
LONGEST_ROW = 64 << 20
"""Characters of one row, of one line, and of one cell: more is no row that anyone meant, and would fill the memory."""


def is_packed(file: Path) -> bool:
    """Whether this is a gzip file, by its name."""
    return file.suffix == ".gz"


def open_bytes(file: Path) -> BinaryIO:
    """Open a file for reading; gzip is unpacked on the way."""
    return gzip.open(file, "rb") if is_packed(file) else file.open("rb")  # type: ignore[return-value]


def text_encoding(file: Path, encoding: str, key: str) -> str:
    """The encoding that this file is decoded in; a packed file that does not say it is UTF-8.

    Raises:
        UserError: It cannot be told.
    """
    return "utf-8" if is_packed(file) and encoding == AUTO else encoding_of(file, encoding, key)


def text_chunks(file: Path, encoding: str, key: str) -> Iterator[str]:
    """Decode a file strictly, a piece at a time, without a byte order mark.

    Args:
        file: The file.
        encoding: What `text_encoding` gave.
        key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.

    Raises:
        UserError: A byte does not fit (FILE:LINE is named), or the packing is damaged.
    """
    encoding = "utf-8" if is_utf8(encoding) else encoding
    decoder = codecs.getincrementaldecoder(encoding)()
    place, line, first = 0, 1, True
    with open_bytes(file) as handle:
        while True:
            raw = _read(handle, file, key)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].decode(encoding, errors="ignore").count("\n")
                decode(bytes(error.object), encoding, f"{file}:{line}", key, place - waiting)
                raise  # a decoder that finds fault with a piece and none with the same bytes by themselves
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                decode(text.encode(encoding), encoding, f"{file}:{line}", key)
            line += text.count("\n")
            place += len(raw)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            if text:
                yield text
            if not raw:
                return


def _read(handle: BinaryIO, file: Path, key: str) -> bytes:
    try:
        return handle.read(CHUNK)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{file}: the gzip packing is damaged ({error}); fetch it anew, or take it out of {key}.paths"
        ) from error


def text_lines(file: Path, encoding: str, key: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its line feed; nothing else than a line feed ends a line.

    Raises:
        UserError: As `text_chunks`, or a line is longer than `LONGEST_ROW`.
    """
    number, rest = 1, ""
    for chunk in text_chunks(file, encoding, key):
        *lines, rest = (rest + chunk).split("\n")
        for text in lines:
            yield number, text
            number += 1
        if len(rest) > LONGEST_ROW:
            raise too_long(file, number)
    if rest:
        yield number, rest


def too_long(file: Path, line: int) -> UserError:
    """The refusal of a row that would fill the memory."""
    return UserError(
        f"{file}:{line}: the row is longer than {LONGEST_ROW >> 20} million characters; "
        f"take it out, or cut it into rows"
    )
