"""The parity matrix: the same recipe under every engine, on two CPU processes, against one process.

    full, LoRA, QLoRA  ×  one process, DDP, ZeRO-2, ZeRO-3, Ulysses

Each cell is a real training, as `accelerate launch -m shridhar_ft.pretrain` does it on a small recipe, its first losses
and gradient norms read from metrics.jsonl; the runs of an engine share one launch. A step reads four windows
everywhere: 4 × 1 in one process, 2 × 1 × 2 in two, and 1 × 4 where two processes share each window. Windows are packed;
for Ulysses, which a CPU has without packing only, they hold one document each, in both of the runs that are compared.
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
from shridhar_ft.errors import UserError
from shridhar_ft.preparation import prepare
from shridhar_ft.progress import quiet
from shridhar_ft.runfolder import read_json, run_folder, write_json
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


@dataclass(frozen=True)
class Trial:
    """A run that one cell is read from."""

    method: str
    engine: str
    data: str
    """`packed` or `single`."""

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.method}-{self.engine.lower().replace(' ', '-')}-{self.data}"

    @property
    def arguments(self) -> list[str]:
        """Its command line."""
        several = {"one process": (WINDOWS, 1), "Ulysses": (1, WINDOWS)}
        size, accumulated = several.get(self.engine, (1, WINDOWS // 2))
        return [
            f"{self.data}.yaml",
            f"name={self.name}",
            f"train.method={self.method}",
            f"train.batch_size={size}",
            f"train.gradient_accumulation={accumulated}",
        ]


def parity(
    folder: Path,
    say: Callable[[str], None],
    steps: int = 10,
    precision: str = "fp32",
    methods: Sequence[str] = METHODS,
    engines: Sequence[str] = tuple(ENGINES),
) -> list[Cell]:
    """Train every combination and compare; each engine is started once, and trains its runs in turn.

    Args:
        folder: An empty folder that the runs go into.
        say: Told each cell as it is known.
        steps: Optimizer steps that are compared.
        precision: `fp32` or `bf16`.
        methods: Of METHODS.
        engines: Names of ENGINES; `one process` is what they are compared with, and always run.
    """
    cells = []
    references: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with chdir(folder):
        for data in ("packed", "single"):
            write_recipe(data, steps, precision)
        for engine in dict.fromkeys(("one process", *engines)):
            for trial, status, why in _train(engine, _trials(engine, methods, "Ulysses" in engines)):
                cell = _cell(trial, status, why, steps, precision, references)
                cells.append(cell)
                say(_line(cell))
    return cells


def _trials(engine: str, methods: Sequence[str], with_single: bool) -> list[Trial]:
    """What an engine is tried on.

    Windows of one document each are of unequal lengths, so that means of micro-batches or ranks would show: DDP has
    them too. That Ulysses refuses packed ones is shown once, and last: a refusal ends the launch.
    """
    first = methods[0]
    if engine == "Ulysses":
        return [*(Trial(method, engine, "single") for method in methods), Trial(first, engine, "packed")]
    single = [*methods] if engine == "one process" else [first] if engine == "DDP" else []
    return [
        *(Trial(method, engine, "packed") for method in methods),
        *(Trial(method, engine, "single") for method in single if with_single),
    ]


def _cell(
    trial: Trial,
    status: int,
    why: str,
    steps: int,
    precision: str,
    references: dict[tuple[str, str], list[tuple[float, float]]],
) -> Cell:
    def told(verdict: str, why: str = "", **found: float | bool) -> Cell:
        return Cell(trial.method, trial.engine, trial.data, verdict, why=why, **found)  # type: ignore[arg-type]

    if status != 0:
        return told("refused" if status == UserError.status else "failed", why)
    found = _figures(trial.name)
    if len(found) != steps:
        return told("failed", f"{len(found)} of {steps} steps were logged")
    receipts = Path("runs") / trial.name / "stages" / STAGE / "receipts"
    isolation = bool(read_json(receipts / "isolation.json")["ok"])
    if trial.engine == "one process":
        references[trial.method, trial.data] = found
        return told("equal", loss=0.0, norm=0.0, isolation=isolation)
    reference = references.get((trial.method, trial.data))
    if reference is None:
        return told("failed", "the run of one process that it is compared with failed")
    loss, norm = (
        max(abs(own[i] - other[i]) / abs(other[i]) for own, other in zip(found, reference, strict=True)) for i in (0, 1)
    )
    limits = TOLERANCES[precision]
    verdict = "equal" if loss <= limits[0] and norm <= limits[1] else "differs"
    return told(verdict, loss=loss, norm=norm, isolation=isolation)


def _train(engine: str, trials: list[Trial]) -> Iterator[tuple[Trial, int, str]]:
    """Train the runs of an engine; the true status of each, and what it said where that is not 0."""
    for trial in trials:
        prepare(load_recipe(trial.arguments[0], trial.arguments[1:]), run_folder(trial.name), quiet)
    waiting = list(trials)
    while waiting:  # once, but for a run that failed: those behind it get a launch of their own
        log = _launch(engine, waiting)
        while waiting:
            trial = waiting.pop(0)
            file = Path("runs") / trial.name / "status.json"
            left = read_json(file) if file.is_file() else {}
            status = left.get("status")
            if status is None:  # not even a sentence: a traceback, or killed
                last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no word of its own"])[-1]
                yield trial, 1, f"{last} (its log: {log.resolve()})"
                break
            yield trial, status, left["message"] if status else ""
            if status:
                break


def _launch(engine: str, trials: list[Trial]) -> Path:
    """Start the engine's processes through accelerate's launcher for these runs; the log of what they said."""
    config = shipped(f"accelerate_configs/{ENGINES[engine]}.yaml")
    file = Path(f"{trials[0].name}.json")
    write_json(file, [trial.arguments for trial in trials])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--quiet"),
            *("--num_cpu_threads_per_process", "1", "--main_process_port", "0"),
            *("-m", "shridhar_ft.doctor.several", str(file)),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    log = file.with_suffix(".log")
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    return log


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
