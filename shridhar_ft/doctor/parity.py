"""The parity matrix: the same recipe under every engine, on two CPU processes, against one process.

    full, LoRA, QLoRA  ×  one process, DDP, ZeRO-2, ZeRO-3, Ulysses

Each cell is a real training: `accelerate launch -m shridhar_ft.pretrain` on a small recipe, its first losses and
gradient norms read from metrics.jsonl. A step reads four windows everywhere: 4 × 1 in one process, 2 × 1 × 2 in two,
and 1 × 4 where two processes share each window. Windows are packed; for Ulysses, which a CPU has without packing only,
they hold one document each, in both of the runs that are compared.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft.config import load_recipe
from shridhar_ft.preparation import prepare
from shridhar_ft.progress import quiet
from shridhar_ft.runfolder import read_json, run_folder
from shridhar_ft.shipped import shipped

METHODS = ("full", "lora", "qlora")
ENGINES = {
    "one process": "cpu",
    "DDP": "cpu_ddp",
    "ZeRO-2": "cpu_zero2",
    "ZeRO-3": "cpu_zero3",
    "Ulysses": "cpu_ulysses",
}
WINDOWS = 4  # that a step reads, under every engine
TOLERANCES = {"fp32": (1e-5, 2e-4), "bf16": (5e-3, 5e-2)}
"""Largest relative difference of a loss and of a gradient norm. In fp32 only the order of sums differs; in bf16
DeepSpeed's layers are bf16 outright, where one process computes fp32 weights under autocast."""
WINDOW = 128  # tokens
PIECE = 190  # characters: at two a token more than half a window, so that no second piece goes in
PIECES = 80  # more would repeat phrases, which are cut out of the train split and leave short pieces
STAGE = "short"


@dataclass(frozen=True)
class Cell:
    """One combination and what it showed."""

    method: str
    engine: str
    data: str
    """`packed`, or `single`: one document a window."""
    verdict: str
    """`equal`, `differs`, `refused` or `failed`."""
    loss: float | None = None
    """Largest relative difference of a loss from one process's; of the reference itself, its first loss."""
    norm: float | None = None
    """The same of a gradient norm."""
    why: str = ""
    """Reason of a refusal or failure."""
    isolation: bool | None = None
    """Whether the isolation receipt of the part holds."""

    @property
    def ok(self) -> bool:
        return self.verdict in ("equal", "refused") and self.isolation is not False


def parity(
    folder: Path,
    say: Callable[[str], None],
    steps: int = 10,
    precision: str = "fp32",
    methods: Sequence[str] = METHODS,
    engines: Sequence[str] = tuple(ENGINES),
) -> list[Cell]:
    """Train every combination and compare.

    Args:
        folder: An empty folder that the runs go into.
        say: Told each cell as it is known.
        steps: Optimizer steps that are compared.
        precision: `fp32` or `bf16`.
        methods: Of METHODS.
        engines: Names of ENGINES; `one process` is what they are compared with, and always run.
    """
    cells = []
    with chdir(folder):
        for data in ("packed", "single"):
            write_recipe(data, steps, precision)
        for method in methods:
            references: dict[str, list[tuple[float, float]]] = {}
            for engine in dict.fromkeys(("one process", *engines)):
                for data in _data_for(engine, method, "Ulysses" in engines):
                    cell = _cell(method, engine, data, steps, precision, references)
                    cells.append(cell)
                    say(_line(cell))
    return cells


def _data_for(engine: str, method: str, with_single: bool) -> Iterator[str]:
    """Which windows an engine is tried on.

    Windows of one document each are of unequal lengths, so that means of micro-batches or ranks would show: DDP has
    them too. That Ulysses refuses packed ones is shown once.
    """
    if engine == "Ulysses":
        yield from ("single", "packed") if method == "full" else ("single",)
    elif with_single and (engine == "one process" or (engine == "DDP" and method == "full")):
        yield from ("packed", "single")
    else:
        yield "packed"


def _cell(
    method: str,
    engine: str,
    data: str,
    steps: int,
    precision: str,
    references: dict[str, list[tuple[float, float]]],
) -> Cell:
    name = f"{method}-{engine.lower().replace(' ', '-')}-{data}"
    status, why = _train(f"{data}.yaml", name, method, engine)
    if status == 2:
        return Cell(method, engine, data, "refused", why=why)
    if status != 0:
        return Cell(method, engine, data, "failed", why=why)
    found = _figures(name)
    if len(found) != steps:
        return Cell(method, engine, data, "failed", why=f"{len(found)} of {steps} steps were logged")
    isolation = bool(read_json(Path("runs") / name / "stages" / STAGE / "receipts" / "isolation.json")["ok"])
    if engine == "one process":
        references[data] = found
        return Cell(method, engine, data, "equal", 0.0, 0.0, isolation=isolation)
    if data not in references:
        return Cell(method, engine, data, "failed", why="the run of one process that it is compared with failed")
    loss, norm = (
        max(abs(own[i] - other[i]) / abs(other[i]) for own, other in zip(found, references[data], strict=True))
        for i in (0, 1)
    )
    limits = TOLERANCES[precision]
    verdict = "equal" if loss <= limits[0] and norm <= limits[1] else "differs"
    return Cell(method, engine, data, verdict, loss, norm, isolation=isolation)


def _train(recipe: str, name: str, method: str, engine: str) -> tuple[int, str]:
    """Train one run through accelerate's launcher; the true status, and what it said where it is not 0."""
    config = shipped(f"accelerate_configs/{ENGINES[engine]}.yaml")
    several = {"one process": (WINDOWS, 1), "Ulysses": (1, WINDOWS)}
    size, accumulated = several.get(engine, (1, WINDOWS // 2))
    overrides = [
        f"name={name}",
        f"train.method={method}",
        f"train.batch_size={size}",
        f"train.gradient_accumulation={accumulated}",
    ]
    prepare(load_recipe(recipe, overrides), run_folder(name), quiet)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--quiet"),
            *("--num_cpu_threads_per_process", "1", "--main_process_port", "0"),
            *("-m", "shridhar_ft.pretrain", recipe, *overrides),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    Path(f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode == 0:
        return 0, ""
    file = Path("runs") / name / "status.json"
    left = read_json(file) if file.is_file() else {}
    if left.get("status"):
        return int(left["status"]), left["message"]
    last = (done.stderr.strip().splitlines() or ["no word of its own"])[-1]
    return 1, f"{last} (its log: {Path(f'{name}.log').resolve()})"


def _figures(name: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    lines = (Path("runs") / name / "stages" / STAGE / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = (json.loads(line) for line in lines)
    return [(line["loss"], line["grad_norm"]) for line in logged if "loss" in line]


def write_recipe(data: str, steps: int, precision: str) -> None:
    """A tiny model on the bundled books: as they are, or cut into works that each fill a window alone."""
    books = shipped("recipes/demo/data/books")
    if data == "single":
        pieces = Path("pieces")
        pieces.mkdir()
        words = " ".join(path.read_text(encoding="utf-8") for path in sorted(books.glob("*.txt"))).split()
        for number, text in enumerate(islice(_pieces(words), PIECES)):
            (pieces / f"{number:04}.txt").write_text(text + "\n", encoding="utf-8")
        books = pieces.resolve()
    recipe = {
        "name": data,
        # A piece may look like contents; as works they are no book's.
        "data": {"books": {"paths": f"{books}/*.txt"}, "clean": {"contents": False, "front_matter": False}},
        "tokenizer": {"train": {"vocab_size": 600}},
        "model": {
            "from_config": {
                "model_type": "llama",
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            }
        },
        "train": {
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup": 0,
            "rank": 4,
            "max_steps": steps,
            "log_every": 1,
            "evaluate_every": steps,
            "precision": precision,
        },
        "stages": [{"name": STAGE, "context": WINDOW, "gate": "tell"}],
        "eval": {"max_windows": 1},
    }
    Path(f"{data}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def _pieces(words: list[str]) -> Iterator[str]:
    """Texts of a little over PIECE characters, of whole words."""
    held: list[str] = []
    for word in words:
        held.append(word)
        if sum(map(len, held)) + len(held) > PIECE:
            yield " ".join(held)
            held = []


# ------------------------------------------------------------------------------------------------- showing


def _line(cell: Cell) -> str:
    told = f"{cell.method:<6} {cell.engine:<12} {cell.data:<7} {cell.verdict:<8}"
    if cell.loss is not None and cell.engine != "one process":
        told += f" loss {cell.loss:.1e}  gradient norm {cell.norm:.1e}"
    return f"{told} {cell.why}".rstrip()


def as_json(cells: list[Cell]) -> dict[str, Any]:
    """The matrix for a machine."""
    return {"ok": all(cell.ok for cell in cells), "cells": [asdict(cell) for cell in cells]}


def table(cells: list[Cell]) -> list[str]:
    """The matrix as lines: the largest relative differences of losses and gradient norms from one process."""
    lines = [f"{'':<8}" + "".join(f"{engine:<24}" for engine in dict.fromkeys(cell.engine for cell in cells))]
    for method in dict.fromkeys(cell.method for cell in cells):
        row = f"{method:<8}"
        for engine in dict.fromkeys(cell.engine for cell in cells):
            own = [cell for cell in cells if (cell.method, cell.engine) == (method, engine)]
            shown = next((cell for cell in own if cell.verdict != "refused"), own[0] if own else None)
            if shown is None:
                row += f"{'':<24}"
            elif engine == "one process" and shown.verdict == "equal":
                row += f"{'the reference':<24}"
            elif shown.loss is None:
                row += f"{shown.verdict:<24}"
            else:
                row += f"{f'{shown.verdict} {shown.loss:.0e} / {shown.norm:.0e}':<24}"
        lines.append(row.rstrip())
    refused = [
        f"refused: {cell.engine} on {cell.data} windows: {cell.why}" for cell in cells if cell.verdict == "refused"
    ]
    failed = [f"failed: {cell.method} under {cell.engine}: {cell.why}" for cell in cells if cell.verdict == "failed"]
    return [*lines, *dict.fromkeys(refused), *failed]
