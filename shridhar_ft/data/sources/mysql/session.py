"""What the statements of a dump set for those that follow: charset, sql_mode, database, delimiter."""

import re

from shridhar_ft.data.sources.mysql.charsets import Decode, check_client, decoder
from shridhar_ft.data.sources.mysql.create_table import unquote
from shridhar_ft.data.sources.mysql.facts import Facts
from shridhar_ft.data.sources.mysql.foreign import HEADER
from shridhar_ft.errors import UserError

_COMPLETED = re.compile(rb"^-- Dump completed", re.MULTILINE)
_SERVER = re.compile(rb"^-- Server version\s+([^\r\n]*)", re.MULTILINE)
_SET_NAMES = re.compile(rb"\s*+SET\s++NAMES\s*+=?\s*+['\"]?(\w++)", re.IGNORECASE)
_SET_CLIENT = re.compile(rb"\bcharacter_set_client\s*+=\s*+['\"]?(@?[\w@]++)", re.IGNORECASE)
_SET_MODE = re.compile(rb"(?<!@)\bsql_mode\s*+=\s*+('[^']*+'|\"[^\"]*+\"|[\w@]++)", re.IGNORECASE)
_USE = re.compile(rb"\s*+USE\s++(`(?:[^`]|``)*+`|\"[^\"]*+\"|[\w$\x80-\xff]++)", re.IGNORECASE)


class Session:
    """What holds at the place being read."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.delimiter = b";"
        self.database: str | None = None
        self.backslashes = True
        """Whether a backslash escapes: not in the sql_mode NO_BACKSLASH_ESCAPES."""
        self.client: str | None = None
        """The charset that statements are in; None if nothing told it."""
        self.unfinished = False
        """Whether a dump with mysqldump's first line has not come to its last one."""

    def comments(self, blank: bytes) -> None:
        """Learn from the comments between statements."""
        if b"-- " not in blank:
            return
        if header := HEADER.search(blank):
            self.facts.tool = self.facts.tool or header[0][3:].decode("utf-8", "replace").strip()
            self.unfinished = True
        if server := _SERVER.search(blank):
            self.facts.server = self.facts.server or server[1].decode("utf-8", "replace").strip()
        if completed := _COMPLETED.search(blank):
            # Dumps may follow one another in one file.
            self.unfinished = bool(HEADER.search(blank, completed.end()))

    def set(self, statement: bytes, place: str) -> None:
        """Follow a SET.

        Raises:
            UserError: The client charset cannot be read.
        """
        if names := _SET_NAMES.match(statement):
            charset = names[1].decode("latin-1").lower()
            if charset != "default":
                check_client(charset, place)
                self.facts.charset = self.client = charset
        if client := _SET_CLIENT.search(statement):
            value = client[1].decode("latin-1").lower()
            # A variable gives back what held before the statement that it stands around.
            self.client = self.facts.charset if value.startswith("@") or value == "null" else value
        if mode := _SET_MODE.search(statement):
            self.backslashes = b"NO_BACKSLASH_ESCAPES" not in mode[1].upper()

    def use(self, statement: bytes) -> None:
        """Follow a USE."""
        if name := _USE.match(statement):
            self.database = unquote(name[1], self.identifier)
            if self.database not in self.facts.databases:
                self.facts.databases.append(self.database)

    def check_rows(self, place: str) -> None:
        """Refuse rows that are written in a way in which they cannot be told apart.

        Raises:
            UserError: Names the way and the mend.
        """
        if not self.backslashes:
            raise UserError(
                f"{place}: the rows are written in the sql_mode NO_BACKSLASH_ESCAPES, which is not read; dump again "
                f"with a sql_mode without it"
            )
        if self.client is not None:
            check_client(self.client, place)

    def identifier(self, raw: bytes) -> str:
        """A name, in the charset that holds; mysqldump writes CREATE TABLE in UTF-8 whatever it says."""
        tried: list[Decode | None] = [bytes.decode, decoder(self.client or ""), decoder("latin1")]
        for decode in tried:
            try:
                if decode:
                    return decode(raw)
            except UnicodeDecodeError:
                continue
        raise AssertionError("latin1 knows every byte")
