"""Values of a dump, column by column: from the bytes that stand between the commas to Python's values."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from shridhar_ft.data.sources.mysql.charsets import BINARY, Decode, decoder
from shridhar_ft.data.sources.mysql.create_table import DECIMALS, FLOATS, INTEGERS, Column

Convert = Callable[[Sequence[bytes]], list[Any]]

_NULL = b"NULL"
_QUOTE, _BACKSLASH = b"'\\"
_ESCAPE = re.compile(rb"\\(.)|''", re.DOTALL)
_ESCAPE_DOUBLE = re.compile(rb'\\(.)|""', re.DOTALL)
# Any other character stands for itself; \% and \_ keep their backslash, as they are for LIKE.
_ESCAPED = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"Z": b"\x1a", b"%": b"\\%", b"_": b"\\_"}
_LITERAL = re.compile(
    rb"""(?P<charset>_\w++\s*+)??(?:
    (?P<null>NULL|\\N) | (?P<true>TRUE) | (?P<false>FALSE)
    | (?P<number>[-+]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[-+]?\d++)?+)
    | 0x(?P<hex>[0-9a-f]*+) | x\s*+'(?P<quoted_hex>[0-9a-f]*+)'
    | 0b(?P<bits>[01]++) | b\s*+'(?P<quoted_bits>[01]*+)'
    | n?\s*+'(?P<string>.*)' | "(?P<double_quoted>.*)"
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


class BadValue(ValueError):
    """A value does not fit its column; the text says why, and quotes nothing of the value."""

    def __init__(self, token: bytes, reason: str, is_encoding: bool = False) -> None:
        super().__init__(reason)
        self.token = token
        self.reason = reason
        self.is_encoding = is_encoding


def unescape(body: bytes) -> bytes:
    """What stands between quotes, without escapes and doubled quotes."""
    if body.find(b"\\\\") < 0 and body.find(b"''") < 0:
        # The escapes that texts are full of; without a doubled backslash every backslash begins an escape.
        plain = body.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\'", b"'").replace(b'\\"', b'"')
        if _BACKSLASH not in plain:
            return plain
    return _ESCAPE.sub(_one, body)


def _one(match: re.Match[bytes]) -> bytes:
    character = match[1]
    return match[0][:1] if character is None else _ESCAPED.get(character, character)


class Literal:
    """One value as it was written."""

    def __init__(self, token: bytes) -> None:
        match = _LITERAL.fullmatch(token)
        if not match:
            raise BadValue(token, "is no constant that a dump may hold")
        kind, body = match.lastgroup, match[match.lastgroup or 0]
        charset = match["charset"]
        self.token = token
        self.charset = charset.strip()[1:].decode("latin-1").lower() if charset else None
        self.number: bytes | None = None
        self.string: bytes | None = None
        """The bytes of a string, of 0x… or of b'…'."""
        self.is_hex = kind in ("hex", "quoted_hex")
        self.is_bits = kind in ("bits", "quoted_bits")
        if kind == "number":
            self.number = body
        elif kind in ("true", "false"):
            self.number = b"1" if kind == "true" else b"0"
        elif self.is_hex:
            digits = body.decode("latin-1")
            self.string = bytes.fromhex("0" * (len(digits) % 2) + digits)
        elif self.is_bits:
            self.string = int(body or b"0", 2).to_bytes((len(body) + 7) // 8, "big")
        elif kind == "string":
            self.string = unescape(body)
        elif kind == "double_quoted":
            self.string = _ESCAPE_DOUBLE.sub(_one, body)

    @property
    def is_null(self) -> bool:
        return self.number is None and self.string is None

    def text(self, decode: Decode) -> str:
        """As text; an introducer (_utf8mb4'…') tells its charset, otherwise the decoder of the column."""
        if self.number is not None:
            return self.number.decode("latin-1")
        assert self.string is not None
        if self.charset and self.charset != BINARY:
            own = decoder(self.charset)
            if own is None:
                raise BadValue(self.token, f"is in the charset {self.charset}, which is not known here")
            decode = own
        return _decoded(self.token, self.string, decode)


def converter(column: Column, decode: Decode) -> Convert:
    """The function that turns the written values of a column into Python's.

    Args:
        column: The column; its type decides.
        decode: Decoder of its texts.

    Returns:
        A function of the written values that returns as many values: int, float, Decimal, str, bytes or None. It
        raises BadValue for one that does not fit.
    """
    if column.type == "bit":
        return _by_distinct(lambda token: _bits(Literal(token)))
    if column.type in INTEGERS:
        return _integers
    if column.type in FLOATS:
        return _floats
    if column.type in DECIMALS:
        return _each(lambda literal: Decimal(_number(literal)))
    if column.is_binary:
        return _binaries
    if not column.type:
        return _each(lambda literal: _untyped(literal, decode))
    texts = _texts(decode)
    return _by_distinct(lambda token: texts((token,))[0]) if column.type in ("enum", "set") else texts


def _decoded(token: bytes, raw: bytes, decode: Decode) -> str:
    try:
        return decode(raw)
    except UnicodeDecodeError as error:
        raise BadValue(token, f"holds 0x{raw[error.start]:02X}, which is not {_charset_of(error)}", True) from error


def _charset_of(error: UnicodeDecodeError) -> str:
    return "in the charset of the column" if error.encoding == "charmap" else f"valid {error.encoding}"


def _texts(decode: Decode) -> Convert:
    def plain(token: bytes) -> str | None:
        if token[0] == _QUOTE:
            return _decoded(token, unescape(token[1:-1]), decode)
        if token == _NULL:
            return None
        literal = Literal(token)
        return None if literal.is_null else literal.text(decode)

    def convert(tokens: Sequence[bytes]) -> list[str | None]:
        # Asked of the whole column at once, and with a number in the test below: `b"…" in value` is slow in Python.
        joined = b"\0".join(tokens)
        doubled = joined.count(b"''") > tokens.count(b"''")
        try:
            if doubled:
                return [plain(token) for token in tokens]
            if b"\\" in joined:
                return [
                    decode(token[1:-1]) if token[0] == _QUOTE and _BACKSLASH not in token else plain(token)
                    for token in tokens
                ]
            return [decode(token[1:-1]) if token[0] == _QUOTE else plain(token) for token in tokens]
        except UnicodeDecodeError:
            return [plain(token) for token in tokens]  # finds the one, and says why

    return convert


def _integers(tokens: Sequence[bytes]) -> list[int | None]:
    rest = b"".join(tokens).translate(None, b"-0123456789")  # int() alone would let 1_000 pass
    with suppress(ValueError):  # a lone minus, or thousands of digits: found below
        if not rest:
            return list(map(int, tokens))
        if not rest.replace(_NULL, b""):
            return [None if token == _NULL else int(token) for token in tokens]
    return [None if token == _NULL else _integer(Literal(token)) for token in tokens]


def _integer(literal: Literal) -> int | None:
    if literal.is_null:
        return None
    if literal.is_hex or literal.is_bits:
        return int.from_bytes(literal.string or b"", "big")
    number = _number(literal)
    rounded = Decimal(number)
    if rounded.adjusted() > 20:
        raise BadValue(literal.token, "is no whole number of 64 bits")
    with suppress(ValueError):
        return int(number)
    return int(rounded.quantize(Decimal(1), ROUND_HALF_UP))


def _bits(literal: Literal) -> int | None:
    if literal.number is not None:
        return _integer(literal)
    return None if literal.string is None else int.from_bytes(literal.string, "big")


def _floats(tokens: Sequence[bytes]) -> list[float | None]:
    rest = b"".join(tokens).translate(None, b"-+.eE0123456789")  # float() alone would let nan pass
    with suppress(ValueError):
        if not rest.replace(_NULL, b""):
            return [None if token == _NULL else float(token) for token in tokens]
    literals = map(Literal, tokens)
    return [None if literal.is_null else float(_number(literal)) for literal in literals]


def _number(literal: Literal) -> str:
    """The digits of a number, which may stand in quotes."""
    raw = literal.number if literal.number is not None else (literal.string or b"").strip()
    match = _LITERAL.fullmatch(raw)
    if not match or match.lastgroup != "number":
        raise BadValue(literal.token, "is no number")
    return raw.decode("latin-1")


def _binaries(tokens: Sequence[bytes]) -> list[bytes | None]:
    return [
        None
        if token == _NULL
        else unescape(token[1:-1])
        if token[0] == _QUOTE
        else unescape(token[9:-1])
        if token.startswith(b"_binary '")
        else _binary(Literal(token))
        for token in tokens
    ]


def _binary(literal: Literal) -> bytes | None:
    return literal.number if literal.number is not None else literal.string


def _untyped(literal: Literal, decode: Decode) -> int | float | Decimal | str | bytes:
    if literal.number is not None:
        if literal.number.lstrip(b"-+").isdigit():
            return _integer(literal) or 0
        text = literal.number.decode("latin-1")
        return float(text) if "e" in text.lower() else Decimal(text)
    assert literal.string is not None
    if literal.is_bits:
        return int.from_bytes(literal.string, "big")
    return literal.string if literal.is_hex or literal.charset == BINARY else literal.text(decode)


def _each(convert: Callable[[Literal], Any]) -> Convert:
    def every(tokens: Sequence[bytes]) -> list[Any]:
        literals = map(Literal, tokens)
        return [None if literal.is_null else convert(literal) for literal in literals]

    return every


def _by_distinct(convert: Callable[[bytes], Any]) -> Convert:
    """Converts each distinct value once: these columns have few."""

    def every(tokens: Sequence[bytes]) -> list[Any]:
        known = {token: convert(token) for token in set(tokens)}
        return [known[token] for token in tokens]

    return every
