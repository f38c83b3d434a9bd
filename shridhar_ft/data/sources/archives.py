"""ZIP archives that books come in, opened with care: nothing is unpacked to disk, and only what fits is read."""

import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shridhar_ft.data.sources.signatures import signature
from shridhar_ft.errors import UserError, first_line

MOST = 512 << 20  # bytes of an archive, unpacked, its pictures included
MOST_TEXT = 64 << 20  # bytes of one text or markup file, unpacked or not: parsed, they take twenty times the memory
MOST_RATIO = 200  # unpacked to packed; text packs to a third or, full of markup, to a thirtieth
SMALL = 1 << 20  # bytes unpacked that no ratio makes dangerous

_PIECE = 1 << 20  # bytes unpacked at once
_ENCRYPTED = 0x1  # bit of an entry's flags
_OUTSIDE = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)|^[/\\]|^[A-Za-z]:")


class Archive(NamedTuple):
    """An open archive whose entries were looked at."""

    file: Path
    entries: dict[str, zipfile.ZipInfo]
    """By name; folders are left out."""
    handle: zipfile.ZipFile

    def read(self, name: str) -> bytes:
        """The contents of one entry.

        Raises:
            UserError: It is damaged, or larger than a book is.
        """
        entry = self.entries[name]
        check_size(self.file, [entry])
        check_text_size(self.file, entry.file_size)
        return b"".join(self._pieces(entry))

    def check_all(self) -> None:
        """Refuse the archive if an entry is damaged or they are larger than a book is, for libraries that read all.

        Raises:
            UserError: As `read`.
        """
        check_size(self.file, list(self.entries.values()))
        check_text_size(
            self.file, max((e.file_size for e in self.entries.values() if e.filename.endswith(".xml")), default=0)
        )
        for entry in self.entries.values():
            for _ in self._pieces(entry):
                pass

    def _pieces(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        # Piece by piece, each bounded: `ZipFile.read` would unpack all that the packed bytes hold, and then cut it to
        # the size that the entry gives.
        try:
            with self.handle.open(entry) as part:
                while piece := part.read(_PIECE):
                    yield piece
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError) as error:
            name = entry.filename
            raise UserError(f"{self.file}: {name} in it is damaged ({first_line(error)}); fetch it anew") from error


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Open an archive for reading; archives inside it are not followed.

    Raises:
        UserError: It is damaged or encrypted, or a name in it leads out of it.
    """
    try:
        handle = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        with file.open("rb") as start:
            kind = signature(start.read(1 << 10))
        what = f"it is {kind}" if kind and "ZIP" not in kind else f"it is no whole ZIP archive ({first_line(error)})"
        raise UserError(f"{file}: {what}, and not what its suffix says; fetch it anew, or rename it") from error
    with handle:
        entries = {entry.filename: entry for entry in handle.infolist() if not entry.is_dir()}
        for name, entry in entries.items():
            if _OUTSIDE.search(name):
                raise UserError(f"{file}: {name!r} in it leads out of the archive; it was made to do harm, take it out")
            if entry.flag_bits & _ENCRYPTED:
                raise UserError(f"{file}: it is encrypted; unpack it with its password, and name what was in it")
        yield Archive(file, entries, handle)


def check_text_size(file: Path, size: int) -> None:
    """Refuse a text that is larger than a parser can take in bounded memory.

    Raises:
        UserError: It is larger than `MOST_TEXT`.
    """
    if size > MOST_TEXT:
        raise UserError(
            f"{file}: {size >> 20:,} MiB of text are no book, and books are read up to {MOST_TEXT >> 20} MiB; "
            "split it into works, or give its text as rows under data.texts"
        )


def check_size(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse entries that are far larger than books are.

    Raises:
        UserError: Together they are larger than `MOST`, or one of them was packed beyond belief.
    """
    whole = sum(entry.file_size for entry in entries)
    if whole > MOST:
        raise UserError(
            f"{file}: it would unpack to {whole >> 20:,} MiB, and books are read up to {MOST >> 20} MiB; take it out"
        )
    for entry in entries:
        if entry.file_size > max(SMALL, MOST_RATIO * entry.compress_size):
            raise UserError(
                f"{file}: {entry.filename} in it would unpack to {entry.file_size // max(1, entry.compress_size):,} "
                f"times its size, as no book does; take the file out"
            )
