"""Turns encoded documents into packed training windows, and keeps the token ledger of doing so.

A window row has `input_ids`, `labels` (−100 where no loss falls) and `lengths`: the sizes of the pieces that share
the window, which never see one another. The first token of a piece is in the window and carries no loss: nothing
of its own document stands before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.data.pack import pack
from shridhar_ft.runfolder import fingerprint, publishing, read_json, write_json

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100  # what torch's cross-entropy leaves out

EncodeDialogue = Callable[[list[dict[str, str]]], tuple[np.ndarray, np.ndarray]]
"""Turns in; token ids and the assistant's mask out."""


@dataclass(frozen=True)
class Encoded:
    """A document as tokens."""

    ids: np.ndarray
    """Token ids, int32, shape (T,)."""
    learned: np.ndarray
    """Whether loss may fall on each token, bool, shape (T,)."""
    cut: int = 0
    """Tokens that had to be cut off its end, for the ledger."""


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
    documents: Sequence[Encoded], context: int, why_masked: str
) -> tuple[list[dict[str, np.ndarray]], Ledger]:
    """Pack documents into windows of at most `context` tokens; every token lands in exactly one of them.

    Args:
        documents: Encoded documents; one that is longer than the window is continued in the next.
        context: Window length in tokens.
        why_masked: Reason that the ledger gives for tokens that are not learned, e.g. `not the assistant's`.

    Returns:
        Window rows and the ledger.
    """
    cut = sum(document.cut for document in documents)
    ledger = Ledger(
        came_in=sum(len(document.ids) for document in documents) + cut,
        masked={why_masked: 0, "opens a piece": 0},
        truncated={"one exchange is longer than the window": cut},
    )
    rows = []
    for window in pack([len(document.ids) for document in documents], context):
        ids = np.concatenate([documents[piece.document].ids[piece.start : piece.stop] for piece in window])
        learned = np.concatenate([documents[piece.document].learned[piece.start : piece.stop] for piece in window])
        lengths = np.array([piece.stop - piece.start for piece in window], dtype=np.int32)
        opens = np.zeros(len(ids), dtype=bool)
        opens[np.cumsum(lengths) - lengths] = True
        labels = np.where(learned & ~opens, ids, IGNORED).astype(np.int32)
        ledger.trained += int((labels != IGNORED).sum())
        ledger.masked[why_masked] += int((~learned).sum())
        ledger.masked["opens a piece"] += int((learned & opens).sum())
        rows.append({"input_ids": ids, "labels": labels, "lengths": lengths})
    return rows, ledger


def save_windows(folder: Path, documents: Iterable[Encoded], context: int, why_masked: str, made_from: str) -> None:
    """Pack documents into a `datasets` folder of windows, with its ledger; kept if it is there for the same inputs.

    Args:
        folder: Where it goes.
        documents: Encoded documents (held in memory: 5 bytes a token).
        context: Window length in tokens.
        why_masked: See `pack_windows`.
        made_from: Fingerprint of what the documents are.
    """
    from datasets import Dataset, Features, List, Value

    wanted = fingerprint(made_from, context)
    if (folder / "ledger.json").is_file() and read_json(folder / "ledger.json")["fingerprint"] == wanted:
        return
    rows, ledger = pack_windows(list(documents), context, why_masked)
    assert ledger.balanced, f"the packing lost tokens: {ledger}"
    columns = Features({name: List(Value("int32")) for name in ("input_ids", "labels", "lengths")})
    with publishing(folder) as temporary:
        table = {name: [row[name] for row in rows] for name in columns}
        Dataset.from_dict(table, features=columns).save_to_disk(temporary, num_shards=1)  # one, even when empty
        write_json(temporary / "ledger.json", {"fingerprint": wanted, "windows": len(rows), **ledger.as_dict()})


def load_windows(folder: Path) -> tuple["Dataset", dict[str, Any]]:
    """The windows that `save_windows` left, memory-mapped, and their ledger."""
    from datasets import load_from_disk

    return load_from_disk(str(folder)), read_json(folder / "ledger.json")


def cut_conversation(messages: list[dict[str, str]], encode: EncodeDialogue, context: int) -> Iterator[Encoded]:
    """Encode a conversation; one longer than the window goes on, turn by turn, as a conversation of its own.

    Args:
        messages: Turns with `role` and `content`, an optional system turn first.
        encode: Gives token ids and the assistant's mask of a list of turns.
        context: Window length in tokens.

    Yields:
        Encoded parts that fit; tokens are cut off only where one exchange alone is longer than the window.
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
    held: list[dict[str, str]] = []
    for exchange in [*exchanges, []]:  # the empty one flushes what is held
        if held and (not exchange or len(encode(system + held + exchange)[0]) > context):
            ids, learned = encode(system + held)
            yield Encoded(ids[:context], learned[:context], cut=max(len(ids) - context, 0))
            held = []
        held = held + exchange
