"""Measures the splits where they lie: rows and characters by kind, and the 13-word runs that train shares."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import xxhash

from shridhar_ft.data.split import SPLITS, SplitName

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["books", "dialogues"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RUN = 13  # words: GPT-3's measure of contamination (Brown et al. 2020, appendix C)
BATCH_RUNS = 1 << 20

_WORD = re.compile(r"[\w\u0300-\u036f]+")  # a combining mark ends no word
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no bit of a word's hash is lost: 2**64 / golden ratio


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
        for batch in _batches(folder / split):
            rows += batch.num_rows
            dialogues += pc.sum(pc.equal(batch["work"], "")).as_py() or 0
            text += pc.sum(pc.utf8_length(batch["text"])).as_py() or 0
            said += pc.sum(pc.utf8_length(batch["messages"].flatten().field("content"))).as_py() or 0
        found["books"][split] = Size(rows - dialogues, text)
        found["dialogues"][split] = Size(dialogues, said)
    return found


def shared_runs(folder: Path) -> dict[Kind, dict[SplitName, dict[str, int]]]:
    """Distinct 13-word runs of validation and test, and how many of them stand anywhere in train.

    Words are compared in lower case and without punctuation. The runs of the held-out splits are kept, 8 bytes
    each; train streams past them.

    Returns:
        By kind and split: `runs` and `in_train`.
    """
    held: dict[tuple[Kind, SplitName], np.ndarray] = {}
    for split in SPLITS[1:]:
        for kind in KINDS:
            batches = list(_run_batches(_texts(folder / split, kind)))
            held[kind, split] = np.unique(np.concatenate(batches)) if batches else np.empty(0, np.uint64)
    seen = {name: np.zeros(len(runs), bool) for name, runs in held.items()}
    for kind in KINDS:
        for batch in _run_batches(_texts(folder / SPLITS[0], kind)):
            for name, runs in held.items():
                seen[name] |= np.isin(runs, batch)
    found: dict[Kind, dict[SplitName, dict[str, int]]] = {"books": {}, "dialogues": {}}
    for (kind, split), runs in held.items():
        found[kind][split] = {"runs": len(runs), "in_train": int(seen[kind, split].sum())}
    return found


def run_hashes(text: str) -> np.ndarray:
    """Hashes of all runs of 13 words of a text.

    Args:
        text: Any text.

    Returns:
        uint64 of shape (words - 12,), empty for a shorter text.
    """
    words = [xxhash.xxh3_64_intdigest(word.encode()) for word in _WORD.findall(text.lower())]
    count = len(words) - RUN + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    hashes = np.array(words, np.uint64)  # (words,)
    runs = np.zeros(count, np.uint64)
    for shift in range(RUN):
        runs = runs * np.uint64(_MULTIPLIER) + hashes[shift : shift + count]  # modulo 2**64
    return runs


def _run_batches(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Distinct run hashes of the texts, in arrays of about a million."""
    waiting: list[np.ndarray] = []
    count = 0
    for text in texts:
        waiting.append(run_hashes(text))
        count += len(waiting[-1])
        if count >= BATCH_RUNS:
            yield np.unique(np.concatenate(waiting))
            waiting, count = [], 0
    if count:
        yield np.unique(np.concatenate(waiting))


def _texts(split: Path, kind: Kind) -> Iterator[str]:
    """The blocks, or the dialogues with their turns one below the other."""
    for batch in _batches(split):
        if kind == "books":
            yield from filter(None, batch["text"].to_pylist())
        else:
            for messages in filter(None, batch["messages"].to_pylist()):
                yield "\n".join(message["content"] for message in messages)


def _batches(split: Path) -> Iterator["pa.RecordBatch"]:
    import datasets

    yield from datasets.load_from_disk(str(split)).data.to_batches()


def shares(sizes_of_splits: Mapping[SplitName, Size]) -> dict[SplitName, float]:
    """Each split's share of the characters; zeros where there are none."""
    total = sum(size.characters for size in sizes_of_splits.values())
    return {name: size.characters / total if total else 0.0 for name, size in sizes_of_splits.items()}
