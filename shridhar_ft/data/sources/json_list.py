"""Reads a JSON list of any size element by element: a window goes over the text, and only it is in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shridhar_ft.data.sources.text_stream import LONGEST_ROW, too_long
from shridhar_ft.errors import UserError

_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_MARK = 16  # characters of what JSON cannot take in halves: -Infinity, a pair of \uXXXX


def read_list(chunks: Iterator[str], file: Path) -> Iterator[tuple[int, Any]]:
    """Line (from 1) and value of each element of a JSON list.

    Args:
        chunks: The text, in pieces.
        file: Where it is from, for messages.

    Raises:
        UserError: It is no JSON list, or an element is not valid; FILE:LINE is named.
    """
    window = _Window(chunks, file)
    window.skip_space()
    opening = "["
    while True:
        mark = window.mark()
        if mark != opening:
            if opening == "," and mark == "]":
                window.skip_mark()
                if window.mark():
                    raise UserError(f"{window.place()}: something follows the list's closing ]; take it out")
                return
            expected = "a list that opens with [" if opening == "[" else "a comma or ] after the row"
            raise UserError(f"{window.place()}: not valid JSON (expected {expected}); mend the file")
        window.skip_mark()
        if opening == "[" and window.mark() == "]":
            return
        line = window.line()
        yield line, window.value(line)
        window.skip_space()
        opening = ","


class _Window:
    """The part of the text that is in memory."""

    def __init__(self, chunks: Iterator[str], file: Path) -> None:
        self._chunks, self._file = chunks, file
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0  # line of the place up to which line feeds are counted
        self._before = 0  # characters of the window's first line that were dropped
        self._decoder = json.JSONDecoder()

    def line(self) -> int:
        """The line of the place where reading goes on."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def place(self) -> str:
        """FILE:LINE of the place where reading goes on."""
        return f"{self._file}:{self.line()}"

    def mark(self) -> str:
        """The character where reading goes on, empty at the end."""
        return self._text[self._at : self._at + 1]

    def skip_mark(self) -> None:
        """Go over a character and the space behind it."""
        self._at += 1
        self.skip_space()

    def skip_space(self) -> None:
        """Go to the next character that is no space."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text) or not self._grow():
                return

    def value(self, line: int) -> object:
        """The element that begins where reading goes on, in this line."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._breaks_off(error) and self._grow():
                    continue
                line += self._text.count("\n", self._at, error.pos)
                column = error.colno + (self._before if error.lineno == 1 else 0)
                raise UserError(
                    f"{self._file}:{line}: not valid JSON ({error.msg}, column {column}); mend the file"
                ) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
                raise UserError(f"{self._file}:{line}: not readable as JSON ({error}); mend the row") from error
            if end == len(self._text) and isinstance(value, int | float) and self._grow():
                continue  # more digits may follow
            self._at = end
            return value

    def _breaks_off(self, error: json.JSONDecodeError) -> bool:
        """Whether the text may be sound and only not all here: else a fault would read the whole file into memory."""
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_MARK

    def _grow(self) -> bool:
        """Drop what was read, and take in as much as is still held or more: a long row is parsed a few times.

        Returns:
            Whether there was more; if not, nothing changes.
        """
        line = self.line()
        held = len(self._text) - self._at
        if held > LONGEST_ROW:
            raise too_long(self._file, line)
        pieces = [self._text[self._at :]]
        while sum(map(len, pieces)) <= 2 * held and (piece := next(self._chunks, None)):
            pieces.append(piece)
        if len(pieces) == 1:
            return False
        begins = self._text.rfind("\n", 0, self._at) + 1
        self._before = self._at - begins + (0 if begins else self._before)
        self._text, self._at, self._counted = "".join(pieces), 0, 0
        return True
