"""Tables and their columns, out of CREATE TABLE: names, base types, charsets; keys and constraints are passed over."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from shridhar_ft.data.sources.mysql.charsets import BINARY, charset_of_collation

INTEGERS = frozenset(
    (
        "tinyint",
        "smallint",
        "mediumint",
        "middleint",
        "int",
        "integer",
        "bigint",
        "int1",
        "int2",
        "int3",
        "int4",
        "int8",
        "year",
        "bool",
        "boolean",
        "serial",
    )
)
FLOATS = frozenset(
    (
        "float",
        "double",
        "real",
        "float4",
        "float8",
    )
)
DECIMALS = frozenset(
    (
        "decimal",
        "dec",
        "numeric",
        "fixed",
    )
)
BINARIES = frozenset(
    (
        "binary",
        "varbinary",
        "tinyblob",
        "blob",
        "mediumblob",
        "longblob",
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geometrycollection",
        "geomcollection",
        "vector",
    )
)
CHARACTERS = frozenset(
    (
        "char",
        "varchar",
        "tinytext",
        "text",
        "mediumtext",
        "longtext",
        "enum",
        "set",
        "json",
        "character",
        "nchar",
        "nvarchar",
    )
)
_CREATED = frozenset(
    (
        b"TABLE",
        b"VIEW",
        b"PROCEDURE",
        b"FUNCTION",
        b"TRIGGER",
        b"EVENT",
        b"DATABASE",
        b"SCHEMA",
        b"INDEX",
        b"USER",
        b"ROLE",
        b"SERVER",
        b"SEQUENCE",
        b"PACKAGE",
    )
)
_NO_COLUMN = frozenset(
    (
        b"PRIMARY",
        b"KEY",
        b"UNIQUE",
        b"INDEX",
        b"FULLTEXT",
        b"SPATIAL",
        b"CONSTRAINT",
        b"FOREIGN",
        b"CHECK",
        b"PERIOD",
    )
)

_TOKEN = re.compile(
    rb"""(?P<space>\s++|/\*(?!M?!)(?s:.*?)\*/|/\*M?!\d*+|\*/|--\s[^\n]*+|\#[^\n]*+)
    |(?P<name>`(?:[^`]++|``)*+`|"(?:[^"]++|"")*+")
    |(?P<string>'(?:[^'\\]++|\\(?s:.)|'')*+')
    |(?P<word>[\w$\x80-\xff]++)
    |(?P<mark>(?s:.))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Column:
    """A column as CREATE TABLE tells it."""

    name: str
    type: str
    """Lower-case base type, e.g. int, varchar, bit, blob; empty if no CREATE TABLE told it."""
    charset: str | None = None
    """Charset of its texts in the table; None if it holds none, or if no CREATE TABLE told it."""
    generated: bool = False
    """Computed by the server, and therefore not in the dump."""
    invisible: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether its values are int."""
        return self.type in INTEGERS or self.type == "bit"

    @property
    def is_binary(self) -> bool:
        """Whether its values are bytes."""
        return self.type in BINARIES

    @property
    def is_text(self) -> bool:
        """Whether its values are words in a charset (dates and times are str too, but no text)."""
        return self.type in CHARACTERS


@dataclass
class Table:
    """A table of a dump, as far as the dump was read."""

    name: str
    columns: tuple[Column, ...] = ()
    is_view: bool = False
    rows: int = 0
    """Rows read so far."""
    told: bool = True
    """Whether CREATE TABLE told the columns; otherwise they were taken from the first INSERT."""
    ordered_by: str | None = None
    """Its AUTO_INCREMENT column if it is InnoDB's: its rows are stored, and dumped, in the order of that."""


@dataclass(frozen=True)
class Created:
    """What a CREATE TABLE says."""

    database: str | None
    name: str
    columns: tuple[Column, ...]
    careful: bool
    """IF NOT EXISTS stands there."""
    ordered_by: str | None
    """See Table."""


def unquote(name: bytes, decode: Callable[[bytes], str]) -> str:
    """An identifier without its quotes, if it has some."""
    if name[:1] in (b"`", b'"'):
        quote = name[:1]
        name = name[1:-1].replace(quote * 2, quote)
    return decode(name)


def parse_create_table(statement: bytes, decode: Callable[[bytes], str]) -> Created | None:
    """Read a CREATE TABLE.

    Args:
        statement: The statement; it may stand in version comments.
        decode: Decoder of identifiers; what it raises comes through.

    Returns:
        Its columns, or None if it lists none (CREATE TABLE … LIKE, … AS SELECT).
    """
    tokens = [
        (match.lastgroup or "", match.group()) for match in _TOKEN.finditer(statement) if match.lastgroup != "space"
    ]
    words = [token.upper() if kind == "word" else b"" for kind, token in tokens]
    at = words.index(b"TABLE") + 1
    careful = words[at : at + 3] == [b"IF", b"NOT", b"EXISTS"]
    at += 3 if careful else 0
    names = []
    while at < len(tokens) and tokens[at][0] in ("name", "word"):
        names.append(unquote(tokens[at][1], decode))
        at += 1
        if at < len(tokens) and tokens[at][1] == b".":
            at += 1
        else:
            break
    if not names or at >= len(tokens) or tokens[at][1] != b"(":
        return None
    items, at = _items(tokens, at + 1)
    default = _charset(words[at:], tokens[at:])
    columns = []
    ordered_by = None
    for item in items:
        if not item or (item[0][0] == "word" and item[0][1].upper() in _NO_COLUMN):
            continue
        if column := _column(item, default, decode):
            columns.append(column)
            if any(kind == "word" and token.upper() == b"AUTO_INCREMENT" for kind, token in item):
                ordered_by = column.name
    if not columns:
        return None
    if _after(words[at:], tokens[at:], (b"ENGINE",)) != "innodb":
        ordered_by = None
    return Created(names[-2] if len(names) > 1 else None, names[-1], tuple(columns), careful, ordered_by)


def kind_of_create(statement: bytes) -> tuple[str, bytes]:
    """What a CREATE creates (table, view, procedure, trigger, …), and the name as it is written."""
    kind = ""
    for match in _TOKEN.finditer(statement):
        if match.lastgroup == "word" and not kind and match[0].upper() in _CREATED:
            kind = match[0].decode("latin-1").lower()
        elif kind and match.lastgroup in ("name", "word") and match[0].upper() not in (b"IF", b"NOT", b"EXISTS"):
            return kind, match[0]
    return kind or "other", b""


_Token = tuple[str, bytes]


def _items(tokens: list[_Token], at: int) -> tuple[list[list[_Token]], int]:
    """What stands between the commas of the parenthesis that begins here, and the place behind it."""
    items: list[list[_Token]] = [[]]
    depth = 1
    while at < len(tokens):
        kind, token = tokens[at]
        at += 1
        if kind == "mark":
            depth += (token == b"(") - (token == b")")
            if depth == 0:
                break
            if depth == 1 and token == b",":
                items.append([])
                continue
        items[-1].append((kind, token))
    return items, at


def _column(item: list[_Token], default: str | None, decode: Callable[[bytes], str]) -> Column | None:
    if len(item) < 2 or item[0][0] not in ("name", "word") or item[1][0] != "word":
        return None
    base = item[1][1].decode("latin-1").lower()
    words = [token.upper() if kind == "word" else b"" for kind, token in item]
    if base == "national":
        base = words[2].decode("latin-1").lower() if len(words) > 2 else "char"
    if base == "long":
        base = "longblob" if b"VARBINARY" in words else "mediumtext"
    charset = None
    if base in CHARACTERS:
        charset = _charset(words[2:], item[2:]) or default
        if base == "json":
            charset = "utf8mb4"
        elif charset == BINARY and base not in ("enum", "set"):
            base = {"char": "binary", "varchar": "varbinary"}.get(base, base.replace("text", "blob"))
            charset = None
    generated = b"AS" in words[2:] or b"GENERATED" in words[2:]
    return Column(unquote(item[0][1], decode), base, charset, generated, b"INVISIBLE" in words[2:])


def _charset(words: list[bytes], tokens: list[_Token]) -> str | None:
    """The charset that CHARACTER SET, CHARSET or COLLATE names among these, or None."""
    charset = _after(words, tokens, (b"CHARSET",)) or _after(words, tokens, (b"CHARACTER", b"SET"))
    collation = _after(words, tokens, (b"COLLATE",))
    return charset or (charset_of_collation(collation) if collation else None)


def _after(words: list[bytes], tokens: list[_Token], option: tuple[bytes, ...]) -> str | None:
    """The lower-case value of a table's or column's option, with or without `=`."""
    for at in range(len(words)):
        if tuple(words[at : at + len(option)]) == option:
            value = at + len(option)
            if value < len(tokens) and tokens[value][1] == b"=":
                value += 1
            if value < len(tokens) and tokens[value][0] != "mark":
                return tokens[value][1].strip(b"'\"`").decode("latin-1").lower()
    return None
