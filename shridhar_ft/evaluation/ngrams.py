"""Counts of the training text that floors are made from: words and pairs of words, and runs of characters.

Words stand for what needs no grammar, and balance pairs. Character n-grams give every text a probability, so that bits
per byte and losses have a floor: Witten and Bell's interpolation (1991, method C), from the longest context down to an
even choice among all characters of Unicode.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import log

from shridhar_ft.evaluation.texts import words

ADDED = 0.1  # to every count (Lidstone)
LONGEST = 6  # characters of a run
GRAMS = "character 6-grams of the training text"
MOST = 2_000_000  # characters that are counted: a few seconds; of longer texts each gives its share
UNICODE = 0x110000  # characters that there are


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


class CharacterGrams:
    """A model of characters, each by the five before it."""

    def __init__(self, texts: Sequence[str]) -> None:
        share = min(1.0, MOST / max(1, sum(map(len, texts))))
        self.counts: list[Counter[str]] = [Counter() for _ in range(LONGEST)]
        for text in (text[: round(share * len(text))] for text in texts):
            for before, counts in enumerate(self.counts):
                counts.update(text[at : at + before + 1] for at in range(len(text) - before))
        self.followers: list[dict[str, tuple[int, int]]] = [{} for _ in range(LONGEST)]
        """Of each context: how often something follows it, and how many characters do."""
        for counts, followers in zip(self.counts, self.followers, strict=True):
            for run, number in counts.items():
                often, kinds = followers.get(run[:-1], (0, 0))
                followers[run[:-1]] = (often + number, kinds + 1)

    def nats(self, text: str) -> float:
        """Negative log-likelihood of a text's characters (nats)."""
        found = 0.0
        for at in range(len(text)):
            chance = 1 / UNICODE
            for before in range(min(at, LONGEST - 1) + 1):
                context = text[at - before : at]
                if context not in self.followers[before]:
                    break
                often, kinds = self.followers[before][context]
                chance = (self.counts[before][context + text[at]] + kinds * chance) / (often + kinds)
            found -= log(chance)
        return found
