"""Loss by position, perplexity, bits per byte and context gain on a long text: how much of its window a model uses.

There are two readings, each with scores of its own name, since they are two numbers:

    windows   they do not overlap and all their tokens count: those at a window's beginning have little context
    sliding   they begin every half a window and only their second halves count: each token has half a window before it

Floor: character n-grams of the training text on the same text, or the base. What needs no second reading (loss by
position, context gain, late ÷ early) is made of the first one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import NO_BEST_GAIN, NO_BEST_LOSS, NO_TEXT
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, ratio, total
from shridhar_ft.evaluation.ngrams import GRAMS
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.scoring import BLOCK, evenly, gain_sizes

BUCKET = 2048  # positions of a bucket; a window under 16 buckets' length takes sixteenths of itself
CONTROL = 4  # windows that are read behind another author's text
PARTS = 4  # blocks of a window's end and of the buckets that are compared, where few windows are resampled by blocks
COUNTED = 8192  # tokens of a window that the n-grams are asked about: their floor hangs on no position
Reading = Literal["windows", "sliding"]


class Settings(Section):
    """Of `loss_by_position`."""

    context: int | None = Field(None, ge=64)
    """Tokens of a window (default: the model's own window)."""
    windows: int = Field(8, ge=1)
    """Windows of each reading, spread evenly."""
    reading: list[Reading] = Field(["windows"], min_length=1)
    """windows: they do not overlap, all tokens count; sliding: by half a window, only second halves count; or both."""

    @field_validator("reading", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:  # noqa: ANN401 - any YAML
        return list(dict.fromkeys([value] if isinstance(value, str) else value))


class LossByPosition:
    """Reads the windows of the long text, whole and by their ends."""

    batch, version = 1, 2

    def __init__(self, settings: Settings, materials: Materials) -> None:
        self.settings, self.materials = settings, materials
        self.first = settings.reading[0]

    def items(self, reader: Reader) -> list[Item]:
        context = min(self.settings.context or reader.window, reader.window)
        ids = np.concatenate([reader.encode(text.text) for text in self.materials.haystack()] or [[]]).astype(np.int64)
        body = context - len(reader.opening)
        others = [reader.encode(text.text) for text in self.materials.others]
        foreign = max(others, key=len, default=[])
        found: list[Item] = []
        for reading in self.settings.reading:
            step = body if reading == "windows" else body // 2
            starts = list(range(0, len(ids) - body + 1, step))
            if not starts:
                raise Unmeasured(
                    f"the long text has {len(ids):,} tokens and a window {context:,}; name a longer eval.long_text"
                )
            for index, start in enumerate(evenly(starts, self.settings.windows)):
                control = reading == self.first and index < CONTROL and len(foreign) >= body
                found.append(
                    {
                        "key": f"{reading}/{context}/{start}",
                        "reading": reading,
                        "ids": ids[start : start + body],
                        "counts_from": body - step,
                        "foreign": np.array(foreign[:body]) if control else None,
                    }
                )
        return found

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        for item in items:
            ids, opening, begin = item["ids"], np.array(reader.opening), item["counts_from"]
            (whole,) = reader.nats([np.concatenate([opening, ids])])
            whole = whole[len(opening) - 1 :]  # (body,): one a token of the text
            record: dict[str, Any] = {
                "key": item["key"],
                "reading": item["reading"],
                "tokens": len(ids),
                "bytes": _bytes(reader, ids[begin:]),
                "counts_from": begin,
                "nats": float(whole[begin:].sum()),
            }
            record["blocks"] = _blocks(reader, ids[begin:], whole[begin:], record["bytes"])
            if item["reading"] == self.first:
                record |= self._by_place(reader, item, whole)
            yield record

    def _by_place(self, reader: Reader, item: Item, whole: np.ndarray) -> Record:
        """What hangs on where a token stands: buckets, the window's end read otherwise, the n-grams' floor."""
        ids, opening = item["ids"], np.array(reader.opening)
        edges, (last, before) = _edges(len(ids)), gain_sizes(len(ids))
        (short,) = reader.nats([np.concatenate([opening, ids[-last - before :]])])
        pairs = list(pairwise(edges))
        early, late = (whole[slice(*pairs[place])] for place in (_early(pairs), -1))
        found: dict[str, Any] = {
            "edges": edges,
            "buckets": [float(whole[a:b].sum()) for a, b in pairs],
            "last": last,
            "end_whole": float(whole[-last:].sum()),
            "end_short": float(short[-last:].sum()),
            "gains": _sums(short[-last:] - whole[-last:]),
            "early": _sums(early),
            "late": _sums(late),
        }
        if item["foreign"] is not None:
            swapped = np.concatenate([opening, item["foreign"][: len(ids) - last - before], ids[-last - before :]])
            (behind,) = reader.nats([swapped])
            found["end_foreign"] = float(behind[-last:].sum())
        if self.materials.grams is not None:
            counted = ids[item["counts_from"] :][:COUNTED]
            text = reader.decode(counted.tolist())
            found["grams"] = [self.materials.grams.nats(text), len(counted), len(text.encode())]
        return found

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        found: list[Measure] = []
        for how in self.settings.reading:
            loss, bits = (_of_reading(how, name, per) for name, per in (("loss", 1), ("bits", 2)))
            found += [
                Measure(f"loss ({how})", loss[0], total("loss"), "nats a token", False, blocks=loss[1]),
                Measure(f"perplexity ({how})", loss[0], _perplexity, "perplexity", False, blocks=loss[1]),
                Measure(f"bits per byte ({how})", bits[0], total("bits"), "bits per byte", False, blocks=bits[1]),
            ]
        return [
            *found,
            Measure("context gain", _summed(_gains), total("gain"), "nats a token", blocks=_gains),
            Measure("late ÷ early loss", _summed(_shape), _late_to_early, "ratio", False, blocks=_shape),
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        gain, shape = found["context gain"], found["late ÷ early loss"]
        first = [record for record in records if record["reading"] == self.first]
        control = [record for record in first if "end_foreign" in record]
        gain.floor, gain.floor_of = 0.0, "far context of no use"
        if control:
            tokens = sum(record["last"] for record in control)
            gain.floor = sum(record["end_short"] - record["end_foreign"] for record in control) / tokens
            gain.floor_of = f"the same ends behind another author's text ({len(control)} windows)"
        gain.ceiling_of = NO_BEST_GAIN
        gain.target = "above 0, interval and all"
        early = sum(nats for r in first for nats, _ in r["early"]) / sum(n for r in first for _, n in r["early"])
        shape.floor = sum(r["end_short"] for r in first) / sum(r["last"] for r in first) / early
        shape.floor_of = "the ends read with a short context only"
        shape.ceiling, shape.ceiling_of = 1.0, "a window whose end is as well predicted as its beginning, or better"
        shape.target = "at most 1.05"
        for how in self.settings.reading:
            theirs = [(r["nats"], r["tokens"] - r["counts_from"], r["bytes"]) for r in base if r["reading"] == how]
            grams = [record["grams"] for record in first if "grams" in record]
            nats, tokens, size = np.array(theirs or grams or [[np.nan, 1, 1]], dtype=np.float64).sum(axis=0)
            ends = (nats / tokens, np.exp(nats / tokens), nats / np.log(2) / size)
            for name, floor in zip(("loss", "perplexity", "bits per byte"), ends, strict=True):
                one = found[f"{name} ({how})"]
                one.floor = float(floor) if theirs or grams else None
                one.floor_of = "the base model on the same text" if theirs else GRAMS if grams else NO_TEXT
                one.ceiling_of = NO_BEST_LOSS
        return {"by_position": by_position(first), "reading": self.first}


def by_position(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Mean loss of each bucket of positions: `from`, `to`, `loss` (nats a token), `perplexity`, `tokens`."""
    rows = []
    for index, (begin, end) in enumerate(pairwise(records[0]["edges"])):
        loss = sum(record["buckets"][index] for record in records) / ((end - begin) * len(records))
        tokens = (end - begin) * len(records)
        rows.append({"from": begin, "to": end, "loss": loss, "perplexity": float(np.exp(loss)), "tokens": tokens})
    return rows


def _edges(length: int) -> list[int]:
    size = BUCKET if length >= 16 * BUCKET else max(1, length // 16)
    return [*range(0, length - size + 1, size), length]


def _early(pairs: Sequence[tuple[int, int]]) -> int:
    """The bucket that the last one is compared with: positions 6,144 to 8,191 where there are, else the fourth."""
    return min(3, len(pairs) - 1)


def _bytes(reader: Reader, ids: np.ndarray) -> int:
    return len(reader.decode(ids.tolist()).encode())


def _blocks(reader: Reader, ids: np.ndarray, nats: np.ndarray, size: int) -> list[list[float]]:
    """Nats, tokens and bytes of blocks of about 1,024 tokens."""
    parts = max(1, round(len(ids) / BLOCK))
    own, of = np.array_split(ids, parts), np.array_split(nats, parts)
    sizes = np.array([_bytes(reader, part) for part in own], dtype=np.float64)
    sizes *= size / sizes.sum()  # a character that a cut goes through is counted in both
    return [[float(n.sum()), len(part), float(b)] for part, n, b in zip(own, of, sizes, strict=True)]


def _sums(nats: np.ndarray) -> list[list[float]]:
    """Sum and number of each of a few blocks."""
    return [[float(part.sum()), len(part)] for part in np.array_split(nats, min(PARTS, len(nats)))]


Columns = Callable[[Record], dict[str, float]]
Blocks = Callable[[Record], list[dict[str, float]]]


def _of_reading(how: str, name: str, per: int) -> tuple[Columns, Blocks]:
    """What a record of one reading adds, whole and by blocks, to the sums of `name`: over tokens (1) or bytes (2)."""
    scale = 1.0 if name == "loss" else float(1 / np.log(2))

    def blocks(record: Record) -> list[dict[str, float]]:
        if record["reading"] != how:
            return []
        return [{f"{name}/sum": block[0] * scale, f"{name}/n": block[per]} for block in record["blocks"]]

    return _summed(blocks), blocks


def _summed(blocks: Blocks) -> Columns:
    def columns(record: Record) -> dict[str, float]:
        rows = blocks(record)
        return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}

    return columns


def _gains(record: Record) -> list[dict[str, float]]:
    return [{"gain/sum": nats, "gain/n": tokens} for nats, tokens in record.get("gains", ())]


def _shape(record: Record) -> list[dict[str, float]]:
    return [
        {"late/sum": late[0], "late/n": late[1], "early/sum": early[0], "early/n": early[1]}
        for late, early in zip(record.get("late", ()), record.get("early", ()), strict=True)
    ]


def _perplexity(sums: dict[str, np.ndarray]) -> np.ndarray:
    return np.exp(total("loss")(sums))


def _late_to_early(sums: dict[str, np.ndarray]) -> np.ndarray:
    return ratio(ratio(sums["late/sum"], sums["late/n"]), ratio(sums["early/sum"], sums["early/n"]))


def make(settings: Settings, materials: Materials, seed: int) -> LossByPosition:
    """The task; it draws nothing."""
    return LossByPosition(settings, materials)
