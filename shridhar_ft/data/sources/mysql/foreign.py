"""Tells dumps by how they begin: MySQL's and MariaDB's, and those of other engines, which are refused by name."""

import re
from pathlib import Path

from shridhar_ft.data.sources.mysql.lexer import WORD
from shridhar_ft.data.sources.mysql.stream import peek

HEAD = 1 << 16
"""Bytes at a dump's beginning that are looked at."""

HEADER = re.compile(rb"^-- (?:MySQL|MariaDB) dump [^\n]*", re.MULTILINE)
"""The line that mysqldump and mariadb-dump begin with."""
_BOM = b"\xef\xbb\xbf"
_FOREIGN = (
    ("PostgreSQL (pg_dump's own format)", re.compile(rb"\APGDMP")),
    ("PostgreSQL", re.compile(rb"^-- PostgreSQL database|^COPY [^;\n]+ FROM stdin;|^SET statement_timeout\b", re.M)),
    ("SQLite (the database file itself)", re.compile(rb"\ASQLite format 3\0")),
    ("SQLite", re.compile(rb"\A\s*(?:PRAGMA foreign_keys\s*=|BEGIN TRANSACTION;)", re.I)),
    ("mysqldump --xml", re.compile(rb"\A\s*<\?xml[^>]*>\s*(?:<!--.*?-->\s*)*<(?:mysqldump|resultset)\b", re.S)),
    (
        "Microsoft SQL Server",
        re.compile(
            rb"^GO\r?$|^SET (?:ANSI_NULLS|QUOTED_IDENTIFIER) ON|^(?:INSERT(?: INTO)?|CREATE TABLE) \[", re.M | re.I
        ),
    ),
    ("Oracle", re.compile(rb"^\s*(?:REM INSERTING into|SET DEFINE OFF;)", re.M | re.I)),
)
STATEMENTS = frozenset(
    (
        "alter",
        "analyze",
        "begin",
        "call",
        "change",
        "check",
        "commit",
        "copy",
        "create",
        "deallocate",
        "delete",
        "delimiter",
        "do",
        "drop",
        "end",
        "execute",
        "flush",
        "grant",
        "handler",
        "insert",
        "install",
        "kill",
        "load",
        "lock",
        "optimize",
        "prepare",
        "purge",
        "rename",
        "repair",
        "replace",
        "reset",
        "revoke",
        "rollback",
        "savepoint",
        "select",
        "set",
        "show",
        "signal",
        "source",
        "start",
        "stop",
        "truncate",
        "uninstall",
        "unlock",
        "update",
        "use",
        "values",
        "with",
        "xa",
    )
)
"""First words of what may stand in a dump, in lower case."""
_COMMENT = re.compile(rb"\s*(?:--\s|#|/\*)")
_ROWS = re.compile(
    rb"^(?:/\*!?\d*\s*)?(?:CREATE\s+TABLE\b[^;]*?\(|(?:INSERT|REPLACE)\s[^;]*?\bVALUES?\b|LOCK TABLES `)", re.M | re.I
)


def foreign_dump(head: bytes) -> str | None:
    """The engine that wrote a dump, if it was not MySQL or MariaDB, else None.

    Args:
        head: The first bytes, unpacked.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a program that saved it as UTF-16 (PowerShell's > does)"
    if HEADER.search(head):
        return None
    head = head.removeprefix(_BOM)
    return next((engine for engine, pattern in _FOREIGN if pattern.search(head)), None)


def begins_like_sql(head: bytes) -> bool:
    """Whether a file begins where a statement or a comment does, as a later part seldom does."""
    head = head.removeprefix(_BOM)
    if _COMMENT.match(head):
        return True
    word = WORD.match(head)
    return bool(word and word[1].decode("latin-1").lower() in STATEMENTS)


def looks_like_dump(file: Path) -> bool:
    """Whether a file, packed or not, holds SQL with tables or rows, or a dump of another engine.

    Args:
        file: The file; of a dump in parts, the first one.
    """
    head = peek(file, HEAD)
    return bool(HEADER.search(head) or foreign_dump(head) or (begins_like_sql(head) and _ROWS.search(head)))
