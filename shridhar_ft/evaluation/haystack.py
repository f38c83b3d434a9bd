"""Prose to hide needles in, measured in a model's own tokens; prompts that are proved to fit."""

from random import Random

from shridhar_ft.evaluation.materials import Text, Unmeasured
from shridhar_ft.evaluation.needles import Question, placed
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.texts import sentences


class Haystack:
    """Sentences of real prose with their numbers of tokens."""

    def __init__(self, texts: list[Text], reader: Reader) -> None:
        self.reader = reader
        self.units = [unit for text in texts for unit in _units(text.text)]
        self.tokens = [len(reader.encode(unit)) for unit in self.units]
        self.total = sum(self.tokens)

    def stretch(self, tokens: int, seed: int | str) -> list[str]:
        """Sentences that follow one another, of at most so many tokens; no sentence stands in it twice.

        Raises:
            Unmeasured: The prose is shorter.
        """
        left = self.total - tokens
        if left < 0:
            raise Unmeasured(
                f"a prompt needs {tokens:,} tokens of prose and there are {self.total:,}; name a longer eval.long_text"
            )
        skip = Random(f"stretch/{seed}").randint(0, left)
        begin = 0
        while skip >= self.tokens[begin]:
            skip -= self.tokens[begin]
            begin += 1
        end, held = begin, 0
        while end < len(self.units) and held + self.tokens[end] <= tokens:
            held += self.tokens[end]
            end += 1
        return self.units[begin:end]

    def prompt(
        self, facts: Question, length: int, depth: float, seed: int | str, answer_tokens: int, with_answer: bool = True
    ) -> list[int]:
        """A prompt whose tokens and those of its answer are at most `length`, and fewer by less than a sentence.

        Args:
            facts: What is hidden and asked.
            length: Tokens of prompt and answer.
            depth: Where, from 0 to 1.
            seed: Of the stretch and the places.
            answer_tokens: Room that the answer takes.
            with_answer: Whether the facts that lead to the answer stand in it.

        Raises:
            Unmeasured: The prose is shorter, or the facts take more than half of the length.
        """
        said = [*facts.chain, *facts.beside, facts.ask]
        own = len(self.reader.opening) + answer_tokens + sum(len(self.reader.encode(f"{part} ")) for part in said)
        if own > length // 2:
            raise Unmeasured(f"the facts and the question alone take {own} of {length} tokens; set longer lengths")
        units = self.stretch(length - own, seed)
        ids = self._ids(units, facts, depth, seed, with_answer)
        while len(ids) + answer_tokens > length and units:  # sentences joined can have more tokens than apart
            units = units[:-1]
            ids = self._ids(units, facts, depth, seed, with_answer)
        assert len(ids) + answer_tokens <= length <= self.reader.window, "a prompt that does not fit"
        return ids

    def _ids(self, units: list[str], facts: Question, depth: float, seed: int | str, with_answer: bool) -> list[int]:
        text = placed(units, facts, depth, seed, with_answer) + facts.ask
        return [*self.reader.opening, *self.reader.encode(text)]


def _units(text: str) -> list[str]:
    """Sentences with the space or line end behind each."""
    found = []
    for line in text.split("\n"):
        parts = sentences(line)
        found += [f"{part} " for part in parts[:-1]] + [f"{part}\n" for part in parts[-1:]]
    return found
