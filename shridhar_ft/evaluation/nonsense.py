"""The author's words without sense: shuffled, or drawn pair by pair. A verifier that takes them says little."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from random import Random

SHUFFLED, BABBLED = "the author's words shuffled", "the author's word pairs babbled"


def shuffled(passage: str, draw: Random) -> str:
    """The words of a passage, their marks with them, in another order."""
    held = passage.split()
    draw.shuffle(held)
    return " ".join(held)


class Babble:
    """A chain of the words that follow one another in texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.after: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            for left, right in pairwise(text.split()):
                self.after[left].append(right)
        self.begin = list(self.after)

    def __call__(self, count: int, draw: Random) -> str:
        """So many words, each drawn as often as it follows the one before it."""
        said = [draw.choice(self.begin)]
        while len(said) < count:
            said.append(draw.choice(self.after.get(said[-1]) or self.begin))
        return " ".join(said)
