"""Takes out of the splits what train shares with validation and test: runs of 13 words, in books and dialogues.

Of books, train loses: held-out text must not move when a work is added. Of dialogues, that side loses a run on which
it stands in fewer conversations (train, where both have as many): phrases that thousands of answers are made of
would empty train else. So held-out dialogues may lose much of what was drawn for them; conversations of
train that come next by a stable hash take their place.

    shared  = runs of the held-out splits that stand in train
    held    loses those of its dialogues that more conversations of train hold; short of its share, it gets more
    train   loses all runs that held-out text still has

Held-out runs are in memory, about 30 bytes each while they are counted; train streams past, once to be counted and
once to be rewritten, and so again where held-out splits got more.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shridhar_ft import config_data
from shridhar_ft.data.excise import cut_conversation, excise_block
from shridhar_ft.data.hashset import HashSet, Lookup
from shridhar_ft.data.measure import Kind
from shridhar_ft.data.overlap import runs_of
from shridhar_ft.data.records import Message
from shridhar_ft.data.rows import RowStream, read_stream
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.top_up import Moved, are_dialogues, characters_of, top_up

if TYPE_CHECKING:
    import pyarrow as pa

STANDS_IN_HELD_OUT = "stands in validation or test"
REST_OF_BLOCK = "rest of a block of which most stands in validation or test"
STANDS_IN_TRAIN = "stands in train"
EXAMPLES = 10
ATTEMPTS = 3  # to top up; each is smaller by far than the one before
_TRAIN, *_HELD_OUT = SPLITS


class Where(NamedTuple):
    """A file's rows in one split."""

    kind: Kind
    source: str
    split: SplitName


@dataclass
class Loss:
    """What was taken out there; `removed` and `added` are in characters, as the ledger has them."""

    removed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    added: Counter[str] = field(default_factory=Counter)
    """By reason: copies of a system turn, where one conversation became several."""
    counts: Counter[str] = field(default_factory=Counter)
    """sentences, blocks, exchanges, system turns, conversations (whole ones, with nothing left)."""
    rows: int = 0
    """By how many rows there are more (fewer, where negative)."""


@dataclass
class Decontaminated:
    """What decontamination did."""

    losses: dict[Where, Loss] = field(default_factory=dict)
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Work and text of some sentences or blocks of books. Never dialogues."""
    moved: list[Moved] = field(default_factory=list)
    """Conversations drawn from train in place of what held-out dialogues lost."""
    between_held_out: int = 0
    """Runs that validation and test share; they stay, as neither is trained on."""

    def loss(self, where: Where) -> Loss:
        """The loss there, to be added to."""
        return self.losses.setdefault(where, Loss())


def decontaminate(folder: Path, split: config_data.Split) -> Decontaminated:
    """Rewrite `folder/{train,validation,test}.arrow` so that no run of a held-out split stands in train.

    A run lies within one block, or within one conversation, whose turns are joined.

    Args:
        folder: Streams that `RowStream` wrote.
        split: The shares that dialogues should keep, and the seed.

    Returns:
        What was taken out, where and why.
    """
    files = {name: folder / f"{name}.arrow" for name in SPLITS}
    done = Decontaminated()
    drawn = characters_of(files)
    for attempt in range(ATTEMPTS + 1):
        _clean(files, done)
        moved = top_up(files, drawn, split, attempt) if attempt < ATTEMPTS else []
        if not moved:
            break
        done.moved += moved
        for one in moved:
            drawn[one.split] += one.characters
            drawn[_TRAIN] -= one.characters
    first, second = (_distinct_runs([files[name]]) for name in _HELD_OUT)
    done.between_held_out = len(first.find(second.hashes)[0])
    return done


def _clean(files: Mapping[SplitName, Path], done: Decontaminated) -> None:
    train, held_out = files[_TRAIN], [files[name] for name in _HELD_OUT]
    runs = _distinct_runs(held_out)
    in_train, in_held_out = _holders(runs, [train]), _holders(runs, held_out)
    # Books keep what they hold.
    lost = Lookup(runs.hashes[(in_train.conversations > in_held_out.conversations) & ~in_held_out.books])
    for name in _HELD_OUT:
        _rewrite(files[name], name, lost, done)
    left = _distinct_runs(held_out)
    # A cut puts the opening system turn before other turns, and so makes runs that train was not searched for.
    none_new = len(runs.find(left.hashes)[0]) == len(left.hashes)
    _rewrite(train, _TRAIN, left, done, in_train.rows if none_new else None)


# ------------------------------------------------------------------------------------------- who has what


class Holders(NamedTuple):
    """Who holds each of some runs."""

    conversations: np.ndarray
    """In how many conversations it stands; uint32, (runs,)."""
    books: np.ndarray
    """Whether it stands in a block of a book; bool, (runs,)."""
    rows: list[np.ndarray]
    """Rows of each batch, bool (rows,), that hold any of the runs."""


def _holders(runs: Lookup, files: Sequence[Path]) -> Holders:
    count = len(runs.hashes)
    found = Holders(np.zeros(count, np.uint32), np.zeros(count, bool), [])
    for batch in _batches(files):
        there = runs_of(_texts(batch))
        known, places = runs.find(there.hashes)
        rows = there.texts[known]
        found.rows.append(_marked(rows, batch.num_rows))
        dialogues = are_dialogues(batch)[rows]
        found.books[places[~dialogues]] = True
        # A run counts once a conversation, however often it is said there.
        pairs = np.unique(rows[dialogues] * count + places[dialogues])
        np.add.at(found.conversations, pairs % count if count else pairs, 1)
    return found


def _distinct_runs(files: Sequence[Path]) -> Lookup:
    return Lookup(HashSet(runs_of(_texts(batch)).hashes for batch in _batches(files)).sorted())


def _batches(files: Sequence[Path]) -> Iterator["pa.RecordBatch"]:
    for file in files:
        yield from read_stream(file)


def _texts(batch: "pa.RecordBatch") -> list[str]:
    """The text of each row: its block, or its turns one below the other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    messages = batch["messages"]
    lengths = pc.list_value_length(messages)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))])
    turns = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), messages.flatten().field("content"))
    return pc.if_else(pc.equal(lengths, 0), batch["text"], pc.binary_join(turns, "\n")).to_pylist()


def _marked(rows: np.ndarray, count: int) -> np.ndarray:
    """Which of so many rows are among these; bool, (count,)."""
    marked = np.zeros(count, bool)
    marked[rows] = True
    return marked


# --------------------------------------------------------------------------------------------- taking out


def _rewrite(
    file: Path, split: SplitName, unwanted: Lookup, done: Decontaminated, suspects: Sequence[np.ndarray] | None = None
) -> None:
    """Rewrite a stream without the unwanted runs; of held-out splits, only dialogues change.

    Args:
        suspects: Rows of each batch in which an unwanted run can stand, bool (rows,); all where it is None.
    """
    import pyarrow as pa

    new = file.with_suffix(".new")
    with RowStream(new) as out:
        for number, batch in enumerate(read_stream(file)):
            suspect = are_dialogues(batch) if split != _TRAIN else np.ones(batch.num_rows, bool)
            if suspects is not None:
                suspect &= suspects[number]
            rows = np.flatnonzero(suspect)
            runs = runs_of(_texts(batch.take(pa.array(rows))))
            hit = np.unique(rows[runs.texts[unwanted.find(runs.hashes)[0]]])
            out.append_batch(_replaced(batch, hit, split, unwanted, done) if len(hit) else batch)
    new.replace(file)


def _replaced(
    batch: "pa.RecordBatch", hit: np.ndarray, split: SplitName, unwanted: Lookup, done: Decontaminated
) -> "pa.RecordBatch":
    """The batch with what is left of the rows that are hit, in their places."""
    import pyarrow as pa

    new: list[dict[str, Any]] = []
    pieces = np.ones(batch.num_rows, np.int64)  # rows that each row becomes
    for number, row in zip(hit.tolist(), batch.take(pa.array(hit)).to_pylist(), strict=True):
        excise = _excise_dialogue if row["messages"] else _excise_block
        left = list(excise(row, split, unwanted, done))
        pieces[number] = len(left)
        new += left
    is_hit = _marked(hit, batch.num_rows)
    from_new = np.repeat(is_hit, pieces)  # (rows of the result,)
    place = np.where(from_new, np.cumsum(from_new) - 1, len(new) + np.cumsum(~from_new) - 1)
    same = batch.filter(pa.array(~is_hit))
    return pa.concat_batches([pa.RecordBatch.from_pylist(new, batch.schema), same]).take(pa.array(place))


def _excise_block(
    row: dict[str, Any], split: SplitName, unwanted: Lookup, done: Decontaminated
) -> Iterator[dict[str, Any]]:
    text, gone = excise_block(row["text"], unwanted)
    loss = done.loss(Where("books", row["source"], split))
    loss.removed[STANDS_IN_HELD_OUT if text else REST_OF_BLOCK] += len(row["text"]) - len(text)
    loss.counts["sentences" if text else "blocks"] += len(gone)
    done.examples += [(row["work"], one) for one in gone[: EXAMPLES - len(done.examples)]]
    if text:
        yield {**row, "text": text}
    else:
        loss.rows -= 1


def _excise_dialogue(
    row: dict[str, Any], split: SplitName, unwanted: Lookup, done: Decontaminated
) -> Iterator[dict[str, Any]]:
    turns = [Message(turn["role"], turn["content"]) for turn in row["messages"]]
    cut = cut_conversation(turns, unwanted)
    loss = done.loss(Where("dialogues", row["source"], split))
    left = sum(len(turn.content) for piece in cut.pieces for turn in piece)
    reason = STANDS_IN_HELD_OUT if split == _TRAIN else STANDS_IN_TRAIN
    loss.removed[reason] += sum(len(turn.content) for turn in turns) + cut.copied - left
    if cut.copied:
        loss.added["copies of a system turn"] += cut.copied
    loss.counts["exchanges"] += cut.exchanges
    loss.counts["system turns"] += cut.system_turns
    loss.counts["conversations"] += not cut.pieces
    loss.rows += len(cut.pieces) - 1
    for number, piece in enumerate(cut.pieces, start=1):
        id_ = row["id"] if len(cut.pieces) == 1 else f"{row['id']}#{number}"
        yield {**row, "id": id_, "messages": [{"role": turn.role, "content": turn.content} for turn in piece]}
