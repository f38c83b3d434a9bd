"""Counts what train shares with validation and test: runs of 13 words.

`shared_runs` is the measure of the split receipt. It judges what decontamination did, so it finds and hashes words in
its own plain way.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from shridhar_ft.data.measure import KINDS, Kind
from shridhar_ft.data.rows import read_split
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.words import words_of

RUN = 13  # words: GPT-3's measure of contamination (Brown et al. 2020, appendix C)
BATCH_RUNS = 1 << 17

_WORD = re.compile(r"\w+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no bit of a word's hash is lost: 2**64 / golden ratio


class Runs(NamedTuple):
    """The 13-word runs of some texts; none of them reaches from one text into the next."""

    hashes: np.ndarray
    """uint64, (runs,)."""
    texts: np.ndarray
    """Number of the text that each run stands in; (runs,)."""


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
            held[kind, split] = _distinct(batches) if batches else np.empty(0, np.uint64)
    seen = {name: np.zeros(len(runs), bool) for name, runs in held.items()}
    for kind in KINDS:
        for batch in _run_batches(_texts(folder / SPLITS[0], kind)):
            for name, runs in held.items():
                seen[name][_places(runs, batch)] = True
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
    return window_hashes(words_of([text]).hashes, RUN)


def runs_of(texts: Sequence[str]) -> Runs:
    """The runs of many texts at once: for short texts several times as fast as `run_hashes` of each."""
    words = words_of(texts)
    hashes = window_hashes(words.hashes, RUN)
    of_word = np.repeat(np.arange(len(texts)), np.diff(words.bounds))
    inside = of_word[: len(hashes)] == of_word[RUN - 1 :] if len(hashes) else np.empty(0, bool)
    return Runs(hashes[inside], of_word[: len(hashes)][inside])


def window_hashes(words: np.ndarray, length: int) -> np.ndarray:
    """Hashes of all windows of so many words.

    Args:
        words: Hashes of words, uint64, (words,).
        length: Words in a window.

    Returns:
        uint64 of shape (words - length + 1,), empty where there are fewer words.
    """
    count = max(0, len(words) - length + 1)
    windows = np.zeros(count, np.uint64)
    for shift in range(length):
        windows *= np.uint64(_MULTIPLIER)  # modulo 2**64
        windows += words[shift : shift + count]
    return windows


def _run_batches(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Run hashes of the texts, in sorted arrays of about a hundred thousand, each distinct within itself."""
    waiting: list[np.ndarray] = []
    count = 0
    for text in texts:
        waiting.append(_plain_runs(text))
        count += len(waiting[-1])
        if count >= BATCH_RUNS:
            yield _distinct(waiting)
            waiting, count = [], 0
    if count:
        yield _distinct(waiting)


def _plain_runs(text: str) -> np.ndarray:
    """The runs of a text by a regular expression and a hash call a word: slower than `runs_of`, and no kin of it."""
    words = [xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())]
    return window_hashes(np.array(words, np.uint64), RUN)


def _distinct(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Their distinct values, sorted."""
    # np.unique hashes, which on a million random 64-bit numbers takes forty times as long as sorting.
    values = np.sort(np.concatenate(arrays))
    return values[np.diff(values, prepend=values[:1] ^ np.uint64(1)) != 0]


def _places(runs: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Indices of those of the sorted `runs` that stand in `batch`."""
    at = np.searchsorted(runs, batch)
    inside = at < len(runs)
    return at[inside][runs[at[inside]] == batch[inside]]


def _texts(split: Path, kind: Kind) -> Iterator[str]:
    """The blocks, or the dialogues with their turns one below the other."""
    for batch in read_split(split):
        if kind == "books":
            yield from filter(None, batch["text"].to_pylist())
        else:
            for messages in filter(None, batch["messages"].to_pylist()):
                yield "\n".join(message["content"] for message in messages)
