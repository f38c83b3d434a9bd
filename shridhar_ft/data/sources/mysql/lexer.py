"""The lexical rules of a dump, as regular expressions on bytes.

Every repetition is possessive (`++`, `*+`) and a choice between two ways to match the same bytes is atomic (`(?>`), so
that no input, cut off or hostile, makes a match go back: time is linear in the bytes. What ends inside a match does
not match at all, and is tried again with more bytes.
"""

import re
from functools import lru_cache

# A string without quotes inside, whose last character is no backslash, certainly ends at its next quote; finding that
# quote is several times faster than looking at every character, so this is tried first.
_REST_OF_STRING = r"[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_STRING = rf"'(?>[^']*+(?<!\\)'(?=[,)])|{_REST_OF_STRING})"
_DOUBLE_QUOTED = r'"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"'
_PLAIN_STRING = r"'[^']*+(?:''[^']*+)*+'"  # in the sql_mode NO_BACKSLASH_ESCAPES
_PLAIN_DOUBLE_QUOTED = r'"[^"]*+(?:""[^"]*+)*+"'
_BACKQUOTED = r"`[^`]*+(?:``[^`]*+)*+`"
_NAME = rf"(?:{_BACKQUOTED}|{_PLAIN_DOUBLE_QUOTED}|[\w$\x80-\xff]++)"
# What only servers later than 8.x would execute is a comment, as mariadb-dump's /*M!999999\- enable the sandbox… */.
_COMMENT = r"/\*(?:(?!M?!)|M?!9\d{4})[^*]*+(?:\*(?!/)[^*]*+)*+\*/"
_LINE_MARK = r"(?:--(?=\s)|\#)"
_LINE_COMMENT = rf"{_LINE_MARK}[^\n]*+\n"
# The content of other version comments counts, so their marks are mere blank space.
_BLANK = rf"(?:\s++|{_LINE_COMMENT}|{_COMMENT}|/\*M?!(?!9\d{{4}})\d*+|\*/)*+"
# A number, NULL, 0x…, or a string with what may stand before it: _binary, x, b, n.
_VALUE = rf"(?:{_STRING}|[-+.\w]++(?:[ ]?{_STRING})?+)"
_ANY_VALUE = rf"(?:_\w++\s*+(?=['\"\dxXbB]))?+(?:{_STRING}|{_DOUBLE_QUOTED}|[-+.\w]++(?:\s*+{_STRING})?+)"


def _compiled(pattern: str, flags: re.RegexFlag = re.DOTALL) -> re.Pattern[bytes]:
    return re.compile(pattern.encode("latin-1"), flags)


BLANK = _compiled(_BLANK)
"""Blank space, comments, and the marks of version comments whose content counts."""
DELIMITER = _compiled(r"delimiter[ \t]++(\S++)[^\n]*+\n", re.IGNORECASE)
INSERT = _compiled(
    rf"(?:INSERT|REPLACE)\b(?:{_BLANK}(?:LOW_PRIORITY|DELAYED|HIGH_PRIORITY|IGNORE|INTO)\b)*+"
    rf"{_BLANK}({_NAME})(?:{_BLANK}\.{_BLANK}({_NAME}))?+{_BLANK}(?:PARTITION\b{_BLANK}\([^()]*+\){_BLANK})?+"
    rf"(?:(\({_BLANK}(?:{_NAME}{_BLANK}(?:,{_BLANK})?+)*+\)){_BLANK})?+VALUES?+\b{_BLANK}(?=\()",
    re.IGNORECASE | re.DOTALL,
)
"""INSERT or REPLACE up to its first row; groups: database or table, table, columns."""
INSERT_WORD = _compiled(r"(?:INSERT|REPLACE)\b", re.IGNORECASE)
LISTED = _compiled(rf"[(,]?+{_BLANK}({_NAME}){_BLANK}")
"""One of the columns that an INSERT lists."""
ROW = _compiled(rf"{_BLANK}\({_BLANK}")
"""The beginning of a row."""
VALUE = _compiled(rf"({_ANY_VALUE}){_BLANK}([,)]){_BLANK}")
"""One value of a row, however it is written, with the comma or parenthesis behind it."""
ANY_VALUE = _compiled(_ANY_VALUE)
OPEN_STRING = _compiled(r"(?:_\w++\s*+)?+[\w]*+\s*+['\"]")
"""The beginning of a string, where no whole value stands."""
COMMENT_MARK = _compiled(rf"/\*|{_LINE_MARK}")
"""The beginning of a comment; where blank space was passed over, of one whose end is not there."""
TAIL = _compiled(r"(?:ON|AS|RETURNING)\b", re.IGNORECASE)
"""What may follow the rows of an INSERT."""
VERSION_MARKS = _compiled(r"/\*M?!(?!9\d{4})\d*+|\*/")
WORD = _compiled(rf"{_BLANK}([A-Za-z_]*+)")
"""The first word of a statement."""
COPY = _compiled(r".*\bFROM\s++stdin\b", re.IGNORECASE)
ALTER_KEYS = _compiled(r"\b(?:DISABLE|ENABLE)\s++KEYS\b", re.IGNORECASE)


@lru_cache(maxsize=64)
def row_pattern(width: int, wanted: tuple[int, ...], head: bytes) -> re.Pattern[bytes]:
    """The pattern of a row as mysqldump writes it, up to the next row.

    The next row stands behind a comma, or behind the same head of an INSERT: so inserts of one row are as fast as
    long ones. What does not match is no error yet: it is read value by value.

    Args:
        width: Values in a row.
        wanted: Places of the values to capture, sorted.
        head: The INSERT from its first letter to its first row.
    """
    value = _VALUE.encode("latin-1")
    values = b", ?".join(b"(" + value + b")" if place in wanted else value for place in range(width))
    return re.compile(rb"\(%b\)\s*+(?:,\s*+(?=\()|(?=;)(?:;\s*+%b(?=\())?+)" % (values, re.escape(head)), re.DOTALL)


@lru_cache(maxsize=16)
def statement_pattern(delimiter: bytes, backslashes: bool) -> re.Pattern[bytes]:
    """The pattern of a statement that is read as a whole.

    Args:
        delimiter: What ends it.
        backslashes: Whether a backslash escapes, which NO_BACKSLASH_ESCAPES turns off.
    """
    strings = (_STRING, _DOUBLE_QUOTED) if backslashes else (_PLAIN_STRING, _PLAIN_DOUBLE_QUOTED)
    end = re.escape(delimiter.decode("latin-1"))
    first = re.escape(delimiter[:1].decode("latin-1"))
    plain = rf"[^'\"`#/\-{first}]++"
    return _compiled(
        rf"((?:{plain}|{'|'.join(strings)}|{_BACKQUOTED}|{_LINE_COMMENT}|{_COMMENT}"
        rf"|(?!{end}|{_LINE_MARK}|/\*(?!M?!)|/\*M?!9\d{{4}})[^'\"`])*+){end}"
    )
