"""What a stage did not get to: the stretches of its documents whose windows were never read."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from shridhar_ft.data.windows import Encoded

if TYPE_CHECKING:
    from datasets import Dataset


def unread(documents: Iterable[Encoded], windows: "Dataset", read: np.ndarray) -> Iterator[Encoded]:
    """The unread stretches of documents, in their order; neighbouring ones are one stretch.

    Args:
        documents: The very documents that the windows were packed from.
        windows: Rows of `data/windows.py`.
        read: Whether each row was read, bool, (windows,).

    Yields:
        Stretches, `whole` only where nothing of the document was read.
    """
    pieces: dict[int, list[tuple[int, int]]] = {}
    for row in windows.select(np.flatnonzero(~read)).remove_columns(["input_ids", "labels"]):
        if not row["replayed"]:  # such a window holds nothing that no other does
            for document, start, length in zip(row["documents"], row["starts"], row["lengths"], strict=True):
                pieces.setdefault(document, []).append((start, start + length))
    for number, document in enumerate(documents):
        for start, stop in _joined(sorted(pieces.get(number, []))):
            whole = document.whole and (start, stop) == (0, len(document.ids))
            yield Encoded(document.ids[start:stop], document.learned[start:stop], whole)


def _joined(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Pieces in order, those that touch as one."""
    held: tuple[int, int] | None = None
    for start, stop in pieces:
        if held is not None and held[1] == start:
            held = (held[0], stop)
            continue
        if held is not None:
            yield held
        held = (start, stop)
    if held is not None:
        yield held
