"""Turns encoded documents into packed training windows, and keeps the token ledger of doing so.

A window row has `input_ids`, `labels` (−100 where no loss falls) and `lengths`: the sizes of the pieces that share
the window, which never see one another. The first token of a piece is in the window and carries no loss: nothing
of its own document stands before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shridhar_ft.data.pack import Piece, pack
from shridhar_ft.runfolder import fingerprint, publishing, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

IGNORED = -100  # what torch's cross-entropy leaves out
COLUMNS = ("input_ids", "labels", "lengths")
BATCH_TOKENS = 1 << 24  # tokens put together at once: bounds the copies, and Arrow counts a batch in 32 bits
OVERLONG = "document longer than the window"

Overlong = Literal["split", "drop"]
"""What becomes of a document that is longer than the window."""

EncodeDialogue = Callable[[list[dict[str, str]]], tuple[np.ndarray, np.ndarray]]
"""Turns in; token ids and the assistant's mask out."""


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
            "reasons": {"masked": self.masked, "truncated": self.truncated, "dropped": self.dropped},
        }


def pack_windows(
    documents: Sequence[Encoded], context: int, why_masked: str, overlong: Overlong = "split"
) -> tuple["pa.Table", Ledger]:
    """Pack documents into windows of at most `context` tokens; every token that is kept lands in exactly one of them.

    Args:
        documents: Encoded documents.
        context: Window length in tokens.
        why_masked: Reason that the ledger gives for tokens that are not learned, e.g. `not the assistant's`.
        overlong: Whether a document longer than the window is continued in the next one, or dropped.

    Returns:
        Window rows, and the ledger.
    """
    import pyarrow as pa

    ledger = Ledger(
        came_in=sum(len(document.ids) for document in documents),
        masked={why_masked: 0, "opens a piece": 0},
    )
    if overlong == "drop":
        ledger.dropped[OVERLONG] = sum(len(d.ids) for d in documents if len(d.ids) > context)
        documents = [document for document in documents if len(document.ids) <= context]
    windows = pack([len(document.ids) for document in documents], context)
    at_once = max(1, BATCH_TOKENS // context)
    batches = [
        _window_rows(documents, windows[start : start + at_once], why_masked, ledger)
        for start in range(0, len(windows), at_once)
    ]
    return pa.Table.from_batches(batches, pa.schema([(name, pa.list_(pa.int32())) for name in COLUMNS])), ledger


def _window_rows(
    documents: Sequence[Encoded], windows: Sequence[Sequence[Piece]], why_masked: str, ledger: Ledger
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
    piece_offsets = np.cumsum([0, *map(len, windows)], dtype=np.int32)
    token_offsets = np.concatenate([[0], ends])[piece_offsets].astype(np.int32)
    flat = ((token_offsets, ids), (token_offsets, labels), (piece_offsets, lengths))
    return pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(*column) for column in flat], names=COLUMNS)


def save_windows(
    folder: Path,
    documents: Iterable[Encoded],
    context: int,
    why_masked: str,
    made_from: str,
    overlong: Overlong = "split",
) -> None:
    """Pack documents into a `datasets` folder of windows, with its ledger; kept if it is there for the same inputs.

    Args:
        folder: Where it goes.
        documents: Encoded documents (held in memory: 5 bytes a token, and 13 more while they are packed).
        context: Window length in tokens.
        why_masked: See `pack_windows`.
        made_from: Fingerprint of what the documents are.
        overlong: See `pack_windows`.
    """
    wanted = fingerprint(made_from, context, *([overlong] if overlong != "split" else []))
    if (folder / "ledger.json").is_file() and read_json(folder / "ledger.json")["fingerprint"] == wanted:
        return
    from datasets import Dataset

    rows, ledger = pack_windows(list(documents), context, why_masked, overlong)
    assert ledger.balanced, f"the packing lost tokens: {ledger}"
    held = ledger.came_in - sum(ledger.truncated.values()) - sum(ledger.dropped.values())
    filled = round(held / (len(rows) * context), 4) if len(rows) else 0.0
    with publishing(folder) as temporary:
        Dataset(rows).save_to_disk(temporary, num_shards=1)  # one, even when empty
        written = {"fingerprint": wanted, "windows": len(rows), "filled": filled, **ledger.as_dict()}
        write_json(temporary / "ledger.json", written)


def load_windows(folder: Path) -> tuple["Dataset", dict[str, Any]]:
    """The windows that `save_windows` left, memory-mapped, and their ledger (`filled`: share of the positions)."""
    from datasets import load_from_disk

    return load_from_disk(str(folder)), read_json(folder / "ledger.json")


def cut_conversation(messages: list[dict[str, str]], encode: EncodeDialogue, context: int) -> Iterator[Encoded]:
    """Encode a conversation; one longer than the window goes on, exchange by exchange, as a conversation of its own.

    Args:
        messages: Turns with `role` and `content`, an optional system turn first.
        encode: Gives token ids and the assistant's mask of a list of turns.
        context: Window length in tokens.

    Yields:
        Encoded parts that fit; an exchange that alone is longer than the window is continued in the next one.
    """
    ids, learned = encode(messages)
    if len(ids) <= context:
        yield Encoded(ids, learned)
        return
    system, turns = ([messages[0]], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    exchanges: list[list[dict[str, str]]] = []
    for turn in turns:
        if turn["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(turn)
    # Each exchange is encoded once by itself: how many fit together is then known but for a few tokens at the joints.
    alone = [len(encode(system + exchange)[0]) for exchange in exchanges]
    opening = len(encode(system)[0]) if system else 0
    first = 0
    while first < len(exchanges):
        end, size = first + 1, alone[first]
        while end < len(exchanges) and size + alone[end] - opening <= context:
            size += alone[end] - opening
            end += 1
        ids, learned = encode(system + [turn for exchange in exchanges[first:end] for turn in exchange])
        while len(ids) > context and end > first + 1:
            end -= 1
            ids, learned = encode(system + [turn for exchange in exchanges[first:end] for turn in exchange])
        for start in range(0, len(ids), context):
            piece = slice(start, start + context)
            yield Encoded(ids[piece], learned[piece], whole=len(ids) <= context)
        first = end
