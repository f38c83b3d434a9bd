"""Grammatical minimal-pair accuracy: how often the grammatical sentence is the likelier one.

Accuracy is the mean over paradigms of 1[Σ log p(good) > Σ log p(bad)], a tie half, sums over the whole sentence after
the opening; the mean a token is reported beside it, as RuBLiMP's own script has it (Taktasheva et al. 2024, arXiv
2406.19232). Pairs are balanced: in each paradigm as many spoilt words are commoner in the training text than the true
ones as are rarer, so that counting words scores 50 % by construction. It is no measure of understanding.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, macro, total
from shridhar_ft.evaluation.morphology import sentences
from shridhar_ft.evaluation.ngrams import Ngrams
from shridhar_ft.evaluation.pairs import PARADIGMS, Pair, pairs_of
from shridhar_ft.evaluation.reader import Reader, fitting
from shridhar_ft.evaluation.rublimp import PARADIGMS as RUBLIMP_PARADIGMS
from shridhar_ft.evaluation.rublimp import read_paradigm, rublimp_files
from shridhar_ft.evaluation.suite import Item

OWN, RUBLIMP = "own", "rublimp"
BY_HAND = "every pair right; of 114 spoilt sentences read by hand none was grammatical"
FEWEST = 10  # pairs of a paradigm that is reported
ENOUGH = 4  # times as many pairs as are wanted, so that balance leaves enough
MOST_SENTENCES = 12_000  # of each side: about a minute of grammar


class Settings(Section):
    """Of `ru_pairs`."""

    each: int = Field(250, ge=10)
    """Most pairs of a paradigm."""
    rublimp_each: int = Field(100, ge=10)
    """Pairs of each of RuBLiMP's 45 paradigms, where `eval.rublimp` names its CSVs."""
    further_prose: bool = True
    """Take sentences from `eval.others` and `eval.long_text` too, where the held-out books yield too few."""


class RuPairs:
    """Scores both sentences of each pair."""

    batch, version = 32, 1

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        counts = Ngrams(text.text for text in self.materials.train)
        found = balanced(self._pairs(counts), counts.count, self.settings.each, self.seed)
        held = Counter(pair.paradigm for pair in found)
        if few := [f"{name} ({held[name]})" for name in PARADIGMS if held[name] < FEWEST]:
            self.notes.append(f"left out for want of {FEWEST} pairs: {', '.join(few)}")
        found = [pair for pair in found if held[pair.paradigm] >= FEWEST]
        items = [_item(OWN, index, pair, counts) for index, pair in enumerate(found)]
        foreign = list(self._rublimp())
        items += [_item(RUBLIMP, index, pair, counts) for index, pair in enumerate(foreign)]
        if foreign:
            kinds = len({pair.paradigm for pair in foreign})
            self.notes.append(f"RuBLiMP: {len(foreign):,} pairs of {kinds} of its {RUBLIMP_PARADIGMS} paradigms")
        if not items:
            raise Unmeasured(f"no paradigm has {FEWEST} pairs in the held-out books; name eval.others for more prose")
        if len(found) < 1000:
            self.notes.append(
                f"only {len(found):,} pairs of the own books: below 1,000 an interval is wider than ±1.4 %"
            )
        return items

    def _pairs(self, counts: Ngrams) -> list[Pair]:
        own = [*self.materials.held_out, *self.materials.calibration]
        further = [*self.materials.others, *self.materials.long_text] if self.settings.further_prose else []
        draw, found = Random(f"pairs/{self.seed}"), []
        lacking = dict.fromkeys(PARADIGMS, ENOUGH * self.settings.each)
        for texts in (own, further):
            read = [sentence for text in texts for sentence in sentences(text.text)]
            draw.shuffle(read)
            for sentence in read[:MOST_SENTENCES] if any(left > 0 for left in lacking.values()) else ():
                for pair in pairs_of(sentence, counts.count):
                    if lacking[pair.paradigm] > 0:
                        lacking[pair.paradigm] -= 1
                        found.append(pair)
        return found

    def _rublimp(self) -> Iterator[Pair]:
        folder = self.materials.rublimp
        for file in rublimp_files(folder) if folder else ():
            rows = read_paradigm(file)
            for good, bad in Random(f"{file.stem}/{self.seed}").sample(
                rows, min(self.settings.rublimp_each, len(rows))
            ):
                yield Pair(file.stem, good, bad, "", "")

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        pieces = [fitting(reader, item[side]) for item in items for side in ("good", "bad")]
        nats = [found[len(reader.opening) - 1 :] for found in reader.nats(pieces)]
        for item, good, bad in zip(items, nats[::2], nats[1::2], strict=True):
            yield {
                **{key: item[key] for key in ("key", "set", "paradigm", "cluster", "unigram", "bigram")},
                "good": float(good.sum()),
                "bad": float(bad.sum()),
                "sum": won(float(bad.sum()), float(good.sum())),
                "mean": won(float(bad.mean()), float(good.mean())),
            }

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        measures = []
        for which, words in ((OWN, "own pairs"), (RUBLIMP, "RuBLiMP")):
            paradigms = paradigms_of(records, which)
            if paradigms:
                measures += [
                    Measure(f"{words}, {how} log-probability", _columns(which, how, paradigms), macro(paradigms))
                    for how in ("sum", "mean")
                ]
            if which == OWN:
                measures += [
                    Measure(f"own pairs: {name}", _columns(which, "sum", [name]), total(name)) for name in paradigms
                ]
        return measures

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        floors: dict[str, dict[str, float]] = {}
        for one in found.values():
            which = RUBLIMP if one.name.startswith("RuBLiMP") else OWN
            paradigms = [one.name.partition(": ")[2]] if ": " in one.name else paradigms_of(records, which)
            floors[one.name] = {by: macro_share(records, which, by, paradigms) for by in ("unigram", "bigram")}
            if base:
                how = "mean" if one.name.endswith(", mean log-probability") else "sum"
                floors[one.name]["base model"] = macro_share(base, which, how, paradigms)
            best = max(floors[one.name], key=lambda by: floors[one.name][by])
            one.floor, one.floor_of = floors[one.name][best], f"{best} counts of the training text"
            if best == "base model":
                one.floor_of = best
            one.ceiling, one.ceiling_of = 1.0, BY_HAND if which == OWN else "every pair right"
            if one.name == "own pairs, sum log-probability":
                one.target = "at least 95 %, of 1,000 pairs or more"
        return {"floors": floors, "notes": self.notes}


def won(bad: float, good: float) -> float:
    """1 where the good sentence costs less, ½ at a tie."""
    return 0.5 if bad == good else float(good < bad)


def balanced(found: Sequence[Pair], count: Callable[[str], int], each: int, seed: int) -> list[Pair]:
    """As many pairs with a commoner spoilt word as with a rarer one in each paradigm, at most `each`; ties may stay.

    Pairs of one paradigm come from sentences that differ.
    """
    draw = Random(f"balance/{seed}")
    by_paradigm: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    seen: set[tuple[str, str]] = set()
    for pair in found:
        if (pair.paradigm, pair.good) not in seen:
            seen.add((pair.paradigm, pair.good))
            gap = count(pair.good_word) - count(pair.bad_word)
            by_paradigm[pair.paradigm]["tie" if gap == 0 else "common" if gap > 0 else "rare"].append(pair)
    kept: list[Pair] = []
    for paradigm in sorted(by_paradigm):
        sides = by_paradigm[paradigm]
        for side in sides.values():
            draw.shuffle(side)
        half = min(len(sides["common"]), len(sides["rare"]), each // 2)
        chosen = sides["common"][:half] + sides["rare"][:half]
        kept += chosen + sides["tie"][: each - len(chosen)]
    return kept


def paradigms_of(records: Sequence[Record], which: str) -> list[str]:
    """Paradigms of a set that have enough pairs."""
    held: dict[str, int] = defaultdict(int)
    for record in records:
        held[record["paradigm"]] += record["set"] == which
    return sorted(name for name, pairs in held.items() if pairs >= FEWEST)


def macro_share(records: Sequence[Record], which: str, how: str, paradigms: Sequence[str]) -> float:
    """Mean over paradigms of the mean of a column."""
    shares = []
    for name in paradigms:
        values = [record[how] for record in records if record["set"] == which and record["paradigm"] == name]
        if values:
            shares.append(sum(values) / len(values))
    return sum(shares) / len(shares) if shares else float("nan")


def _columns(which: str, how: str, paradigms: Sequence[str]) -> Callable[[Record], dict[str, float]]:
    def columns(record: Record) -> dict[str, float]:
        name = record["paradigm"]
        if record["set"] != which or name not in paradigms:
            return {}
        return {f"{name}/sum": record[how], f"{name}/n": 1.0}

    return columns


def _item(which: str, index: int, pair: Pair, counts: Ngrams) -> Item:
    return {
        "key": f"{which}/{pair.paradigm}/{index}",
        "set": which,
        "paradigm": pair.paradigm,
        "cluster": pair.good,
        "good": pair.good,
        "bad": pair.bad,
        "unigram": won(-counts.unigram(pair.bad), -counts.unigram(pair.good)),
        "bigram": won(-counts.bigram(pair.bad), -counts.bigram(pair.good)),
    }


def make(settings: Settings, materials: Materials, seed: int) -> RuPairs:
    """The task."""
    return RuPairs(settings, materials, seed)
