"""Bits per byte on held-out books and on other authors: what tokenizers cannot change, for gain and for forgetting.

BPB = Σ nats ÷ (ln 2 · UTF-8 bytes). The specialisation gain is 1 − BPB ÷ BPB of the base on the held-out books,
forgetting is the rise of BPB on other authors; both need the base's evaluation. Floor: the base, or character
n-grams of the training text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import NO_BEST_LOSS, NO_TEXT
from shridhar_ft.evaluation.gain import intervals
from shridhar_ft.evaluation.materials import Materials, Text, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, total
from shridhar_ft.evaluation.ngrams import GRAMS
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.evaluation.texts import passages
from shridhar_ft.scoring import evenly

SIDES = {"held-out": "the author's held-out books", "others": "other authors"}


class Settings(Section):
    """Of `bits_per_byte`."""

    characters: int = Field(3000, ge=100)
    """Length of a passage (characters); each is read by itself, so long contexts play no part here."""
    passages: int = Field(80, ge=2)
    """Passages of each side, spread evenly."""


class BitsPerByte:
    """Reads passages of both sides."""

    batch, version = 4, 2

    def __init__(self, settings: Settings, materials: Materials) -> None:
        self.settings, self.materials = settings, materials
        self.sides = {"held-out": materials.held_out, "others": materials.others}

    def items(self, reader: Reader) -> list[Item]:
        found: list[Item] = []
        for side, texts in self.sides.items():
            cut = _cut(texts, self.settings.characters)
            found += [
                {"key": f"{side}/{index}", "side": side, "text": text}
                for index, text in enumerate(evenly(cut, self.settings.passages))
            ]
        if not any(item["side"] == "held-out" for item in found):
            raise Unmeasured("no held-out text is as long as one passage; set data.split.test, or shorten characters")
        return found

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        room = reader.window - len(reader.opening)
        pieces = [reader.encode(item["text"]) for item in items]
        for piece in pieces:
            if len(piece) > room:
                raise Unmeasured(
                    f"a passage has {len(piece):,} tokens and the model's window {reader.window:,}; shorten characters"
                )
        found = reader.nats([np.array([*reader.opening, *piece]) for piece in pieces])
        for item, piece, nats in zip(items, pieces, found, strict=True):
            yield {
                "key": item["key"],
                "side": item["side"],
                "nats": float(nats[len(reader.opening) - 1 :].sum()),
                "tokens": len(piece),
                "bytes": len(item["text"].encode()),
                "grams": self.materials.grams.nats(item["text"]) if self.materials.grams else None,
            }

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        there = {record["side"] for record in records}
        return [
            Measure(f"bits per byte, {SIDES[side]}", _of(side), total("bits"), "bits per byte", False)
            for side in SIDES
            if side in there
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        for side, words in SIDES.items():
            one = found.get(f"bits per byte, {words}")
            theirs = [record for record in base if record["side"] == side]
            if one is None:
                continue
            one.ceiling_of = NO_BEST_LOSS
            if not theirs:
                own = [record for record in records if record["side"] == side]
                if own[0]["grams"] is None:
                    one.floor_of = NO_TEXT
                else:
                    one.floor = float(sum(r["grams"] for r in own) / np.log(2) / sum(r["bytes"] for r in own))
                    one.floor_of = GRAMS
                continue
            before = sum(r["nats"] for r in theirs) / np.log(2) / sum(r["bytes"] for r in theirs)
            one.floor, one.floor_of = float(before), "the base model on the same passages"
            if side == "others":
                one.target = "at most 2 % above the base"
        changes = intervals(records, base)
        return {"intervals": changes, **{name: change["value"] for name, change in changes.items()}}


def _of(side: str) -> Callable[[Record], dict[str, float]]:
    def columns(record: Record) -> dict[str, float]:
        if record["side"] != side:
            return {}
        return {"bits/sum": record["nats"] / np.log(2), "bits/n": record["bytes"]}

    return columns


def _cut(texts: Sequence[Text], characters: int) -> list[str]:
    return [passage for text in texts for passage in passages(text.text, characters)]


def make(settings: Settings, materials: Materials, seed: int) -> BitsPerByte:
    """The task; it draws nothing."""
    return BitsPerByte(settings, materials)
