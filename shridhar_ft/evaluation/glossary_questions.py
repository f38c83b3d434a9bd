"""Glossary questions: which of four terms a definition is of, and which of four definitions a term has.

A choice is scored by its own text, so that a base without instructions can answer: log p(text after the question) −
log p(text after a question that names nothing). The difference is what the question adds, whatever the text's length
and whatever is likely anywhere (PMI; Brown et al. 2020, Holtzman et al. 2021). Letters would measure whether a model
knows the form of a quiz. Before the question stand the four choices in four orders, each choice once in each place; an
item's share right is the mean over the orders, so that a liking for a place earns a quarter. The rivals are alike:
terms near in frequency in the training text, definitions near in length. Floors: chance; words that definition and
choice share; the base model. Ceiling: the same with the definition of the term standing before the question.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.materials import Materials, Term, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, mean_of, total
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.evaluation.texts import words

CHOICES = 4
FEWEST = 20  # terms with definitions
ENOUGH = 200  # below that an interval is wider than ±5 %
NEAREST = 12  # terms that rivals are drawn from
STEM = 5  # letters that two forms of a word share: what overlap counts by
WAYS = {"term": "definition → term", "definition": "term → definition"}
HEADS = {"term": ("Термины: ", ", "), "definition": ("Определения: ", "; ")}
ASKS = {"term": "{definition} — вот определение термина", "definition": "Вот определение термина «{term}»:"}
NOTHING = {"term": "Вот определение термина", "definition": "Вот определение термина:"}
"""The question without what is asked: what a choice is worth anywhere."""


class Settings(Section):
    """Of `glossary_questions`."""

    terms: int = Field(200, ge=CHOICES)
    """Most terms that are asked for, each in both directions and four orders."""


class GlossaryQuestions:
    """Scores the four choices of each question with it, without it, and with the definition before it."""

    batch, version = 4, 1

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        known = defined(self.materials.glossary)
        if not known:
            raise Unmeasured("no glossary with definitions; name one with eval.glossary, a `term — definition` a line")
        if len(known) < FEWEST:
            raise Unmeasured(f"the glossary defines {len(known)} terms, fewer than {FEWEST}")
        counts = frequencies(known, self.materials)
        draw = Random(f"glossary/{self.seed}")
        asked = draw.sample(known, min(self.settings.terms, len(known)))
        if len(asked) < ENOUGH:
            self.notes.append(f"only {len(asked)} terms are asked for: below {ENOUGH} an interval is wider than ±5 %")
        return [self._item(term, way, known, counts, draw) for term in asked for way in WAYS]

    def _item(self, term: Term, way: str, known: Sequence[Term], counts: Mapping[str, int], draw: Random) -> Item:
        choices = [term, *_rivals(term, way, known, counts, draw)]
        return {
            "key": f"{way}/{term.term}",
            "way": way,
            "cluster": term.term,
            "choices": [one.term if way == "term" else one.definition for one in choices],
            "question": ASKS[way].format(**term._asdict()),
            "open": f"{term.term} — {term.definition}.\n",
            "overlap": _by_overlap(choices, way),
            "first": draw.randrange(CHOICES),
        }

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        asked: list[tuple[str, str]] = []
        for item in items:
            for order in orders(item["first"]):
                head, mark = HEADS[item["way"]]
                listed = f"{head}{mark.join(item['choices'][place] for place in order)}.\n"
                for before in (item["question"], NOTHING[item["way"]]):
                    asked += [(listed + before, choice) for choice in item["choices"]]
                asked += [(item["open"] + listed + item["question"], choice) for choice in item["choices"]]
        nats = iter(after(reader, asked))
        for item in items:
            right = {"right": 0.0, "open": 0.0, "plain": 0.0}
            margins = []
            for _ in orders(item["first"]):
                with_it, without, opened = (np.array([next(nats) for _ in range(CHOICES)]) for _ in range(3))
                gains = without - with_it
                right["right"] += float(gains.argmax() == 0) / CHOICES
                right["open"] += float((without - opened).argmax() == 0) / CHOICES
                right["plain"] += float(with_it.argmin() == 0) / CHOICES
                margins.append(float(gains[0] - gains[1:].max()))
            yield {
                **{key: item[key] for key in ("key", "way", "cluster", "overlap")},
                **right,
                "margin": float(np.mean(margins)),
            }

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        there = {record["way"] for record in records}
        return [
            Measure(f"glossary: {says}", lambda record, way=way: _right(record, way), total("right"))  # type: ignore[misc]
            for way, says in WAYS.items()
            if way in there
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        details: dict[str, Any] = {"notes": self.notes}
        for way, says in WAYS.items():
            one = found.get(f"glossary: {says}")
            if one is None:
                continue
            ours, theirs = ([r for r in side if r["way"] == way] for side in (records, base))
            floors = {"chance": 1 / CHOICES, "words that definition and term share": mean_of(ours, "overlap")}
            if theirs:
                floors["the base model"] = mean_of(theirs, "right")
            one.take_floor(floors)
            one.ceiling, one.ceiling_of = mean_of(ours, "open"), "the definition before the question"
            details[way] = {"floors": floors, "without subtracting the choice alone": mean_of(ours, "plain")}
        return details


def defined(glossary: Sequence[Term]) -> list[Term]:
    """Terms with a definition, each term and each definition once: the same one twice would have two right answers."""
    held: dict[str, Term] = {}
    definitions: set[str] = set()
    for term in glossary:
        plain = term.definition.strip().rstrip(".")
        if plain and term.term not in held and plain.lower() not in definitions:
            held[term.term] = Term(term.term, plain)
            definitions.add(plain.lower())
    return list(held.values())


def frequencies(terms: Sequence[Term], materials: Materials) -> dict[str, int]:
    """How often the words of each term stand in the training text: the rarest word's stem, so that forms count."""
    counts = Counter(word[:STEM] for text in materials.train for word in words(text.text))
    return {term.term: min((counts[word[:STEM]] for word in words(term.term)), default=0) for term in terms}


def orders(first: int) -> list[list[int]]:
    """Four orders of the choices in which each stands once in each place."""
    return [[(first + turn + place) % CHOICES for place in range(CHOICES)] for turn in range(CHOICES)]


def after(reader: Reader, asked: Sequence[tuple[str, str]]) -> list[float]:
    """Nats of each choice behind its question; the space before a choice counts as its own.

    Raises:
        Unmeasured: A question does not fit into the window.
    """
    pieces, kept = [], []
    for question, choice in asked:
        head, tail = reader.encode(question), reader.encode(f" {choice}")
        if len(reader.opening) + len(head) + len(tail) > reader.window:
            raise Unmeasured(
                f"a question has {len(head) + len(tail):,} tokens and the model's window {reader.window:,}"
            )
        pieces.append(np.array([*reader.opening, *head, *tail]))
        kept.append(len(tail))
    return [float(found[-held:].sum()) for found, held in zip(reader.nats(pieces), kept, strict=True)]


def _rivals(term: Term, way: str, known: Sequence[Term], counts: Mapping[str, int], draw: Random) -> list[Term]:
    """Three terms near in frequency, or three definitions near in length."""

    def far(other: Term) -> tuple[float, str]:
        if way == "term":
            return abs(np.log1p(counts[other.term]) - np.log1p(counts[term.term])), other.term
        return abs(np.log(len(other.definition)) - np.log(len(term.definition))), other.term

    nearest = sorted((other for other in known if other.term != term.term), key=far)[:NEAREST]
    return draw.sample(nearest, CHOICES - 1)


def _by_overlap(choices: Sequence[Term], way: str) -> float:
    """How often the true choice shares most stems with what is asked, ties being drawn."""
    true = choices[0]
    shared = []
    for other in choices:
        term, definition = (other.term, true.definition) if way == "term" else (true.term, other.definition)
        mine, theirs = ({word[:STEM] for word in words(text)} for text in (term, definition))
        shared.append(len(mine & theirs))
    best = max(shared)
    return float(shared[0] == best) / shared.count(best)


def _right(record: Record, way: str) -> dict[str, float]:
    return {"right/sum": record["right"], "right/n": 1.0} if record["way"] == way else {}


def make(settings: Settings, materials: Materials, seed: int) -> GlossaryQuestions:
    """The task."""
    return GlossaryQuestions(settings, materials, seed)
