"""MySQL's character sets: what Python calls them, which cannot be read as bytes, and text that was encoded twice.

Sources: `sql/share/charsets/*.xml` of MySQL and MariaDB, compared with Python's tables byte by byte.
"""

import codecs
import re
from collections.abc import Callable

from shridhar_ft.data.sources.decoding import AUTO
from shridhar_ft.errors import UserError

Decode = Callable[[bytes], str]

BINARY = "binary"
DOUBLE = "double"
"""The value of `encoding` that undoes `double_encoded` text."""

# The second byte of a character may be a backslash or a quote there, and where a text ends depends on the charset.
UNSAFE = ("big5", "cp932", "gb18030", "gbk", "sjis")
CODECS = {
    "ascii": "ascii",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1256": "cp1256",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "eucjpms": "euc_jp",
    "euckr": "euc_kr",
    "gb2312": "gb2312",
    "greek": "iso8859_7",
    "hebrew": "iso8859_8",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "latin2": "iso8859_2",
    "latin5": "iso8859_9",
    "latin7": "iso8859_13",
    "macce": "mac_latin2",
    "macroman": "mac_roman",
    "tis620": "tis_620",
    "ucs2": "utf-16-be",
    "ujis": "euc_jp",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "utf8": "utf-8",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
}
"""Python's codec by MySQL's name. Those with a table of their own here stand below."""


def _table(codec: str, **other: str) -> str:
    """A table for charmap_decode: the codec's own, but for the bytes given as xNN=character."""
    raw = bytes(range(256)).decode(codec, errors="replace")
    changed = {int(byte[1:], 16): character for byte, character in other.items()}
    return "".join(changed.get(byte, character) for byte, character in enumerate(raw))


# MySQL's latin1 is Windows-1252, with its five holes read as the control characters of the same number.
_LATIN1 = _table("cp1252", x81="\x81", x8d="\x8d", x8f="\x8f", x90="\x90", x9d="\x9d")
_TABLES = {
    "latin1": _LATIN1,
    "cp866": _table("cp866", xfc="\u207f", xfd="\u00b2"),
    "koi8u": _table("koi8_u", x95="\u2022"),
}
_TO_LATIN1 = codecs.charmap_build(_LATIN1)
_NOT_ASCII = re.compile("[^\x00-\x7f]")


def decoder(charset: str) -> Decode | None:
    """The strict decoder of one of MySQL's charsets, or None if it is not one that is known here.

    The decoder raises UnicodeDecodeError where bytes do not fit.
    """
    if charset in _TABLES:
        table = _TABLES[charset]
        return lambda raw: codecs.charmap_decode(raw, "strict", table)[0]
    codec = CODECS.get(charset)
    return by_codec(codec) if codec else None


def by_codec(codec: str) -> Decode:
    """The strict decoder of one of Python's codecs."""
    if codecs.lookup(codec).name == "utf-8":
        return bytes.decode
    return lambda raw: raw.decode(codec)


def charset_of_collation(collation: str) -> str:
    """utf8mb4 for `utf8mb4_general_ci`; `binary` is its own."""
    return collation.split("_", 1)[0]


def check_client(charset: str, where: str) -> None:
    """Refuse a client charset in which the bytes of a dump cannot be told apart.

    Raises:
        UserError: It is one of these, or unknown.
    """
    if charset in UNSAFE or charset in ("ucs2", "utf16", "utf16le", "utf32"):
        why = "its characters hold bytes that look like quotes and backslashes"
    elif charset != BINARY and decoder(charset) is None:
        why = "it is not among the charsets that are known here"
    else:
        return
    raise UserError(
        f"{where}: the dump was written in the client charset {charset}, which cannot be read ({why}); "
        f"dump again with --default-character-set=utf8mb4"
    )


def text_decoder(encoding: str, client: str | None, column: str | None) -> Decode:
    """The decoder of a column's texts.

    Args:
        encoding: The recipe's `encoding`: auto, double, or a name of Python's.
        client: The charset of SET NAMES; None if the dump does not tell it. With `binary` the server hands over
            what is stored, so the column's own charset counts.
        column: The column's charset, None if it is not known.
    """
    if encoding not in (AUTO, DOUBLE):
        return by_codec(encoding)
    charset = column if client == BINARY and column != BINARY else client
    return (decoder(charset) if charset and charset != BINARY else None) or bytes.decode


# ------------------------------------------------------------------------------------------ encoded twice


def repair_double_encoded(text: str) -> str | None:
    """Undo what MySQL does to UTF-8 bytes that arrive as latin1: `ÐŸÑ€Ð¸` becomes `При`.

    Half a character at the end, where the column was too short for the blown-up text, is dropped.

    Args:
        text: A value as it stands in the table.

    Returns:
        The text that was meant, or None if this text was not encoded twice.
    """
    if not _NOT_ASCII.search(text):
        return None
    try:
        raw, _ = codecs.charmap_encode(text, "strict", _TO_LATIN1)
        repaired, _ = codecs.utf_8_decode(raw, "strict", False)
    except UnicodeError:
        return None
    return repaired if _NOT_ASCII.search(repaired) else None
