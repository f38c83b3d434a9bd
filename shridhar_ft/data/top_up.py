"""Moves conversations from train to held-out splits that decontamination left short of their share."""

from collections.abc import Mapping
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from shridhar_ft import config_data
from shridhar_ft.data.rows import RowStream, read_stream
from shridhar_ft.data.split import SPLITS, SplitName

if TYPE_CHECKING:
    import pyarrow as pa

SLACK = 0.01  # of all characters: by less than this a split may be short
STEP = 0.01  # of train: shares that move are whole steps, so that a little more text moves the same conversations
CAUTION = 0.8  # of what is short is moved at once: what moves takes more out of train, and nothing moves back

Characters = dict[SplitName, int]
_TRAIN, *_HELD_OUT = SPLITS


class Moved(NamedTuple):
    """Conversations that went from train to a held-out split."""

    split: SplitName
    conversations: int
    characters: int


def characters_of(files: Mapping[SplitName, Path]) -> Characters:
    """Characters of the dialogues of each stream."""
    return {name: sum(map(characters_in, read_stream(file))) for name, file in files.items()}


def characters_in(batch: "pa.RecordBatch") -> int:
    """Characters of the dialogues of a batch."""
    import pyarrow.compute as pc

    return pc.sum(pc.utf8_length(batch["messages"].flatten().field("content"))).as_py() or 0


def are_dialogues(batch: "pa.RecordBatch") -> np.ndarray:
    """Which rows are dialogues; bool, (rows,)."""
    import pyarrow.compute as pc

    return pc.greater(pc.list_value_length(batch["messages"]), 0).to_numpy(zero_copy_only=False)


def shares_to_move(left: Characters, drawn: Characters, split: config_data.Split) -> dict[SplitName, float]:
    """Shares of train's dialogues that held-out splits need to have what was asked, if no more of these is left of
    them than of those that were drawn before.

    Args:
        left: Characters that each split holds now.
        drawn: Characters that were drawn for each, before decontamination took some of them.
        split: What was asked.

    Returns:
        Nothing if no split is short.
    """
    held, total = sum(left[name] for name in _HELD_OUT), sum(left.values())
    # What the draw itself left short of a share, as it must where conversations are few, is not made up for.
    asked = {name: min(getattr(split, name), drawn[name] / max(1, sum(drawn.values()))) for name in _HELD_OUT}
    if not held or not left[_TRAIN] or all(left[name] >= (asked[name] - SLACK) * total for name in _HELD_OUT):
        return {}
    stays = held / sum(drawn[name] for name in _HELD_OUT)
    share = sum(asked.values())
    # held + stays * moved = share * (total - (1 - stays) * moved)
    moved = (share * total - held) / (stays + share * (1 - stays))
    total -= round((1 - stays) * moved)
    wanted = {name: max(0.0, (asked[name] * total - left[name]) / stays / left[_TRAIN]) for name in _HELD_OUT}
    caution = min(CAUTION, 0.5 / sum(wanted.values()))  # at most half of train
    return {name: ceil(caution * part / STEP) * STEP for name, part in wanted.items()}


def top_up(files: Mapping[SplitName, Path], drawn: Characters, split: config_data.Split, attempt: int) -> list[Moved]:
    """Move conversations from train to the end of held-out splits that are short, those with the lowest hashes.

    Args:
        files: The streams; rewritten if something moves.
        drawn: Characters of dialogues that were drawn for each split.
        split: What was asked, and the seed.
        attempt: Number of the attempt; each hashes anew.

    Returns:
        What was moved, nothing if no split is short.
    """
    import pyarrow as pa

    shares = shares_to_move(characters_of(files), drawn, split)
    if not any(shares.values()):
        return []
    edges = np.cumsum([shares[name] for name in _HELD_OUT])
    new = {name: file.with_suffix(".new") for name, file in files.items()}
    moved = {name: Moved(name, 0, 0) for name in _HELD_OUT}
    with ExitStack() as stack:
        streams = {name: stack.enter_context(RowStream(file)) for name, file in new.items()}
        for name in _HELD_OUT:
            for batch in read_stream(files[name]):
                streams[name].append_batch(batch)
        for batch in read_stream(files[_TRAIN]):
            places = _places(batch, split.seed, attempt)
            goes = np.where(are_dialogues(batch), np.searchsorted(edges, places, side="right"), len(edges))
            for number, name in enumerate((*_HELD_OUT, _TRAIN)):
                going = batch.filter(pa.array(goes == number))
                streams[name].append_batch(going)
                if name != _TRAIN:
                    before = moved[name]
                    rows, size = before.conversations + going.num_rows, before.characters + characters_in(going)
                    moved[name] = Moved(name, rows, size)
    for name, file in new.items():
        file.replace(files[name])
    return list(moved.values())


def _places(batch: "pa.RecordBatch", seed: int, attempt: int) -> np.ndarray:
    """A place in the unit interval for each row, which hangs on the row alone."""
    rows = zip(batch["source"].to_pylist(), batch["id"].to_pylist(), strict=True)
    keys = ("\x1f".join((str(seed), f"top-up {attempt}", *row)) for row in rows)
    return np.array([xxhash.xxh3_64_intdigest(key.encode()) / 2**64 for key in keys])
