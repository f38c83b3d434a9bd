"""Sorts turns into partitions on disk by their conversation, so that one partition at a time fits into memory.

Bounds: a partition holds the turns of some PARTITION bytes of input, or a MOST-th of the input where that is more
(from 16 GB on); reading and sorting it takes about three times its size, and no less than its longest conversation.
Turns wait in memory until GATHERED bytes are there, so that what is written is not in crumbs.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION = 32 << 20  # bytes of input
MOST = 512  # partitions: each one is an open file
GATHERED = 32 << 20  # bytes of turns
UNKNOWN = 4 << 30  # bytes: how large an input is taken for whose size cannot be known


def partitions_for(size: int) -> int:
    """How many partitions an input of so many bytes gets."""
    return min(MOST, max(1, -(-size // PARTITION)))


class Spill:
    """The partitions; a context manager. A conversation lies in one of them, and they go in the order of their keys.

    As a partition is a stretch of the keys, turns sorted within the partitions are sorted altogether: the order does
    not depend on how many partitions there are.
    """

    def __init__(self, folder: Path, schema: "pa.Schema", partitions: int) -> None:
        """
        Args:
            folder: An empty folder.
            schema: Of the turns; `key_high`, a uint64, is what they are sorted by.
            partitions: How many.
        """
        import pyarrow as pa

        self._files = [folder / f"{number:04d}.arrow" for number in range(partitions)]
        self._schema = schema
        self._streams: list[pa.ipc.RecordBatchStreamWriter] = []
        self._gathered: list[pa.RecordBatch] = []
        self._bytes = 0

    def append(self, turns: "pa.RecordBatch") -> None:
        """Add turns, in any order of their conversations."""
        if turns.num_rows:
            self._gathered.append(turns)
            self._bytes += turns.nbytes
            if self._bytes >= GATHERED:
                self._flush()

    def partitions(self) -> "Iterator[pa.Table]":
        """The partitions one after another, each with its turns in the order in which they were added."""
        import pyarrow as pa

        self._flush()
        self._close()
        for file in self._files:
            with pa.OSFile(str(file), "rb") as handle, pa.ipc.open_stream(handle) as stream:
                table = stream.read_all()
            file.unlink()
            if table.num_rows:
                yield table

    def _flush(self) -> None:
        """Write what was gathered."""
        import numpy as np
        import pyarrow as pa

        if not self._gathered:
            return
        turns = pa.concat_batches(self._gathered)
        self._gathered, self._bytes = [], 0
        # The upper half of the key, as a share of its range: 32 bits times at most 512 stay within 64.
        keys = turns.column("key_high").to_numpy(zero_copy_only=False) >> np.uint64(32)
        numbers = (keys * np.uint64(len(self._files))) >> np.uint64(32)
        order = np.argsort(numbers, kind="stable")
        sorted_turns = turns.take(pa.array(order))
        ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=len(self._files)))
        start = 0
        for stream, end in zip(self._streams, ends.tolist(), strict=True):
            if end > start:
                stream.write_batch(sorted_turns.slice(start, end - start))
            start = end

    def __enter__(self) -> Self:
        import pyarrow as pa

        self._streams = [pa.ipc.new_stream(str(file), self._schema) for file in self._files]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams = []
