"""Style acceptance: how often a verifier takes what the model writes for the author's, between others and the author.

Prompts are openings of held-out passages; the model goes on for as many words as the passage has left. A verifier
trained on the author's training text against other authors judges the continuations; its threshold refuses a tenth of
the author's own calibration passages. The raw share says little, since real text is not always accepted either:

    S = (accepted of the model − accepted of the floor) ÷ (accepted of the true continuations − accepted of the floor)

The floor is the base model on the same prompts where its evaluation is given, else other authors, each judged by a
verifier that never saw that author. Copying the training text passes every measure of style, so the share of generated
runs of eight words that stand in it is reported beside the true continuations' own. The author's words without sense,
shuffled or babbled pair by pair, are among the verifier's others, and how many fresh ones it accepts is a floor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from random import Random
from typing import Any

import numpy as np
from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.data.overlap import window_hashes
from shridhar_ft.data.words import words_of
from shridhar_ft.evaluation.materials import Materials, Text, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, ratio, total
from shridhar_ft.evaluation.nonsense import BABBLED, SHUFFLED, Babble, shuffled
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.evaluation.texts import WORD, first_words
from shridhar_ft.evaluation.verifier import Features, Verifier, auc, cosine_delta

RUN = 8  # words
REFUSED = 0.1  # of the author's own calibration passages
MOST = 400  # passages of a side that the verifier learns from
FEWEST = 8  # of anything
DISTINCT = 0.3  # accepted of the author above the floor, or S means nothing
DELTA = 5000  # words that Delta needs
PROMISED = 0.85  # of S: what its target asks for
SENSELESS = 0.3  # accepted of nonsense above which S is no word about sense


class Settings(Section):
    """Of `style_acceptance`."""

    prompts: int = Field(60, ge=2)
    """Passages that are continued."""
    opening_words: int = Field(60, ge=5)
    """Words that the model is given of each."""
    words: int = Field(200, ge=20)
    """Words of a continuation; below 300 real text is refused more often."""
    temperature: float = Field(0.8, gt=0)
    """What logits are divided by; one temperature for all models, or they cannot be compared."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Share of the probability that is drawn from."""


class StyleAcceptance:
    """Draws continuations, then judges all of them at once."""

    batch, version = 16, 2

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        own, length = self.settings, self.settings.opening_words + self.settings.words
        if len(self.materials.others) < 2:
            raise Unmeasured("a verifier needs two other authors or more; name their texts with eval.others")
        found = [(text.work, passage) for text in self.materials.held_out for passage in cut(text.text, length)]
        if len(found) < FEWEST:
            raise Unmeasured(f"the held-out books hold {len(found)} passages of {length} words, fewer than {FEWEST}")
        for side, texts in (("calibration", self.materials.calibration), ("training", self.materials.train)):
            if sum(len(WORD.findall(text.text)) for text in texts) < FEWEST * own.words:
                raise Unmeasured(f"the {side} text holds fewer than {FEWEST} passages of {own.words} words")
        chosen = Random(f"style/{self.seed}").sample(found, min(own.prompts, len(found)))
        items: list[Item] = []
        for index, (work, passage) in enumerate(chosen):
            opening = first_words(passage, own.opening_words)
            items.append({"key": str(index), "work": work, "opening": opening, "true": passage[len(opening) :]})
        prompts = [reader.encode(item["opening"]) for item in items]
        shortest = min(map(len, prompts))  # about one length for all: no padding, which some models do not stand
        tokens_a_word = sum(map(len, prompts)) / (len(prompts) * own.opening_words)
        self.tokens = round(own.words * tokens_a_word * 1.3)  # what models write can have longer words
        if len(reader.opening) + shortest + self.tokens > reader.window:
            raise Unmeasured(
                f"a prompt and its continuation take {shortest + self.tokens:,} tokens and the window has "
                f"{reader.window:,}; set words to less"
            )
        if long := sum(len(prompt) > shortest for prompt in prompts):
            self.notes.append(
                f"{long:,} of {len(items):,} openings are cut on the left, at a word, to {shortest:,} tokens or less"
            )
        for item in items:
            item["prompt"] = [*reader.opening, *from_a_word(reader, item["opening"], shortest)]
        return sorted(items, key=lambda item: len(item["prompt"]))  # a batch then holds few lengths

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        own = self.settings
        for _, alike in groupby(items, key=lambda item: len(item["prompt"])):
            group = list(alike)
            said = reader.sample(
                [item["prompt"] for item in group],
                *(self.tokens, own.temperature, own.top_p, self.seed + int(group[0]["key"])),
            )
            for item, ids in zip(group, said, strict=True):
                text = first_words(reader.decode(ids), own.words)
                yield {"key": item["key"], "said": text, "true": item["true"], "words": len(WORD.findall(text))}

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        return [
            Measure("style acceptance S", _all, _normalised, "ratio", of_shares=True, of_base=True),
            Measure("accepted as the author's", _one("said", "accepted"), total("said")),
            Measure(
                "copied runs of 8 words", _one("said", "copied"), total("said"), "share of runs", False, overlap=RUN
            ),
        ]

    def judged(self, records: Sequence[Record], base: Sequence[Record]) -> tuple[list[Record], dict[str, Any]]:
        """The records with what the verifier says of them, and what is known of the verifier."""
        judge = Judge(self.materials, self.settings.words, self.seed)
        said, true = (judge.accepts([str(record[side]) for record in records]) for side in ("said", "true"))
        theirs = (
            dict(zip((r["key"] for r in base), judge.accepts([str(r["said"]) for r in base]), strict=True))
            if base
            else {}
        )
        copies = {side: judge.copied([str(record[side]) for record in records]) for side in ("said", "true")}
        rows: list[Record] = []
        for index, record in enumerate(records):
            floor = float(theirs[record["key"]]) if record["key"] in theirs else judge.others_accepted
            rows.append(
                {
                    "key": record["key"],
                    "said/accepted": float(said[index]),
                    "true/accepted": float(true[index]),
                    "floor/accepted": floor,
                    "nonsense/accepted": max(judge.nonsense.values()),
                    "said/copied": copies["said"][index][0],
                    "said/runs": copies["said"][index][1],
                    "true/copied": copies["true"][index][0],
                    "true/runs": copies["true"][index][1],
                }
            )
        scores = {side: judge.score([str(record[side]) for record in records]) for side in ("said", "true")}
        pooled = " ".join(str(record["said"]) for record in records)
        notes = list(self.notes)
        if len(WORD.findall(pooled)) < DELTA:
            notes.append(f"fewer than {DELTA:,} generated words: Delta says little")
        if max(judge.nonsense.values()) > SENSELESS:
            notes.append(
                f"the verifier accepts {max(judge.nonsense.values()):.0%} of the author's own words without sense: "
                "S tells words and turns, not sense"
            )
        return rows, {
            "threshold": judge.threshold,
            "accepted of other authors": judge.others_accepted,
            "by author": judge.by_author,
            "accepted of nonsense": judge.nonsense,
            "verifier AUC, author's calibration text against unseen authors": judge.auc,
            "AUC of true continuations over generated ones (0.5: alike)": auc(scores["true"], scores["said"]),
            "delta": cosine_delta(pooled, judge.profiles),
            "notes": notes,
        }

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        finish(found, records, bool(base))
        return {}


class Judge:
    """The verifier, its threshold, and how it does on authors that it never saw."""

    def __init__(self, materials: Materials, words: int, seed: int) -> None:
        draw = Random(f"judge/{seed}")
        author, calibration = (_drawn(texts, words, draw, MOST) for texts in (materials.train, materials.calibration))
        each = max(FEWEST, MOST // len(materials.others))
        by_author = {text.work: _drawn([text], words, draw, each) for text in materials.others}
        by_author = {work: passages for work, passages in by_author.items() if len(passages) >= FEWEST}
        if len(by_author) < 2:
            raise Unmeasured(f"fewer than two of eval.others hold {FEWEST} passages of {words} words")
        babble = Babble(text.text for text in materials.train)
        nonsense, fresh = (
            {
                SHUFFLED: [shuffled(passage, draw) for passage in draw.sample(passages, min(each, len(passages)))],
                BABBLED: [babble(words, draw) for _ in range(each)],
            }
            for passages in (author, calibration)
        )
        negatives = {**by_author, **nonsense}
        others = [passage for passages in negatives.values() for passage in passages]
        self.features = Features([*author, *others])
        rows, labels = self.features([*author, *others]), np.array([True] * len(author) + [False] * len(others))
        work_of = np.array([""] * len(author) + [work for work, held in negatives.items() for _ in held])
        own = self.features(calibration)
        self.verifier = Verifier(rows, labels)
        self.threshold = float(np.quantile(self.verifier.score(own), REFUSED))
        self.by_author: dict[str, float] = {}
        unseen, known = [], []
        for work in by_author:
            rest = work_of != work
            without = Verifier(rows[rest], labels[rest])
            scores = without.score(rows[~rest])
            at = without.score(own)
            self.by_author[work] = float((scores >= np.quantile(at, REFUSED)).mean())
            unseen.append(scores - at.mean())
            known.append(at - at.mean())
        self.others_accepted = float(np.mean(list(self.by_author.values())))
        self.nonsense = {name: float(self.accepts(held).mean()) for name, held in fresh.items()}
        self.auc = auc(np.concatenate(known), np.concatenate(unseen))
        self.profiles = {"the author": " ".join(author), **{work: " ".join(held) for work, held in by_author.items()}}
        runs = [window_hashes(words_of([text.text]).hashes, RUN) for text in materials.train]
        self.runs = np.unique(np.concatenate(runs))

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """How much like the author each looks."""
        return self.verifier.score(self.features(texts))

    def accepts(self, texts: Sequence[str]) -> np.ndarray:
        """Whether each is taken for the author's, bool (n,)."""
        return self.score(texts) >= self.threshold

    def copied(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Of each text, how many of its runs of eight words stand in the training text, and how many it has."""
        found = []
        for text in texts:
            runs = window_hashes(words_of([text]).hashes, RUN)
            found.append((int(np.isin(runs, self.runs).sum()), len(runs)))
        return found


def finish(found: Mapping[str, Score], rows: Sequence[Record], base: bool) -> None:
    """Put floors, ceilings and targets into the scores of judged records."""
    floor, real = (sum(row[f"{side}/accepted"] for row in rows) / len(rows) for side in ("floor", "true"))
    whose = "the base model on the same prompts" if base else "other authors, by a verifier that never saw them"
    accepted, normalised = found["accepted as the author's"], found["style acceptance S"]
    accepted.floor, accepted.floor_of = floor, whose
    senseless = max(row.get("nonsense/accepted", 0.0) for row in rows)
    if senseless > floor:
        accepted.floor, accepted.floor_of = senseless, "the author's own words without sense"
    accepted.ceiling, accepted.ceiling_of = real, "the author's true continuations"
    normalised.floor, normalised.floor_of = 0.0, whose
    normalised.ceiling, normalised.ceiling_of = 1.0, "the author's true continuations"
    normalised.target = "at least 0.85, with no more copied runs than the true continuations"
    if real - floor >= DISTINCT and (nothing := (senseless - floor) / (real - floor)) > 0:
        normalised.floor, normalised.floor_of = nothing, "the author's own words without sense"
        if nothing >= PROMISED:
            normalised.target = "none here: the author's own words without sense reach 0.85 too"
    if real - floor < DISTINCT:
        normalised.value = normalised.low = normalised.high = float("nan")
        normalised.lacking = f"undefined: the verifier accepts {real:.0%} of the author and {floor:.0%} of the floor"
    copied = found["copied runs of 8 words"]
    copied.floor, copied.floor_of = 1.0, "the training text itself"
    copied.ceiling = sum(row["true/copied"] for row in rows) / max(1, sum(row["true/runs"] for row in rows))
    copied.ceiling_of = "the author's true continuations"


def cut(text: str, length: int) -> Iterator[str]:
    """Passages of so many words, without the rest."""
    found = [match.start() for match in WORD.finditer(text)]
    for begin in range(0, len(found) - length, length):
        yield text[found[begin] : found[begin + length]].rstrip()


def from_a_word(reader: Reader, text: str, tokens: int) -> list[int]:
    """The end of a text in so many tokens at most, from the beginning of a word."""
    for found in WORD.finditer(text):
        ids = reader.encode(text[found.start() :])
        if len(ids) <= tokens:
            return ids
    return reader.encode(text)[-tokens:]  # one word of more tokens than that


def _drawn(texts: Sequence[Text], length: int, draw: Random, most: int) -> list[str]:
    passages = [passage for text in texts for passage in cut(text.text, length)]
    return draw.sample(passages, most) if len(passages) > most else passages


def _one(side: str, what: str) -> Callable[[Record], dict[str, float]]:
    below = "runs" if what == "copied" else None

    def columns(record: Record) -> dict[str, float]:
        return {f"{side}/sum": record[f"{side}/{what}"], f"{side}/n": record[f"{side}/{below}"] if below else 1.0}

    return columns


def _all(record: Record) -> dict[str, float]:
    sides = ("said", "true", "floor")
    return {f"{side}/sum": record[f"{side}/accepted"] for side in sides} | {f"{side}/n": 1.0 for side in sides}


def _normalised(sums: dict[str, np.ndarray]) -> np.ndarray:
    return ratio(sums["said/sum"] - sums["floor/sum"], sums["true/sum"] - sums["floor/sum"])


def make(settings: Settings, materials: Materials, seed: int) -> StyleAcceptance:
    """The task."""
    return StyleAcceptance(settings, materials, seed)
