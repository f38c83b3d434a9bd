"""Writes rows of the splits to Arrow in batches, and turns the streams into folders that `datasets` loads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shridhar_ft.data.records import Document, Message

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_CHARACTERS = 4_000_000  # long dialogues: a batch is held in memory twice, as Python and as Arrow


def schema() -> "pa.Schema":
    """The columns of every split."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("source", pa.string()),
            ("id", pa.string()),
            ("work", pa.string()),
            ("text", pa.string()),
            ("messages", pa.list_(message)),
            ("title", pa.string()),
            ("author", pa.string()),
            ("chapter", pa.string()),
        ]
    )


def work_row(document: Document, text: str, chapters: Sequence[str]) -> dict[str, Any]:
    """The row of a whole cleaned work, with its chapter titles, one a line."""
    return {**block_row(document, 0, text, "\n".join(chapters)), "id": _writable(document.id)}


def block_row(document: Document, number: int, text: str, chapter: str) -> dict[str, Any]:
    """The row of one block of a work."""
    return {
        "source": document.source,
        "id": f"{_writable(document.work)}/{number:04d}",
        "work": _writable(document.work),
        "text": text,
        "messages": [],
        "title": _writable(document.title),
        "author": _writable(document.author),
        "chapter": chapter,
    }


def dialogue_row(source: str, id_: str, messages: Sequence[Message]) -> dict[str, Any]:
    """The row of one dialogue."""
    return {
        "source": source,
        "id": _writable(id_),
        "work": "",
        "text": "",
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "title": "",
        "author": "",
        "chapter": "",
    }


def _writable(name: str) -> str:
    """A name without halves of surrogate pairs, which JSON's `\\ud83d` can bring in, and UTF-8 cannot hold."""
    return name.encode("utf-8", errors="replace").decode("utf-8")


def read_stream(file: Path) -> Iterator["pa.RecordBatch"]:
    """The batches of a stream that `RowStream` wrote, one in memory at a time."""
    import pyarrow as pa

    with pa.OSFile(str(file), "rb") as handle, pa.ipc.open_stream(handle) as stream:
        yield from stream


def read_split(folder: Path) -> Iterator["pa.RecordBatch"]:
    """The batches of a saved split, memory-mapped."""
    import datasets

    yield from datasets.load_from_disk(str(folder)).data.to_batches()


def save_split(stream: Path, folder: Path) -> None:
    """Turn a closed stream into a folder for `datasets.load_from_disk`, and remove the stream."""
    import datasets

    bars_were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.Dataset.from_file(str(stream))
        # Of no rows, datasets makes no shards by itself, and a folder without shards does not load.
        rows.save_to_disk(folder, num_shards=None if len(rows) else 1)
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
    stream.unlink()


class RowStream:
    """One Arrow stream on disk that rows are appended to; a context manager."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self.file = file
        self._schema = schema()
        self._stream = pa.ipc.new_stream(str(file), self._schema)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        # datasets does not open a stream without a batch.
        self._stream.write_batch(pa.RecordBatch.from_pylist([], self._schema))

    def append(self, row: dict[str, Any], characters: int) -> None:
        """Append one row with about so many characters in it."""
        self._rows.append(row)
        self._characters += characters
        if len(self._rows) >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def append_batch(self, batch: "pa.RecordBatch") -> None:
        """Append rows that already are Arrow."""
        self._flush()
        if batch.num_rows:
            self._stream.write_batch(batch)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
            self._rows, self._characters = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._stream.close()
