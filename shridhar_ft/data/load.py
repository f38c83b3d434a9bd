"""Reads a finished split back: whole, work by work, or conversation by conversation."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import PART, Run

if TYPE_CHECKING:
    import datasets


def load_split(run: Run, split: SplitName) -> "datasets.Dataset":
    """One split of a run's data, memory-mapped.

    Args:
        run: The run.
        split: train, validation or test.

    Returns:
        Rows with the columns source, id, work, text, messages: blocks of books first, works in reading order, then
        dialogues. It may be empty.

    Raises:
        UserError: The run's data is not built.
    """
    assert split in SPLITS, split
    if not (run.data / PART).is_file():
        raise UserError(f"{run.data}: the data is not built; build it with `shridhar-ft data build RECIPE`")
    import datasets

    loaded = datasets.load_from_disk(str(run.data / split))
    assert isinstance(loaded, datasets.Dataset)
    return loaded


def works(dataset: "datasets.Dataset") -> Iterator[tuple[str, list[str]]]:
    """The books of a split.

    Args:
        dataset: What `load_split` returned.

    Returns:
        Each work's name and its blocks in reading order; blocks that the split gave elsewhere are missing between
        them.
    """
    blocks = (row for row in dataset.select_columns(["work", "text"]) if row["work"])
    for work, rows in groupby(blocks, key=itemgetter("work")):
        yield work, [row["text"] for row in rows]


def conversations(dataset: "datasets.Dataset") -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The dialogues of a split.

    Args:
        dataset: What `load_split` returned.

    Returns:
        Each dialogue's id and its messages, as chat templates take them.
    """
    for row in dataset.select_columns(["id", "messages"]):
        if row["messages"]:
            yield row["id"], row["messages"]
