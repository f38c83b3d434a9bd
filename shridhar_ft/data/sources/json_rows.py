"""Rows of a JSON list or of JSON Lines, one at a time, each with the line that it stands on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shridhar_ft.data.sources.decoding import decode, is_utf8
from shridhar_ft.errors import UserError

Format = Literal["auto", "json", "jsonl", "csv", "parquet", "datasets", "mysql_dump"]
_SPACE = " \t\r\n"


class Row(NamedTuple):
    """One row of a source."""

    number: int
    """Its number in the file, from 0."""
    where: str
    """FILE:LINE, for messages."""
    value: dict[str, Any]


def read_rows(file: Path, form: Format, encoding: str, key: str) -> Iterator[Row]:
    """Read rows lazily.

    JSON Lines take the memory of one line; a JSON list takes that of its text, as its rows are parsed one by one.

    Args:
        file: The file.
        form: How the rows are written; auto goes by the first character.
        encoding: A name that `check_encoding` let pass.
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: A line does not decode or parse, a row is no object, or there is no row.
    """
    if form == "auto":
        form = _format_of(file, encoding)
    number = 0
    for line, value in _read_list(file, encoding, key) if form == "json" else _read_lines(file, encoding, key):
        where = f"{file}:{line}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: the row is {kind(value)}, not an object with columns; mend it or take it out")
        yield Row(number, where, value)
        number += 1
    if not number:
        raise UserError(f"{file}: there are no rows; fill the file, or take it out of {key}.paths")


def kind(value: object) -> str:
    """What JSON calls this value, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _format_of(file: Path, encoding: str) -> Format:
    with file.open("rb") as handle:
        beginning = handle.read(4096).decode("utf-8" if is_utf8(encoding) else encoding, errors="ignore")
    return "json" if beginning.lstrip("\ufeff" + _SPACE).startswith("[") else "jsonl"


def _read_lines(file: Path, encoding: str, key: str) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and value of each line that is not blank."""
    for line, text in _lines(file, encoding, key):
        if not text.strip(_SPACE):
            continue
        try:
            yield line, json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{file}:{line}: not valid JSON ({error.msg}, column {error.colno}); mend the line "
                f"(JSON Lines hold one whole row a line; a JSON list opens with [)"
            ) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
            raise UserError(f"{file}:{line}: not readable as JSON ({error}); mend the line") from error


def _lines(file: Path, encoding: str, key: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line."""
    # Read as bytes: text mode decodes in blocks, and an error would name a block's place instead of a line's.
    # In UTF-16 and UTF-32 the byte 0x0A also stands inside other characters; such a file is decoded whole.
    if is_utf8(encoding) or "\n".encode(encoding) == b"\n":
        offset = 0
        with file.open("rb") as handle:
            for line, raw in enumerate(handle, start=1):
                yield line, decode(raw, encoding, f"{file}:{line}", key, offset)
                offset += len(raw)
    else:
        yield from enumerate(decode(file.read_bytes(), encoding, str(file), key).split("\n"), start=1)


def _read_list(file: Path, encoding: str, key: str) -> Iterator[tuple[int, Any]]:
    """Line (from 1) and value of each element of a JSON list."""
    text = decode(file.read_bytes(), encoding, str(file), key)
    decoder = json.JSONDecoder()
    at = _skip_space(text, 0)
    line, counted = 1, 0
    opening = "["
    while True:
        if text[at : at + 1] != opening:
            if opening == "," and text[at : at + 1] == "]":
                at = _skip_space(text, at + 1)
                if at < len(text):
                    raise UserError(f"{_place(file, text, at)}: something follows the list's closing ]; take it out")
                return
            expected = "a list that opens with [" if opening == "[" else "a comma or ] after the row"
            raise UserError(f"{_place(file, text, at)}: not valid JSON (expected {expected}); mend the file")
        at = _skip_space(text, at + 1)
        if opening == "[" and text[at : at + 1] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{file}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}); mend the file"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}:{line}: not readable as JSON ({error}); mend the row") from error
        yield line, value
        at = _skip_space(text, at)
        opening = ","


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _place(file: Path, text: str, at: int) -> str:
    """FILE:LINE of a place in the text."""
    return f"{file}:{text.count(chr(10), 0, at) + 1}"
