"""Retention: what is found in a long window relative to a short one, by kind, length and depth.

Two ways to be right, both reported: `exact`, the likeliest continuation begins with the answer; `choice`, the answer is
the likeliest of ten of the same form (chance 10 %), which tells small models apart that never say a number. Floor: the
prompt without the facts. Ceiling: the facts alone, without the prose. Both are measured at the base length and at the
longest, each beside the needles of its own length.

    ρ(L)              share right at L ÷ share right at the base length (4,096 tokens where it is listed)
    effective length  the longest L up to which ρ stays at 0.85 or more (NoLiMa's definition, arXiv 2502.05167)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import NOTHING_FOUND
from shridhar_ft.evaluation.haystack import Haystack
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, macro, ratio, total
from shridhar_ft.evaluation.needles import CHOICES, KINDS, Kind, is_right, question
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item

BASE_LENGTH = 4096
KEPT = 0.85
SOLID = 0.9  # share right at the base length that "supported" asks for
EXTRA = 6  # tokens that a continuation may have beyond the answer's own
WAYS = ("exact", "choice")


class Settings(Section):
    """Of `retention`."""

    kinds: list[Kind] = Field(list(KINDS), min_length=1)
    """Kinds of needles."""
    lengths: list[int] = Field([])
    """Tokens of prompt and answer; those beyond the model's window are left out with a line (default: a quarter, a half
    and the whole of a window up to 8,192, else 4,096, doubled up to the window)."""
    depths: int = Field(5, ge=1)
    """Depths, evenly from the beginning to the end."""
    seeds: int = Field(2, ge=1)
    """Questions of each kind, length and depth."""


class Retention:
    """Builds prompts, reads each once, scores ten answers and lets the model go on."""

    batch, version = 1, 2

    def __init__(self, settings: Settings, materials: Materials, seed: int) -> None:
        self.settings, self.materials, self.seed = settings, materials, seed
        self._haystack: Haystack | None = None
        self.notes: list[str] = []

    def items(self, reader: Reader) -> list[Item]:
        self._haystack = Haystack(self.materials.haystack(), reader)
        asked = self.settings.lengths or default_lengths(reader.window)
        lengths = [length for length in asked if length <= min(reader.window, self._haystack.total)]
        if beyond := [length for length in asked if length > reader.window]:
            self.notes.append(f"lengths beyond the window of {reader.window:,} tokens are left out: {beyond}")
        if short := [length for length in asked if reader.window >= length > self._haystack.total]:
            self.notes.append(f"the prose has {self._haystack.total:,} tokens, too few for {short}: left out")
        if not lengths:
            raise Unmeasured(f"{'; '.join(self.notes)}; name a longer eval.long_text, or set lengths")
        steps = self.settings.depths
        depths = [round(index / max(1, steps - 1), 3) for index in range(steps)]
        cells = [
            (kind, depth, seed)
            for kind in self.settings.kinds
            for depth in depths
            for seed in range(self.settings.seeds)
        ]
        plans = [("facts", length, *cell) for length in sorted(lengths) for cell in cells]
        ends = sorted({base_length(lengths), max(lengths)})
        plans += [(control, length, *cell) for control in ("absent", "alone") for length in ends for cell in cells]
        return [
            {
                "key": f"{how}/{kind}/{length}/{depth}/{seed}",
                "how": how,
                "kind": kind,
                "length": length,
                "depth": depth,
                "seed": f"{self.seed}/{kind}/{length}/{depth}/{seed}",
            }
            for how, length, kind, depth, seed in plans
        ]

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        for item in items:
            prompt, asked = self.prompt(reader, item)
            reader.read(prompt)
            nats = [float(reader.after(reader.encode(answer)).sum()) for answer in (asked.answer, *asked.wrong)]
            said = reader.decode(reader.go_on(len(reader.encode(asked.answer)) + EXTRA))
            yield {
                **{key: item[key] for key in ("key", "how", "kind", "length", "depth")},
                "tokens": len(prompt),
                "exact": float(is_right(said, asked.answer)),
                "choice": float(nats[0] < min(nats[1:])),
                "nats": nats[0],
                "said": said,
                "answer": asked.answer.strip(),
            }

    def prompt(self, reader: Reader, item: Item) -> tuple[list[int], Any]:
        """The tokens of an item's prompt, and its question."""
        assert self._haystack is not None, "items come first"
        asked = question(item["kind"], item["seed"])
        assert len(asked.wrong) == CHOICES - 1, "ten answers to choose from"
        if item["how"] == "alone":
            text = " ".join([*asked.beside, *asked.chain]) + asked.ask
            return [*reader.opening, *reader.encode(text)], asked
        room = max(len(reader.encode(answer)) for answer in (asked.answer, *asked.wrong)) + EXTRA
        there = item["how"] == "facts"
        return self._haystack.prompt(asked, item["length"], item["depth"], item["seed"], room, there), asked

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        facts = [record for record in records if record["how"] == "facts"]
        lengths = sorted({record["length"] for record in facts})
        kinds = list(dict.fromkeys(record["kind"] for record in facts))
        base, longest = base_length(lengths), lengths[-1]
        measures = []
        over = {length: macro([f"{kind}/{length}" for kind in kinds]) for length in (base, longest)}
        for way in WAYS:
            if way == "exact":
                measures += [
                    Measure(f"{kind} at {longest:,}, {way}", _columns(way, [longest], kind), total(f"{kind}/{longest}"))
                    for kind in kinds
                ]
            measures.append(Measure(f"needles at {base:,}, {way}", _columns(way, [base]), over[base]))
            if longest != base:
                measures.append(Measure(f"needles at {longest:,}, {way}", _columns(way, [longest]), over[longest]))
                measures.append(
                    Measure(
                        f"retention at {longest:,}, {way}",
                        _columns(way, [base, longest]),
                        lambda sums: ratio(over[longest](sums), over[base](sums)),
                        "ratio",
                        of_shares=True,
                    )
                )
        return measures

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        facts = [record for record in records if record["how"] == "facts"]
        lengths = sorted({record["length"] for record in facts})
        kinds = list(dict.fromkeys(record["kind"] for record in facts))
        near, far = base_length(lengths), lengths[-1]
        for one in found.values():
            way = one.name.rpartition(", ")[2]
            if one.unit == "ratio":
                _ends_of_ratio(one, records, kinds, (near, far), way)
                continue
            of = [one.name.partition(" at ")[0]] if not one.name.startswith("needles") else kinds
            length = near if one.name == f"needles at {near:,}, {way}" else far
            for end, how, words in (("floor", "absent", "the facts left out"), ("ceiling", "alone", "the facts alone")):
                hits = [r for r in records if (r["how"], r["length"]) == (how, length) and r["kind"] in of]
                setattr(one, end, _share(hits, way))
                setattr(one, f"{end}_of", f"{words}, n = {len(hits)}")
        details = {way: _shape(facts, kinds, lengths, way) for way in WAYS}
        emptiest = min(record["tokens"] / record["length"] for record in facts)
        return {
            "base_length": base_length(lengths),
            "lengths": lengths,
            "kinds": kinds,
            "shortest_prompt": round(emptiest, 3),
            **details,
            "notes": self.notes,
        }


def _ends_of_ratio(
    one: Score, records: Sequence[Record], kinds: Sequence[str], lengths: tuple[int, int], way: str
) -> None:
    """Floor, ceiling and target of ρ between two lengths; why it is undefined, where it is."""
    near, far = lengths

    def shares(how: str, length: int) -> list[float]:
        cells = [[r for r in records if (r["how"], r["length"], r["kind"]) == (how, length, kind)] for kind in kinds]
        return [_share(cell, way) or 0.0 for cell in cells]

    at_base = sum(shares("facts", near))
    if at_base:
        one.floor = sum(shares("absent", far)) / at_base
        one.floor_of = f"the facts left out at {far:,} tokens"
    else:
        one.floor_of = NOTHING_FOUND
        one.lacking = f"undefined: nothing was found at {near:,} tokens"
    one.ceiling, one.ceiling_of = 1.0, f"as much found as at {near:,} tokens"
    one.target = f"at least {KEPT}, with {SOLID:.0%} right at {near:,} tokens"


def _columns(way: str, lengths: Sequence[int], kind: str | None = None) -> Callable[[Record], dict[str, float]]:
    """Hits and items by kind and length, of these lengths and of one kind or of all."""

    def columns(record: Record) -> dict[str, float]:
        if record["how"] != "facts" or record["length"] not in lengths or kind not in (None, record["kind"]):
            return {}
        cell = f"{record['kind']}/{record['length']}"
        return {f"{cell}/sum": record[way], f"{cell}/n": 1.0}

    return columns


def _share(records: Sequence[Record], way: str) -> float | None:
    return sum(record[way] for record in records) / len(records) if records else None


def _shape(facts: Sequence[Record], kinds: Sequence[str], lengths: Sequence[int], way: str) -> dict[str, Any]:
    """Shares by kind and length, the heat map by length and depth, worst depth, effective lengths."""
    by_kind = {
        kind: {L: _share([r for r in facts if (r["kind"], r["length"]) == (kind, L)], way) for L in lengths}
        for kind in kinds
    }
    depths = sorted({record["depth"] for record in facts})
    heat = [[_share([r for r in facts if (r["length"], r["depth"]) == (L, d)], way) for d in depths] for L in lengths]
    at_end = [share if share is not None else 1.0 for share in heat[-1]]
    worst = min(range(len(depths)), key=lambda index: at_end[index])
    return {
        "by_kind": by_kind,
        "heat_map": {"lengths": list(lengths), "depths": depths, "shares": heat},
        "worst_depth": {"length": lengths[-1], "depth": depths[worst], "share": heat[-1][worst]},
        "effective_length": {kind: effective_length(by_kind[kind]) for kind in kinds},
        "supported": all(
            (by_kind[kind][base_length(lengths)] or 0) >= SOLID and effective_length(by_kind[kind]) == lengths[-1]
            for kind in kinds
        ),
    }


def effective_length(shares: Mapping[int, float | None]) -> int | None:
    """The longest length up to which a kind keeps 85 % of its base share; None where the base share is 0."""
    lengths = sorted(shares)
    base = shares[base_length(lengths)]
    if not base:
        return None
    longest = None
    for length in lengths:
        if (shares[length] or 0) < KEPT * base:
            break
        longest = length
    return longest


def base_length(lengths: Sequence[int]) -> int:
    """The length that others are compared with: 4,096 tokens, else the shortest."""
    return BASE_LENGTH if BASE_LENGTH in lengths else min(lengths)


def default_lengths(window: int) -> list[int]:
    """Lengths for a window: 4,096 doubled up to it; a quarter, a half and the whole of one up to 8,192."""
    if window <= 2 * BASE_LENGTH:
        return [window // 4, window // 2, window]
    lengths = [BASE_LENGTH]
    while lengths[-1] * 2 < window:
        lengths.append(lengths[-1] * 2)
    return [*lengths, window]


def make(settings: Settings, materials: Materials, seed: int) -> Retention:
    """The task."""
    return Retention(settings, materials, seed)
