"""Tokens a second that a model reads (prefill) and says (decode), at depths of its window, on the machine at hand.

    decode    floor: without a cache, the whole text is read again for each token
              ceiling: what memory allows, which is read once a token: bytes a second ÷ (weights + keys and values)
    prefill   floor: one token at a time, as decode does it
              ceiling: what the processor multiplies, ÷ 2 operations a weight and token (attention comes on top)

Each repeat fills the window anew, depth after depth, so that a busy minute does not fall on one depth alone. The
interval is over repeats: it says how steady this machine was, and nothing of another one.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.cores import cores
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.ends import NO_PRODUCTS
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, ratio
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item
from shridhar_ft.runfolder import fingerprint
from shridhar_ft.speed.bounds import compute_rate, memory_rate
from shridhar_ft.speed.timing import SEED_TOKENS, Timed, time_at

UNIT = "tokens a second"
PROMISED = 10  # tokens a second, the lower end of the plan's 10 to 20
LONGEST = 8192  # tokens of the window that the default depths share out


class Settings(Section):
    """Of `speed`."""

    depths: list[Annotated[int, Field(ge=0)]] = Field([])
    """Tokens that stand there already; those beyond the window are left out with a line (default: 0, a half, and all
    but what is read and said, of a window up to 8,192)."""
    prefill: int = Field(256, ge=1, le=SEED_TOKENS)
    """Tokens that are read."""
    decode: int = Field(16, ge=1)
    """Tokens that are said."""
    repeats: int = Field(5, ge=2)
    """Measurements of each depth."""


class Speed:
    """Times one depth after the other."""

    batch = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Another machine's times are not taken for this one's.
        self.version = int(fingerprint(2, platform.node(), platform.machine(), cores())[:8], 16)
        self.notes: list[str] = []
        self._timed: Timed | None = None
        self._bounds: dict[str, float] = {}

    def items(self, reader: Reader) -> list[Item]:
        room = reader.window - self.settings.prefill - self.settings.decode
        if room < 0 or reader.window < SEED_TOKENS:
            raise Unmeasured(f"a window of {reader.window:,} tokens is too short to read and say anything in")
        last = min(reader.window, LONGEST) - self.settings.prefill - self.settings.decode
        asked = self.settings.depths or sorted({0, min(reader.window, LONGEST) // 2, last})
        if beyond := [depth for depth in asked if depth > room]:
            self.notes.append(f"depths beyond the window of {reader.window:,} tokens are left out: {beyond}")
        depths = [depth for depth in asked if depth <= room]
        if not depths:
            raise Unmeasured(f"no depth fits the window of {reader.window:,} tokens")
        return [
            {"key": f"{depth}/{repeat}", "depth": depth} for repeat in range(self.settings.repeats) for depth in depths
        ]

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        try:
            timed = self._timed = self._timed or reader.timed()
            bounds = self._bounds = self._bounds or _bounds(timed)
            for item in items:
                found = time_at(timed, item["depth"], self.settings.prefill, self.settings.decode)
                yield {
                    "key": item["key"],
                    "depth": item["depth"],
                    "prefill_tokens": self.settings.prefill,
                    "prefill_seconds": found.read[0],
                    "prefill_cpu_seconds": found.read[1],
                    "decode_tokens": self.settings.decode,
                    "decode_seconds": sum(wall for wall, _ in found.drawn),
                    "decode_cpu_seconds": sum(processor for _, processor in found.drawn),
                    "bytes_read_per_token": timed.weights + found.bytes_per_token * item["depth"],
                    **bounds,
                }
        except UserError as error:
            raise Unmeasured(str(error)) from error

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        return [
            Measure(_name(way, depth), columns_of(way, depth), rate_of, UNIT)
            for way in ("decode", "prefill")
            for depth in sorted({record["depth"] for record in records})
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        for depth in sorted({record["depth"] for record in records}):
            decode, prefill = found[_name("decode", depth)], found[_name("prefill", depth)]
            one = next(record for record in records if record["depth"] == depth)
            decode.ceiling = one["memory_bytes_per_second"] / one["bytes_read_per_token"]
            decode.ceiling_of = "what memory allows"
            whole = depth + one["prefill_tokens"]
            decode.floor, decode.floor_of = prefill.value / whole, "no cache: all is read again for each token"
            decode.target = f"at least {PROMISED}, the lower end of the plan's 10 to 20, at every depth"
            prefill.floor, prefill.floor_of = decode.value, "one token at a time"
            if one["operations_per_token"]:
                prefill.ceiling = one["operations_per_second"] / one["operations_per_token"]
                prefill.ceiling_of = "what the processor multiplies"
            else:
                prefill.ceiling_of = NO_PRODUCTS
            for score in (decode, prefill):
                score.details["cpu seconds a token"] = _cpu(records, depth, "decode" if score is decode else "prefill")
        machine = f"{platform.machine()}, {cores()} cores"
        return {
            "machine": machine,
            "notes": [*self.notes, f"measured on {machine}; another machine, or a busy one, has other numbers"],
        }


def _bounds(timed: Timed) -> dict[str, float]:
    """What memory and processor do at best, measured now; 0 where it is not known."""
    found = {
        "memory_bytes_per_second": memory_rate(timed.device),
        "operations_per_second": 0.0,
        "operations_per_token": 0.0,
    }
    if timed.parameters is not None:
        import torch

        kind = {2: torch.bfloat16}.get(round(timed.weights / timed.parameters), torch.float32)
        found["operations_per_second"] = compute_rate(timed.device, kind)
        found["operations_per_token"] = 2.0 * timed.parameters
    return found


def _name(way: str, depth: int) -> str:
    return f"{way} behind {depth:,} tokens"


def columns_of(way: str, depth: int) -> Callable[[Record], dict[str, float]]:
    """Measure: what a record of this depth adds to tokens and seconds.

    Args:
        way: `decode` or `prefill`.
        depth: Tokens that stand there already.
    """

    def columns(record: Record) -> dict[str, float]:
        if record["depth"] != depth:
            return {}
        return {"tokens": record[f"{way}_tokens"], "seconds": record[f"{way}_seconds"]}

    return columns


def rate_of(sums: dict[str, Any]) -> Any:  # noqa: ANN401 - numpy's array
    """Measure: tokens over seconds."""
    return ratio(sums["tokens"], sums["seconds"])


def _cpu(records: Sequence[Record], depth: int, way: str) -> float:
    rows = [record for record in records if record["depth"] == depth]
    return sum(row[f"{way}_cpu_seconds"] for row in rows) / sum(row[f"{way}_tokens"] for row in rows)


def make(settings: Settings, materials: Materials, seed: int) -> Speed:
    """The task; it reads no text and draws nothing."""
    return Speed(settings)
