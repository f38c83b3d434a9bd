"""Reads a finished split back: whole, work by work, or conversation by conversation."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import PART, Run

if TYPE_CHECKING:
    import datasets


class Block(NamedTuple):
    """A stretch of a work that the split drew as one."""

    number: int
    """Its place in the work; a number that is missing between two blocks is text that this split does not have."""
    chapter: str
    """Title of the chapter that it begins in; empty where there is none."""
    text: str


class Work(NamedTuple):
    """What a split holds of one book."""

    name: str
    author: str
    """Empty where nobody says it."""
    blocks: list[Block]
    """In reading order."""

    @property
    def text(self) -> str:
        """All of it, one block a paragraph, whatever is missing between them."""
        return "\n".join(block.text for block in self.blocks)

    def stretches(self) -> list[str]:
        """Its text in pieces that run on without a gap."""
        return ["\n".join(block.text for block in run) for run in _runs(self.blocks)]

    def chapters(self) -> list[str]:
        """Its chapters; one with a gap in it counts as two, since the text on both sides does not run on."""
        of_chapters = (of_one for run in _runs(self.blocks) for _, of_one in groupby(run, key=attrgetter("chapter")))
        return ["\n".join(block.text for block in of_one) for of_one in of_chapters]


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks whose numbers follow one another."""
    by_lag = groupby(enumerate(blocks), key=lambda pair: pair[1].number - pair[0])
    return ([block for _, block in run] for _, run in by_lag)


def load_split(run: Run, split: SplitName) -> "datasets.Dataset":
    """One split of a run's data, memory-mapped.

    Args:
        run: The run.
        split: train, validation or test.

    Returns:
        Rows with the columns of `data/rows.py`: blocks of books first, works in reading order, then dialogues. It may
        be empty.

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


def works(dataset: "datasets.Dataset") -> Iterator[Work]:
    """The books of a split, one in memory at a time.

    Args:
        dataset: What `load_split` returned.

    Yields:
        Works with their blocks in reading order.
    """
    rows = (row for row in dataset.select_columns(["work", "id", "author", "chapter", "text"]) if row["work"])
    for name, of_work in groupby(rows, key=itemgetter("work")):
        held = list(of_work)
        blocks = [Block(int(row["id"].rpartition("/")[2]), row["chapter"], row["text"]) for row in held]
        yield Work(name, held[0]["author"], blocks)


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
