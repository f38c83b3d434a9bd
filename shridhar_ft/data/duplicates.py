"""Finds what stood before: passages of books and whole conversations, word for word or nearly so.

Words are compared without case and punctuation. A passage of a book is a paragraph; it stood before

- exactly, if a paragraph of the same words was kept, or each of its runs of 13 words stands in text that was kept:
  so a quotation is found inside a longer paragraph, and with other line breaks;
- nearly, if its runs of five words are those of one earlier paragraph to the share that `threshold` asks (MinHash),
  or that share of its runs of 13 words stands in text that was kept.

Runs of 13 words are kept as 8 bytes each, signatures as about 2 KB a passage or conversation.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import xxhash

from shridhar_ft import config_data
from shridhar_ft.data.hashset import HashSet
from shridhar_ft.data.lines import without_lines
from shridhar_ft.data.minhash import Signatures, signature
from shridhar_ft.data.overlap import RUN, runs_of, window_hashes
from shridhar_ft.data.passages import passages_of
from shridhar_ft.data.records import Message
from shridhar_ft.data.words import words_of

SHINGLE = 5  # words
EXAMPLES = 10  # removed passages of each reason that are shown

Reason = Literal["duplicate", "near-duplicate"]


@dataclass(frozen=True)
class Repeats:
    """What was taken out of the blocks of a work."""

    removed: Counter[str] = field(default_factory=Counter)
    """Characters by reason; the line ends around the passages have one of their own."""
    passages: Counter[str] = field(default_factory=Counter)
    """Passages by reason."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """A few of the passages, by reason."""


class DuplicateFinder:
    """Passages and conversations seen so far; of several copies the one that comes first stays."""

    def __init__(self, settings: config_data.Duplicates) -> None:
        self._settings = settings
        self._passages = _Seen(settings)
        self._conversations = _Seen(settings)
        self._runs = HashSet()

    def without_repeats(self, blocks: Sequence[str]) -> tuple[list[str], Repeats]:
        """Take passages that stood before, in this work or in one before, out of the blocks of a work.

        Passages shorter than `min_words` stay, and so do headings and refrains.

        Args:
            blocks: The blocks of one work, in reading order.

        Returns:
            As many blocks, some of them shorter or empty, and what went.
        """
        if not (self._settings.exact or self._settings.near):
            return list(blocks), Repeats()
        lines = [block.split("\n") for block in blocks]
        passages = passages_of(lines)
        texts = ["\n".join(lines[p.block][p.first : p.end]) for p in passages]
        dropped: list[set[int]] = [set() for _ in blocks]
        repeats = Repeats()
        for passage, text, reason in zip(passages, texts, self._reasons(texts), strict=True):
            if reason:
                dropped[passage.block].update(range(passage.first, passage.end))
                name = f"{reason} passages"
                repeats.removed[name] += len(text)
                repeats.passages[name] += 1
                if len(repeats.examples.setdefault(name, [])) < EXAMPLES:
                    repeats.examples[name].append(text)
        kept = [without_lines(*each) if each[1] else "\n".join(each[0]) for each in zip(lines, dropped, strict=True)]
        kept = [block if block.strip() else "" for block in kept]
        between = sum(map(len, blocks)) - sum(map(len, kept)) - repeats.removed.total()
        if between:
            repeats.removed["line ends around dropped passages"] = between
        self._runs.add(runs_of(kept).hashes)
        return kept, repeats

    def of_conversation(self, messages: Sequence[Message]) -> Reason | None:
        """Whether the conversation stood before; if not, it has from now on.

        Exact means the same turns, however short: it could be drawn for train and for test. Near ones, of `min_words`
        or more, are compared by all their words, whoever said them.
        """
        words = words_of([message.content for message in messages])
        turns = "\n".join(
            f"{message.role} {length}" for message, length in zip(messages, np.diff(words.bounds), strict=True)
        )
        return self._conversations.reason(words.hashes, turns)

    def _reasons(self, passages: Sequence[str]) -> list[Reason | None]:
        """Why each of the passages goes, or None."""
        words = words_of(passages)
        runs = window_hashes(words.hashes, RUN)
        before = self._runs.holds(runs)
        here: set[int] = set()  # runs of the passages of this work that stay
        reasons: list[Reason | None] = []
        for first, end in zip(words.bounds[:-1].tolist(), words.bounds[1:].tolist(), strict=True):
            if end - first < self._settings.min_words:
                reasons.append(None)
                continue
            own = slice(first, max(first, end - RUN + 1))
            listed = runs[own].tolist()
            known = [old or run in here for old, run in zip(before[own].tolist(), listed, strict=True)]
            share = sum(known) / len(known) if known else 0.0
            reason = self._of_share(share) or self._passages.reason(words.hashes[first:end])
            if reason is None:
                here.update(listed)
            reasons.append(reason)
        return reasons

    def _of_share(self, share: float) -> Reason | None:
        if share == 1 and self._settings.exact:
            return "duplicate"
        return "near-duplicate" if share >= self._settings.threshold and self._settings.near else None


class _Seen:
    """Texts seen so far, as hashes of all their words and as signatures."""

    def __init__(self, settings: config_data.Duplicates) -> None:
        self._fewest = settings.min_words  # for near ones
        self._exact: set[int] | None = set() if settings.exact else None
        self._near = Signatures(settings.threshold) if settings.near else None

    def reason(self, words: np.ndarray, form: str = "") -> Reason | None:
        """Whether such a text was seen; if not, it is from now on.

        Args:
            words: Hashes of its words, uint64, (words,).
            form: What else must be equal in an exact duplicate.
        """
        if self._exact is not None:
            key = xxhash.xxh3_64_intdigest(words.tobytes() + form.encode())
            if key in self._exact:
                return "duplicate"
            self._exact.add(key)
        if len(words) < self._fewest:
            return None
        if self._near and self._near.find_or_add(signature(window_hashes(words, SHINGLE))):
            return "near-duplicate"
        return None
