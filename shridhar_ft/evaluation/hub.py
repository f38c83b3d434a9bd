"""lm-evaluation-harness's own tasks (`ruler`, `libra`), for those who reach the Hub: a process a length, no prompt cut.

`limit` takes the first items, so each length runs alone; `max_length` is the longest prompt and answer, read off the
requests before the model runs (evaluation/hub_process.py). LIBRA's scores there are no leaderboard's. Floors and
ceilings are not known here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from shridhar_ft.config_data import Section
from shridhar_ft.evaluation.ends import OF_THE_HARNESS
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Measure, Record, Score, total, wilson
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item


class Settings(Section):
    """Of `lm_eval`."""

    tasks: list[str] = Field(["ruler", "libra"], min_length=1)
    """Tasks, groups or tags of the harness."""
    lengths: list[int] = Field([4096], min_length=1)
    """Tokens that RULER makes its prompts for; each is a run of its own."""
    limit: int | None = Field(50, ge=1)
    """Most items of a task and length (default: 50; null: all)."""


class Hub:
    """Starts the harness and takes its numbers over."""

    batch, version = 1, 1

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def items(self, reader: Reader) -> list[Item]:
        if find_spec("lm_eval") is None:
            raise Unmeasured("lm-evaluation-harness is not installed; run `pip install 'shridhar_ft[lm-eval]'`")
        self.folder = str(getattr(getattr(reader, "model", None), "name_or_path", ""))
        if not (Path(self.folder) / "config.json").is_file():
            raise Unmeasured("the harness reads model folders only; name the run's export or a folder with config.json")
        return [{"key": str(length), "length": length} for length in self.settings.lengths]

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        for item in items:
            with TemporaryDirectory() as folder:
                asked, said = Path(folder) / "asked.json", Path(folder) / "said.json"
                wanted = {
                    **self.settings.model_dump(),
                    "length": item["length"],
                    "model": self.folder,
                    "seed": self.seed,
                }
                asked.write_text(json.dumps({**wanted, "window": reader.window}), encoding="utf-8")
                command = [sys.executable, "-m", "shridhar_ft.evaluation.hub_process", str(asked), str(said)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode or not said.is_file():
                    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    raise Unmeasured(f"the harness ended without numbers at {item['length']:,} tokens: {last}")
                yield {**item, **json.loads(said.read_text(encoding="utf-8"))}

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        return [
            Measure(f"lm-eval: {name} at {record['length']:,}", _of(record["length"], name), total("hits"))
            for record in records
            for name in record["tasks"]
        ]

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        for record in records:
            for name, one in record["tasks"].items():
                score = found[f"lm-eval: {name} at {record['length']:,}"]
                score.n = one["n"]  # the harness's items, of which a record holds the mean
                score.low, score.high = wilson(one["value"], one["n"])
                score.floor_of = score.ceiling_of = OF_THE_HARNESS
        return {"max_length": {str(record["length"]): record["max_length"] for record in records}}


def _of(length: int, name: str) -> Any:  # noqa: ANN401 - a function of a record
    def columns(record: Record) -> dict[str, float]:
        one = record["tasks"].get(name) if record["length"] == length else None
        return {"hits/sum": one["value"] * one["n"], "hits/n": one["n"]} if one else {}

    return columns


def make(settings: Settings, materials: Materials, seed: int) -> Hub:
    """The task; it reads no text of the run."""
    return Hub(settings, seed)
