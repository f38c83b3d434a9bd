"""Measures the splits where they lie on disk: rows and characters by kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from shridhar_ft.data.histogram import Bins, Histogram
from shridhar_ft.data.rows import read_split
from shridhar_ft.data.split import SPLITS, SplitName

Kind = Literal["books", "dialogues"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Size(NamedTuple):
    """Rows and characters."""

    rows: int
    characters: int


def sizes(folder: Path) -> dict[Kind, dict[SplitName, Size]]:
    """Rows and characters of each kind and split, read from disk."""
    import pyarrow.compute as pc

    found: dict[Kind, dict[SplitName, Size]] = {"books": {}, "dialogues": {}}
    for split in SPLITS:
        rows = dialogues = text = said = 0
        for batch in read_split(folder / split):
            rows += batch.num_rows
            dialogues += pc.sum(pc.equal(batch["work"], "")).as_py() or 0
            text += pc.sum(pc.utf8_length(batch["text"])).as_py() or 0
            said += pc.sum(pc.utf8_length(batch["messages"].flatten().field("content"))).as_py() or 0
        found["books"][split] = Size(rows - dialogues, text)
        found["dialogues"][split] = Size(dialogues, said)
    return found


def histograms(folder: Path) -> dict[str, Bins]:
    """How long blocks and conversations are, in characters, and how many turns these have; read from disk."""
    import pyarrow.compute as pc

    counted = {name: Histogram() for name in ("block characters", "conversation characters", "turns per conversation")}
    for split in SPLITS:
        for batch in read_split(folder / split):
            blocks = batch.filter(pc.not_equal(batch["work"], ""))
            for length in pc.utf8_length(blocks["text"]).to_pylist():
                counted["block characters"].add(length)
            for messages in batch.filter(pc.equal(batch["work"], ""))["messages"].to_pylist():
                counted["conversation characters"].add(sum(len(message["content"]) for message in messages))
                counted["turns per conversation"].add(len(messages))
    return {name: histogram.as_dict() for name, histogram in counted.items()}


def shares(sizes_of_splits: Mapping[SplitName, Size]) -> dict[SplitName, float]:
    """Each split's share of the characters; zeros where there are none."""
    total = sum(size.characters for size in sizes_of_splits.values())
    return {name: size.characters / total if total else 0.0 for name, size in sizes_of_splits.items()}
