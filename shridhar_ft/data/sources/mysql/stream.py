"""The bytes of a dump: parts one after another, unpacked on the way, in chunks of bounded size."""

import bisect
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from shridhar_ft.errors import UserError

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
# Up to 128 KiB of zeros fit into four bytes of zstd, and its decompressor cannot be told to stop: so it is fed this
# little at a time, and what comes out at once stays below 32 MiB.
ZSTD_PIECE = 1 << 10


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Stream:
    """The unpacked bytes of a dump.

    Compressed parts, and the parts of a compressed file, need no telling apart: gzip members and zstd frames may
    follow one another, and either way the bytes of all files in a row are one gzip or zstd file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the first file.

        Args:
            files: The parts in their order, at least one.

        Raises:
            UserError: The dump is packed with zstd, and the library for it is missing.
        """
        self.files = tuple(files)
        self.read_so_far = 0  # bytes, unpacked
        self._joined = _Joined(self.files)
        head = self._joined.peek(4)
        self._packing = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else None
        self._reader: _Reader = self._joined
        if self._packing == "gzip":
            self._reader = gzip.GzipFile(fileobj=self._joined, mode="rb")  # type: ignore[call-overload]  # it only reads
        elif self._packing == "zstd":
            self._reader = _Zstd(self._joined)
        self._marks = [0]  # where the parts begin, in unpacked bytes
        self._marked = [self.files[0]]

    def read(self, size: int) -> bytes:
        """The next bytes, at most this many (zstd: some more); none at the end.

        Raises:
            UserError: The compressed data is damaged or cut off.
        """
        try:
            chunk = self._reader.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error, _ZstdDamaged) as error:
            raise UserError(
                f"{self._joined.file}: the {self._packing} data is damaged or cut off ({error}); get the file again"
            ) from error
        if self._joined.file != self._marked[-1] and self._packing:
            # Where exactly a part begins in the unpacked bytes is not known; a chunk's beginning is near enough.
            self._marks.append(self.read_so_far)
            self._marked.append(self._joined.file)
        self.read_so_far += len(chunk)
        return chunk

    def place(self, offset: int) -> str:
        """Where a byte stands, for messages: FILE and its byte.

        Args:
            offset: Its place among the unpacked bytes of all parts.
        """
        if self._packing:
            file = self._marked[bisect.bisect_right(self._marks, offset) - 1]
            return f"{file}: byte {offset} of the unpacked dump"
        starts = self._joined.starts
        index = bisect.bisect_right(starts, offset) - 1
        return f"{self.files[index]}: byte {offset - starts[index]}"

    def joints(self) -> list[int]:
        """Where the later parts begin, as far as they were read; none if the dump is packed, as it is not known."""
        return [] if self._packing else self._joined.starts[1:]

    def close(self) -> None:
        """Close the file that is open."""
        self._joined.close()


def peek(file: Path, size: int) -> bytes:
    """The first bytes of a file, unpacked; none if they cannot be unpacked."""
    stream = Stream([file])
    try:
        return stream.read(size)
    except UserError:
        return b""
    finally:
        stream.close()


class _Joined:
    """The raw bytes of all files, one after another."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.starts = [0]  # where the files opened so far begin
        self._files = files
        self._handle: BinaryIO = files[0].open("rb")

    @property
    def file(self) -> Path:
        return self._files[len(self.starts) - 1]

    def peek(self, size: int) -> bytes:
        head = self._handle.read(size)
        self._handle.seek(0)
        return head

    def read(self, size: int = -1, /) -> bytes:
        # Filled up across the ends of parts: what reads a long row asks for ever more, and would get a part each time.
        chunks: list[bytes] = []
        left = size
        while left:
            if chunk := self._handle.read(left):
                chunks.append(chunk)
                left = left - len(chunk) if size > 0 else left
                continue
            if len(self.starts) == len(self._files):
                break
            self.starts.append(self.starts[-1] + self._handle.tell())
            self._handle.close()
            self._handle = self.file.open("rb")
        return b"".join(chunks)

    def close(self) -> None:
        self._handle.close()


class _ZstdDamaged(Exception):
    pass


class _Zstd:
    """Unpacks zstd frames, one after another."""

    def __init__(self, source: _Joined) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UserError(
                f"{source.file}: reading zstd needs the library zstandard; pip install zstandard, or unpack the file"
            ) from error
        self._library = zstandard
        self._source = source
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._packed = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """At least so many bytes, if there are."""
        out: list[bytes] = []
        length = 0
        while length < size:
            piece = self._packed[self._at : self._at + ZSTD_PIECE]
            if not piece:
                self._packed, self._at = self._source.read(1 << 20), 0
                if self._packed:
                    continue
                if self._begun:
                    raise _ZstdDamaged("the end is missing")
                break
            self._at += len(piece)
            self._begun = True
            try:
                chunk = self._frame.decompress(piece)
            except self._library.ZstdError as error:
                raise _ZstdDamaged(str(error)) from error
            out.append(chunk)
            length += len(chunk)
            if self._frame.eof:
                self._at -= len(self._frame.unused_data)
                self._frame = self._library.ZstdDecompressor().decompressobj()
                self._begun = False
        return b"".join(out)
