"""Rows of a JSON list or of JSON Lines, one at a time, each with the line that it stands on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from shridhar_ft.data.sources.json_list import read_list
from shridhar_ft.data.sources.row import Row, kind, table_name
from shridhar_ft.data.sources.text_stream import text_chunks, text_lines
from shridhar_ft.errors import UserError

_SPACE = " \t\r\n"


def read_json(file: Path, form: Literal["auto", "json", "jsonl"], encoding: str, key: str) -> Iterator[Row]:
    """Read rows lazily, in the memory of the longest row.

    Args:
        file: The file, packed by gzip if its name ends so.
        form: A JSON list (`json`) or JSON Lines; auto goes by the first character.
        encoding: What `text_encoding` gave.
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: A line does not decode or parse, a row is no object, or there is no row.
    """
    if form == "auto":
        form = _form_of(file, encoding, key)
    number, table = 0, table_name(file)
    values = read_list(text_chunks(file, encoding, key), file) if form == "json" else _read_lines(file, encoding, key)
    for line, value in values:
        where = f"{file}:{line}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: the row is {kind(value)}, not an object with columns; mend it or take it out")
        yield Row(number, where, value, file.name, table)
        number += 1
    if not number:
        raise UserError(f"{file}: there are no rows; fill the file, or take it out of {key}.paths")


def _form_of(file: Path, encoding: str, key: str) -> Literal["json", "jsonl"]:
    for chunk in text_chunks(file, encoding, key):
        if beginning := chunk.lstrip(_SPACE):
            return "json" if beginning.startswith("[") else "jsonl"
    return "jsonl"


def _read_lines(file: Path, encoding: str, key: str) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and value of each line that is not blank."""
    for line, text in text_lines(file, encoding, key):
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
