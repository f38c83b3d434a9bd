"""Turns encoded documents into packed training windows, and keeps the token ledger of doing so.

A window row has `input_ids`, `labels` (−100 where no loss falls) and `lengths`: the sizes of the pieces that share
the window, which never see one another. The first token of a piece is in the window and carries no loss: nothing
of its own document stands before it, and where a base leans on a token that opens texts, that one takes its place.
`documents` and `starts` tell where each piece comes from, `row` is the row's number, and `replayed` marks windows of
short pieces that read once more what others hold in long ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shridhar_ft.config_training import Replay
from shridhar_ft.data.pack import Piece, pack
from shridhar_ft.plan.steps import replay_windows
from shridhar_ft.runfolder import fingerprint, publishing, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

IGNORED = -100  # what torch's cross-entropy leaves out
LISTS = ("input_ids", "labels", "lengths", "documents", "starts")
BATCH_TOKENS = 1 << 24  # tokens put together at once: bounds the copies, and Arrow counts a batch in 32 bits
OVERLONG = "document longer than the window"

Overlong = Literal["split", "drop"]
"""What becomes of a document that is longer than the window."""


@dataclass(frozen=True)
class Encoded:
    """A document as tokens."""

    ids: np.ndarray
    """Token ids, int32, shape (T,)."""
    learned: np.ndarray
    """Whether loss may fall on each token, bool, shape (T,)."""
    whole: bool = True
    """False for a piece of an exchange that is longer than the window."""


@dataclass
class Ledger:
    """Where every token went: `came_in` = trained + masked + truncated + dropped, the last three by reason."""

    came_in: int = 0
    replayed: int = 0
    """Of those that came in, the ones that stand in windows of short pieces once more."""
    trained: int = 0
    masked: dict[str, int] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        lost = sum(sum(reasons.values()) for reasons in (self.masked, self.truncated, self.dropped))
        return self.came_in == self.trained + lost

    def as_dict(self) -> dict[str, Any]:
        return {
            "in": self.came_in,
            "trained": self.trained,
            "masked": sum(self.masked.values()),
            "truncated": sum(self.truncated.values()),
            "dropped": sum(self.dropped.values()),
            "replayed": self.replayed,
            "reasons": {"masked": self.masked, "truncated": self.truncated, "dropped": self.dropped},
        }


@dataclass(frozen=True)
class Layout:
    """How documents become windows."""

    window: int
    """Tokens of a window."""
    overlong: Overlong = "split"
    replay: Replay | None = None
    opening: int | None = None
    """Token that stands in the place of the first one of each piece from the middle of a document, where the base leans
    on it (tokenizer.opening_token). That place carries no loss in any case."""

    def as_list(self) -> list[Any]:
        """For fingerprints; settings that are off leave no trace, so that older windows stay current."""
        own: list[Any] = [self.window, *([self.overlong] if self.overlong != "split" else [])]
        own += [self.replay.model_dump()] if self.replay else []
        return [*own, {"opening": self.opening}] if self.opening is not None else own


def pack_windows(documents: Sequence[Encoded], layout: Layout, why_masked: str) -> tuple["pa.Table", Ledger]:
    """Pack documents into windows; every token that is kept lands in exactly one of them, and in replayed ones again.

    Args:
        documents: Encoded documents.
        layout: Window length, what becomes of a longer document, and the share of windows of short pieces.
        why_masked: Reason that the ledger gives for tokens that are not learned, e.g. `not the assistant's`.

    Returns:
        Window rows, and the ledger.
    """
    import pyarrow as pa

    ledger = Ledger(masked={why_masked: 0, "opens a piece": 0})
    lengths = [len(document.ids) for document in documents]
    ledger.came_in = sum(lengths)
    if layout.overlong == "drop":
        ledger.dropped[OVERLONG] = sum(length for length in lengths if length > layout.window)
        lengths = [length if length <= layout.window else 0 for length in lengths]
    windows = pack(lengths, layout.window)
    replayed = _replayed(lengths, len(windows), layout)
    ledger.replayed = sum(piece.stop - piece.start for window in replayed for piece in window)
    ledger.came_in += ledger.replayed
    at_once = max(1, BATCH_TOKENS // layout.window)
    batches = [
        _window_rows(documents, windows[start : start + at_once], layout.opening, why_masked, ledger)
        for windows in (windows, replayed)
        for start in range(0, len(windows), at_once)
    ]
    table = pa.Table.from_batches(batches, pa.schema([(name, pa.list_(pa.int32())) for name in LISTS]))
    marks = np.arange(len(table)) >= len(windows)
    table = table.append_column("replayed", pa.array(marks, pa.bool_()))
    return table.append_column("row", pa.array(np.arange(len(table)), pa.int32())), ledger


def _replayed(lengths: Sequence[int], windows: int, layout: Layout) -> list[list[Piece]]:
    """Windows of short pieces, so many that they are the wanted share of all, spread evenly over the text."""
    if not layout.replay or not windows:
        return []
    size = layout.replay.context
    short = [
        Piece(document, start, min(start + size, length))
        for document, length in enumerate(lengths)
        for start in range(0, length, size)
    ]
    packed = pack([piece.stop - piece.start for piece in short], layout.window)
    wanted = replay_windows(windows, layout.replay)
    chosen = [packed[number * len(packed) // wanted % len(packed)] for number in range(wanted)]
    return [[short[piece.document] for piece in window] for window in chosen]


def _window_rows(
    documents: Sequence[Encoded],
    windows: Sequence[Sequence[Piece]],
    opening: int | None,
    why_masked: str,
    ledger: Ledger,
) -> "pa.RecordBatch":
    """Rows of some windows, put together as flat arrays and cut by offsets; their tokens are booked."""
    import pyarrow as pa

    pieces = [piece for window in windows for piece in window]
    ids = np.concatenate([documents[piece.document].ids[piece.start : piece.stop] for piece in pieces])
    learned = np.concatenate([documents[piece.document].learned[piece.start : piece.stop] for piece in pieces])
    lengths = np.array([piece.stop - piece.start for piece in pieces], dtype=np.int32)
    ends = np.cumsum(lengths)
    opens = np.zeros(len(ids), dtype=bool)
    opens[ends - lengths] = True
    labels = np.where(learned & ~opens, ids, np.int32(IGNORED))
    ledger.trained += int((labels != IGNORED).sum())
    ledger.masked[why_masked] += int((~learned).sum())
    ledger.masked["opens a piece"] += int((learned & opens).sum())
    if opening is not None:
        inside = np.array([piece.start > 0 for piece in pieces], dtype=bool)
        ids[(ends - lengths)[inside]] = opening
    piece_offsets = np.cumsum([0, *map(len, windows)], dtype=np.int32)
    token_offsets = np.concatenate([[0], ends])[piece_offsets].astype(np.int32)
    sources = (np.array([getattr(piece, key) for piece in pieces], dtype=np.int32) for key in ("document", "start"))
    flat = ((token_offsets, ids), (token_offsets, labels), *((piece_offsets, values) for values in (lengths, *sources)))
    return pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(*column) for column in flat], names=LISTS)


def save_windows(folder: Path, documents: Iterable[Encoded], layout: Layout, why_masked: str, made_from: str) -> None:
    """Pack documents into a `datasets` folder of windows, with its ledger; kept if it is there for the same inputs.

    Args:
        folder: Where it goes.
        documents: Encoded documents (held in memory: 5 bytes a token, and 13 more while they are packed).
        layout: See `pack_windows`.
        why_masked: See `pack_windows`.
        made_from: Fingerprint of what the documents are.
    """
    wanted = fingerprint(made_from, *layout.as_list())
    if (folder / "ledger.json").is_file() and read_json(folder / "ledger.json")["fingerprint"] == wanted:
        return
    from datasets import Dataset

    rows, ledger = pack_windows(list(documents), layout, why_masked)
    assert ledger.balanced, f"the packing lost tokens: {ledger}"
    held = ledger.came_in - sum(ledger.truncated.values()) - sum(ledger.dropped.values())
    filled = round(held / (len(rows) * layout.window), 4) if len(rows) else 0.0
    with publishing(folder) as temporary:
        Dataset(rows).save_to_disk(temporary, num_shards=1)  # one, even when empty
        written = {"fingerprint": wanted, "windows": len(rows), "filled": filled, **ledger.as_dict()}
        write_json(temporary / "ledger.json", written)


def load_windows(folder: Path) -> tuple["Dataset", dict[str, Any]]:
    """The windows that `save_windows` left, memory-mapped, and their ledger (`filled`: share of the positions)."""
    from datasets import load_from_disk

    return load_from_disk(str(folder)), read_json(folder / "ledger.json")
