"""Counts of words and of pairs of words in the training text: the floor of what needs no grammar, and for balance."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import log

from shridhar_ft.evaluation.texts import words

ADDED = 0.1  # to every count (Lidstone)


class Ngrams:
    """A unigram and a bigram model."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.one: Counter[str] = Counter()
        self.two: Counter[tuple[str, str]] = Counter()
        for text in texts:
            for line in text.split("\n"):
                found = ["", *words(line)]
                self.one.update(found)
                self.two.update(pairwise(found))
        self.total = sum(self.one.values())
        self.kinds = len(self.one) + 1

    def count(self, word: str) -> int:
        """How often a word stands in the text."""
        (found,) = words(word)[:1] or [""]
        return self.one[found]

    def unigram(self, sentence: str) -> float:
        """Log-probability of a sentence's words, each by itself (nats)."""
        below = log(self.total + ADDED * self.kinds)
        return sum(log(self.one[word] + ADDED) - below for word in words(sentence))

    def bigram(self, sentence: str) -> float:
        """Log-probability of a sentence's words, each after the one before it (nats)."""
        return self._pairs(["", *words(sentence)])

    def _pairs(self, found: Sequence[str]) -> float:
        return sum(
            log(self.two[left, right] + ADDED) - log(self.one[left] + ADDED * self.kinds)
            for left, right in pairwise(found)
        )
