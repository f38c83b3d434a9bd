"""Dialogue: loss on the assistant's words, and what the model answers: language, end, repetition, length.

Swapped answers are the floor of the loss: another conversation's answer to the same prompt must cost more. What the
real answers score on the same measures is the ceiling of the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import NO_BEST_ANSWER
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, ratio, total
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.evaluation.texts import words

RUN = 4  # words: a run of so many that stands twice in an answer is a repetition
FEWEST = 4


class Settings(Section):
    """Of `dialogue`."""

    conversations: int = Field(40, ge=2)
    """Held-out conversations; the last answer of each is measured."""
    answer_tokens: int = Field(120, ge=8)
    """Longest answer (tokens); one that is not ended by then counts as not stopping."""


class Dialogue:
    """Scores the true and a swapped last answer, and lets the model answer, greedily."""

    batch, version = 1, 2

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        ready = [m for m in self.materials.dialogues if m[-1]["role"] == "assistant" and m[-1]["content"].strip()]
        if len(ready) < FEWEST:
            raise Unmeasured(f"the run holds {len(ready)} held-out conversations, fewer than {FEWEST}")
        if reader.conversation(ready[0][:-1]) is None:
            raise Unmeasured("the model has no chat template: it was not taught to talk")
        if not reader.closing():
            self.notes.append("the chat template closes an answer with no token that ends one: its end is not scored")
        chosen = Random(f"dialogue/{self.seed}").sample(range(len(ready)), min(self.settings.conversations, len(ready)))
        found = []
        for place, index in enumerate(chosen):
            prompt = reader.conversation(ready[index][:-1]) or []
            answer = ready[index][-1]["content"]
            swapped = ready[chosen[(place + 1) % len(chosen)]][-1]["content"]
            longest = max(len(reader.encode(text)) for text in (answer, swapped))
            if len(prompt) + max(longest + 1, self.settings.answer_tokens) <= reader.window:
                found.append({"key": str(index), "prompt": prompt, "answer": answer, "swapped": swapped})
        if len(found) < FEWEST:
            raise Unmeasured(f"{len(found)} conversations fit into the window of {reader.window:,} tokens")
        return found

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        end = reader.closing()
        for item in items:
            reader.read(item["prompt"])
            true, swapped = ([*reader.encode(item[which].strip()), *end] for which in ("answer", "swapped"))
            said = reader.go_on(self.settings.answer_tokens)
            text = reader.decode(said)
            yield {
                "key": item["key"],
                "nats": float(reader.after(true).sum()),
                "tokens": len(true),
                "swapped_nats": float(reader.after(swapped).sum()),
                "swapped_tokens": len(swapped),
                "said": text,
                "words": len(words(text)),
                "true_words": len(words(item["answer"])),
                "stopped": float(len(said) < self.settings.answer_tokens),
                "language": same_language(text, item["answer"]),
                "repeated": repeated(text),
                "true_repeated": repeated(item["answer"]),
            }

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        return [
            Measure("loss on the assistant's words", _loss, total("loss"), "nats a token", False),
            Measure("true answer likelier than a swapped one", _preferred, total("won")),
            Measure("answers end by themselves", _of("stopped"), total("stopped")),
            Measure("answers in the right language", _of("language"), total("language")),
            Measure("repeated runs of 4 words", _of("repeated"), total("repeated"), "share of runs", False),
            Measure("length ÷ true length", _length, lambda s: ratio(s["said"], s["true"]), "ratio", None),
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        loss = found["loss on the assistant's words"]
        loss.floor = sum(r["swapped_nats"] for r in records) / sum(r["swapped_tokens"] for r in records)
        loss.floor_of = "another conversation's answer"
        loss.ceiling_of = NO_BEST_ANSWER
        won = found["true answer likelier than a swapped one"]
        won.floor, won.floor_of = 0.5, "chance"
        won.ceiling, won.ceiling_of = 1.0, "every one; stock answers fit many prompts, so it is not reached"
        ends, language = found["answers end by themselves"], found["answers in the right language"]
        for one in (ends, language):
            one.floor, one.floor_of = 0.0, "none"
            one.ceiling, one.ceiling_of = 1.0, "the true answers"
        runs = found["repeated runs of 4 words"]
        runs.floor, runs.floor_of = 1.0, "one phrase over and over"
        runs.ceiling, runs.ceiling_of = sum(r["true_repeated"] for r in records) / len(records), "the true answers"
        length = found["length ÷ true length"]
        length.ceiling, length.ceiling_of = 1.0, "the true answers"
        length.floor, length.floor_of = 0.0, "nothing said"
        return {"notes": self.notes}


def repeated(text: str) -> float:
    """Share of the runs of four words of a text that stood in it before; 0 for fewer than five words."""
    found = words(text)
    runs = [tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0


def same_language(said: str, true: str) -> float:
    """1 where most letters are of the alphabet that most letters of the true answer are of; 0 for no letters."""
    return float(_script(said) is not None and _script(said) == _script(true))


def _script(text: str) -> str | None:
    cyrillic = sum("а" <= letter <= "я" or letter == "ё" for letter in text.lower())
    latin = sum("a" <= letter <= "z" for letter in text.lower())
    return None if cyrillic + latin == 0 else "Cyrillic" if cyrillic > latin else "Latin"


def _loss(record: Record) -> dict[str, float]:
    return {"loss/sum": record["nats"], "loss/n": record["tokens"]}


def _preferred(record: Record) -> dict[str, float]:
    better = record["nats"] / record["tokens"] < record["swapped_nats"] / record["swapped_tokens"]
    return {"won/sum": float(better), "won/n": 1.0}


def _length(record: Record) -> dict[str, float]:
    return {"said": record["words"], "true": record["true_words"]}


def _of(key: str) -> Callable[[Record], dict[str, float]]:
    return lambda record: {f"{key}/sum": record[key], f"{key}/n": 1.0}


def make(settings: Settings, materials: Materials, seed: int) -> Dialogue:
    """The task."""
    return Dialogue(settings, materials, seed)
