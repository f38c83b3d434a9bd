"""Term cloze: which of four terms stood in a held-out sentence, all of them in the same case and number.

Score of a candidate: log p(sentence with it) − log p(it alone), so that a term that is likely anywhere gains nothing by
it. The three others are nouns too, of the same gender and animacy, at most four times as common or as rare, and put
into the form of the one they replace; the true term is as often the rarest of the four as the commonest. Terms that the
training text does not have are no part of the score; the details have them under `unseen terms`. Floors: chance (25 %),
the more frequent term, the bigram counts, and the base model. Ceiling: the same with the terms' definitions before the
sentence, where the glossary has definitions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import NO_DEFINITIONS
from shridhar_ft.evaluation.materials import Materials, Term, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, mean_of, total, wilson
from shridhar_ft.evaluation.morphology import case_of, like, readings, sentences, sure, tokens
from shridhar_ft.evaluation.ngrams import Ngrams
from shridhar_ft.evaluation.reader import Reader, fitting
from shridhar_ft.evaluation.suite import Item

CANDIDATES = 4
FEWEST = 20  # items
LEAST = 3  # times that a term stands in the training text
LONGEST = 40  # tokens of a sentence
NEAR = 4.0  # times as common or as rare as the true term that a rival may be


class Settings(Section):
    """Of `term_cloze`."""

    items: int = Field(400, ge=1)
    """Most sentences."""
    terms: int = Field(200, ge=CANDIDATES)
    """Terms that are taken from the books where there is no glossary: their commonest nouns against other authors."""


class TermCloze:
    """Scores four sentences, four terms alone and, where there are definitions, four open-book sentences an item."""

    batch, version = 8, 2

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        counts = Ngrams(text.text for text in self.materials.train)
        terms = self._terms()
        seen: list[Item] = []
        unseen: list[Item] = []
        known = Counter(dict.fromkeys(terms, 0))
        for text in self.materials.train:
            known.update(lemma for word in _words(text.text) if (lemma := lemma_of(word)) and lemma in known)
        held = [(text.work, sentence) for text in self.materials.held_out for sentence in sentences(text.text)]
        Random(f"terms/{self.seed}").shuffle(held)
        for _, sentence in held:
            item = self._item(sentence, terms, known, counts)
            found = seen if item is not None and item["seen"] else unseen
            if item is not None and len(found) < self.settings.items:
                found.append({"key": f"{'' if item['seen'] else 'unseen/'}{len(found)}", **item})
            if len(seen) >= self.settings.items:
                break
        if len(seen) < FEWEST:
            raise Unmeasured(f"the held-out books yield {len(seen)} sentences with terms, fewer than {FEWEST}")
        return [*seen, *unseen]

    def _terms(self) -> dict[str, Term]:
        """Terms of one word by their lemma; those of several words have no form that another could take."""
        if self.materials.glossary:
            single = [term for term in self.materials.glossary if " " not in term.term]
            by_lemma = {lemma: term for term in single if (lemma := lemma_of(term.term)) is not None}
            if several := len(self.materials.glossary) - len(single):
                self.notes.append(f"{several} glossary terms of several words are left out: no other takes their form")
            if left := len(single) - len(by_lemma):
                self.notes.append(f"{left} glossary terms are left out: no sure nouns, or of one lemma with another")
            return by_lemma
        if not self.materials.others:
            raise Unmeasured("no glossary and no other authors to tell terms by; name eval.glossary or eval.others")
        self.notes.append(
            "terms are the nouns that the training text has most of against eval.others: no glossary is named"
        )
        return {lemma: Term(lemma, "") for lemma in self._keywords()}

    def _keywords(self) -> list[str]:
        """Nouns by log-likelihood ratio (Dunning 1993) of the training text against others."""
        sides = [
            Counter(lemma for t in texts for word in _words(t.text) if (lemma := lemma_of(word)))
            for texts in (self.materials.train, self.materials.others)
        ]
        ours, theirs = sides
        sizes = [max(1, side.total()) for side in sides]

        def keyness(lemma: str) -> float:
            a, b = ours[lemma], theirs[lemma]
            expected = [(a + b) * size / sum(sizes) for size in sizes]
            if a <= expected[0]:
                return 0.0
            return float(a * np.log(a / expected[0]) + (b * np.log(b / expected[1]) if b else 0))

        ranked = sorted((lemma for lemma, n in ours.items() if n >= LEAST), key=lambda lemma: (-keyness(lemma), lemma))
        return ranked[: self.settings.terms]

    def _item(self, sentence: str, terms: Mapping[str, Term], known: Counter[str], counts: Ngrams) -> Item | None:
        found = tokens(sentence)
        if not 6 <= len(found) <= LONGEST:
            return None
        lemmas = [lemma_of(token.text) for token in found]
        commoner = Random(f"rank/{self.seed}/{sentence}").randrange(CANDIDATES)
        for token, lemma in zip(found, lemmas, strict=True):
            reading = sure(token.text, "NOUN") if lemma in terms else None
            if lemma is None or reading is None or not reading.tag.case or not reading.tag.number:
                continue
            rivals = self._rivals(reading, lemma, commoner, set(lemmas), terms, known)
            if len(rivals) < CANDIDATES - 1:
                continue
            words = [token.text, *(like(form, token.text) for _, form in rivals)]
            of = [lemma, *(name for name, _ in rivals)]
            whole = [sentence[: token.start] + word + sentence[token.stop :] for word in words]
            return {
                "good": whole[0],
                "choices": whole,
                "words": words,
                "definitions": [terms[name].definition for name in of],
                "cluster": lemma,
                "seen": known[lemma] > 0,
                "frequency": _share_of_best([known[name] for name in of]),
                "bigram": float(
                    np.argmax([counts.bigram(w) - counts.unigram(x) for w, x in zip(whole, words, strict=True)]) == 0
                ),
            }
        return None

    def _rivals(
        self,
        reading: Any,  # noqa: ANN401 - pymorphy3's
        lemma: str,
        commoner: int,
        there: set[str | None],
        terms: Mapping[str, Term],
        known: Counter[str],
    ) -> list[tuple[str, str]]:
        """Three terms near in frequency that can take this form, of which `commoner` are commoner.

        The caller's draw gives the true term each rank among the four as often as the others, so that frequency tells
        nothing; where there are not enough terms on a side, the sentence is left out. A rival is at most `NEAR` times
        as common or as rare: further off, frequency would tell the four apart one by one, though not on the whole. A
        term that the training text does not have gets rivals of the lowest frequency, all of them commoner.
        """
        times = known[lemma]
        if not times:
            commoner = CANDIDATES - 1
        case, number = case_of(reading.tag), reading.tag.number
        forms: list[tuple[str, str]] = []
        for above, wanted in ((True, commoner), (False, CANDIDATES - 1 - commoner)):
            side = [
                t
                for t in terms
                if t not in there
                and known[t]
                and (known[t] > times) == above
                and (not times or max(known[t], times) <= NEAR * min(known[t], times))
            ]
            for name in sorted(side, key=lambda t: (abs(known[t] - times), t)):
                if wanted and (form := _put(name, reading, str(case), number)) is not None:
                    forms.append((name, form))
                    wanted -= 1
        return forms

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        pieces: list[np.ndarray] = []
        with_book: list[bool] = []
        for item in items:
            pieces += [fitting(reader, text) for text in (*item["choices"], *item["words"])]
            opened = self._opened(reader, item)
            with_book.append(bool(opened))
            pieces += opened
        nats = iter([float(found[len(reader.opening) - 1 :].sum()) for found in reader.nats(pieces)])
        for item, has_book in zip(items, with_book, strict=True):
            whole, alone = (np.array([next(nats) for _ in range(CANDIDATES)]) for _ in range(2))
            by_book = np.array([next(nats) for _ in range(CANDIDATES)]) if has_book else None
            yield {
                **{key: item[key] for key in ("key", "cluster", "seen", "frequency", "bigram")},
                "right": float(np.argmin(whole - alone) == 0),
                "plain": float(np.argmin(whole) == 0),
                "open": None if by_book is None else float(np.argmin(by_book - alone) == 0),
                "margin": float((whole - alone)[1:].min() - (whole - alone)[0]),
            }

    def _opened(self, reader: Reader, item: Item) -> list[np.ndarray]:
        """The sentences behind the terms' definitions; none where a term has none, or the window does not hold them."""
        if not all(item["definitions"]):
            return []
        book = " ".join(f"{word} — {definition}" for word, definition in _defined(item)) + "\n"
        try:
            return [fitting(reader, book + text) for text in item["choices"]]
        except Unmeasured:
            return []

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        return [Measure("term cloze", _right, total("right"))]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        one = found["term cloze"]
        unseen = [record for record in records if not _seen(record)]
        records, base = ([record for record in side if _seen(record)] for side in (records, base))
        floors = {
            "chance": 1 / CANDIDATES,
            "the more frequent term": mean_of(records, "frequency"),
            "bigram counts of the training text": mean_of(records, "bigram"),
        }
        if base:
            floors["the base model"] = mean_of(base, "right")
        one.take_floor(floors)
        opened = [record["open"] for record in records if record["open"] is not None]
        if opened and len(opened) < len(records):
            self.notes.append(
                f"the ceiling is of {len(opened):,} items: other terms have no definitions, or too long ones"
            )
        if opened:
            one.ceiling, one.ceiling_of = sum(opened) / len(opened), f"definitions in the context, n = {len(opened)}"
        else:
            one.ceiling_of = NO_DEFINITIONS
        one.target = "at least 90 %, of 400 sentences or more"
        details: dict[str, Any] = {"notes": self.notes, "unseen terms": None}
        if unseen:
            hits, of = sum(record["right"] for record in unseen), len(unseen)
            low, high = wilson(hits / of, of)
            details["unseen terms"] = {"right": hits / of, "low": low, "high": high, "n": of}
        return {"floors": floors, "without subtracting the term alone": mean_of(records, "plain"), **details}


def lemma_of(word: str) -> str | None:
    """The lemma of a noun that is surely one; None for other words."""
    reading = sure(word.lower(), "NOUN")
    if reading is None or {"Name"} in reading.tag or {"Surn"} in reading.tag or {"Patr"} in reading.tag:
        return None
    return str(reading.normal_form)


def _put(name: str, reading: Any, case: str, number: str) -> str | None:  # noqa: ANN401 - pymorphy3's
    """A term in this case and number, if it is of the reading's gender and animacy."""
    base = next((r for r in readings(name) if {"NOUN"} in r.tag and "nomn" in r.tag), None)
    if base is None or base.tag.gender != reading.tag.gender or base.tag.animacy != reading.tag.animacy:
        return None
    form = base.inflect(frozenset((case, number)))
    return None if form is None else str(form.word)


def _share_of_best(values: Sequence[int]) -> float:
    """How often the first one is taken where the largest is, ties being drawn."""
    best = max(values)
    return float(values[0] == best) / values.count(best)


def _defined(item: Item) -> list[tuple[str, str]]:
    """Terms of an item with their definitions, in an order that does not give the answer away."""
    both = list(zip(item["words"], item["definitions"], strict=True))
    return sorted((word, definition) for word, definition in both if definition)


def _words(text: str) -> list[str]:
    return [word for line in text.split("\n") for word in line.replace("—", " ").split() if word.isalpha()]


def _seen(record: Record) -> bool:
    """Whether the training text has the term."""
    return bool(record.get("seen", True))


def _right(record: Record) -> dict[str, float]:
    return {"right/sum": record["right"], "right/n": 1.0} if _seen(record) else {}


def make(settings: Settings, materials: Materials, seed: int) -> TermCloze:
    """The task."""
    return TermCloze(settings, materials, seed)
