"""Loss by position and context gain on a long text: how much of its window a model uses.

Windows do not overlap: a token at a window's beginning has little context, as in training. The loss over a window is
not that of a sliding one; `sliding` reads windows that overlap and counts only their second halves, and is named so.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, ratio, total
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.scoring import evenly, gain_sizes

BUCKET = 2048  # positions of a bucket; a window under 16 buckets' length takes sixteenths of itself
CONTROL = 4  # windows that are read behind another author's text


class Settings(Section):
    """Of `loss_by_position`."""

    context: int | None = Field(None, ge=64)
    """Tokens of a window (default: the model's own window)."""
    windows: int = Field(8, ge=1)
    """Windows that are read, spread evenly."""
    reading: Literal["windows", "sliding"] = "windows"
    """windows: they do not overlap, all tokens count; sliding: by half a window, only the second half counts."""


class LossByPosition:
    """Reads the windows of the long text, whole and by their ends."""

    batch, version = 1, 1

    def __init__(self, settings: Settings, materials: Materials) -> None:
        self.settings, self.materials = settings, materials

    def items(self, reader: Reader) -> list[Item]:
        context = min(self.settings.context or reader.window, reader.window)
        ids = np.concatenate([reader.encode(text.text) for text in self.materials.haystack()] or [[]]).astype(np.int64)
        body = context - len(reader.opening)
        step = body if self.settings.reading == "windows" else body // 2
        starts = list(range(0, len(ids) - body + 1, step))
        if not starts:
            raise Unmeasured(
                f"the long text has {len(ids):,} tokens and a window {context:,}; name a longer eval.long_text"
            )
        others = [reader.encode(text.text) for text in self.materials.others]
        foreign = max(others, key=len, default=[])
        chosen = evenly(starts, self.settings.windows)
        return [
            {
                "key": f"{context}/{start}",
                "ids": ids[start : start + body],
                "counts_from": 0 if self.settings.reading == "windows" else body // 2,
                "foreign": np.array(foreign[:body]) if index < CONTROL and len(foreign) >= body else None,
            }
            for index, start in enumerate(chosen)
        ]

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        for item in items:
            ids, opening = item["ids"], np.array(reader.opening)
            last, before = gain_sizes(len(ids))
            (whole,) = reader.nats([np.concatenate([opening, ids])])
            whole = whole[len(opening) - 1 :]  # (body,): one a token of the text
            (short,) = reader.nats([np.concatenate([opening, ids[-last - before :]])])
            record: dict[str, Any] = {
                "key": item["key"],
                "tokens": len(ids),
                "bytes": len(reader.decode(ids[item["counts_from"] :].tolist()).encode()),
                "edges": _edges(len(ids)),
                "counts_from": item["counts_from"],
                "buckets": [float(whole[a:b].sum()) for a, b in _pairs(_edges(len(ids)))],
                "nats": float(whole[item["counts_from"] :].sum()),
                "last": last,
                "end_whole": float(whole[-last:].sum()),
                "end_short": float(short[-last:].sum()),
            }
            if item["foreign"] is not None:
                swapped = np.concatenate([opening, item["foreign"][: len(ids) - last - before], ids[-last - before :]])
                (behind,) = reader.nats([swapped])
                record["end_foreign"] = float(behind[-last:].sum())
            yield record

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        def loss(record: Record) -> dict[str, float]:
            return {"loss/sum": record["nats"], "loss/n": record["tokens"] - record["counts_from"]}

        def bits(record: Record) -> dict[str, float]:
            return {"bits/sum": record["nats"] / np.log(2), "bits/n": record["bytes"]}

        def gain(record: Record) -> dict[str, float]:
            return {"gain/sum": record["end_short"] - record["end_whole"], "gain/n": record["last"]}

        def ends(record: Record) -> dict[str, float]:
            early, late = _early_and_late(record)
            return {"late/sum": late[0], "late/n": late[1], "early/sum": early[0], "early/n": early[1]}

        how = self.settings.reading
        return [
            Measure(f"loss ({how})", loss, total("loss"), "nats a token", False),
            Measure(f"bits per byte ({how})", bits, total("bits"), "bits per byte", False),
            Measure("context gain", gain, total("gain"), "nats a token"),
            Measure(
                "late ÷ early loss",
                ends,
                lambda s: ratio(ratio(s["late/sum"], s["late/n"]), ratio(s["early/sum"], s["early/n"])),
                "ratio",
                False,
            ),
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        gain, shape = found["context gain"], found["late ÷ early loss"]
        control = [record for record in records if "end_foreign" in record]
        if control:
            tokens = sum(record["last"] for record in control)
            gain.floor = sum(record["end_short"] - record["end_foreign"] for record in control) / tokens
            gain.floor_of = f"the same ends behind another author's text ({len(control)} windows)"
        gain.target = "above 0, interval and all"
        shape.ceiling, shape.ceiling_of = 1.0, "a window whose end is as well predicted as its beginning, or better"
        shape.target = "at most 1.05"
        if base:
            for one, of in zip((found[m.name] for m in self.measures(records)[:2]), ("tokens", "bytes"), strict=True):
                nats = sum(r["nats"] for r in base)
                count = sum(r["bytes"] if of == "bytes" else r["tokens"] - r["counts_from"] for r in base)
                one.floor = nats / count / (np.log(2) if of == "bytes" else 1)
                one.floor_of = "the base model on the same text"
        return {"by_position": by_position(records), "reading": self.settings.reading}


def by_position(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Mean loss of each bucket of positions: `from`, `to`, `loss` (nats a token), `perplexity`, `tokens`."""
    rows = []
    for index, (begin, end) in enumerate(_pairs(records[0]["edges"])):
        loss = sum(record["buckets"][index] for record in records) / ((end - begin) * len(records))
        tokens = (end - begin) * len(records)
        rows.append({"from": begin, "to": end, "loss": loss, "perplexity": float(np.exp(loss)), "tokens": tokens})
    return rows


def _edges(length: int) -> list[int]:
    size = BUCKET if length >= 16 * BUCKET else max(1, length // 16)
    return [*range(0, length - size + 1, size), length]


def _pairs(edges: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(edges))


def _early_and_late(record: Record) -> tuple[tuple[float, int], tuple[float, int]]:
    """Sums and tokens of an early bucket and the last: positions 6,144 to 8,191 where there are, else the fourth."""
    pairs = _pairs(record["edges"])
    early = min(3, len(pairs) - 1)
    return tuple((record["buckets"][i], pairs[i][1] - pairs[i][0]) for i in (early, len(pairs) - 1))  # type: ignore[return-value]


def make(settings: Settings, materials: Materials, seed: int) -> LossByPosition:
    """The task; it draws nothing."""
    return LossByPosition(settings, materials)
