"""Holds `shridhar-ft plan` to account: predicted against measured peak memory and step time of real runs, a cell each.

    python bench/plan_accuracy.py /some/folder [--only 2m full 1024] [--cells 40] [--most-minutes 30] [--json]

A cell writes a recipe over random words, runs `shridhar-ft run` on it until its stage is trained (two or three
optimizer steps, no validation), and reads the stage's plan receipt. Cells that are done are kept in the folder and not
run again, so the whole can be done in pieces; they run in an order that was drawn once, so that a piece is no
choice. The machine must be idle; it is calibrated anew (`shridhar-ft plan --calibrate`) after every ten minutes, since
shared ones change their speed within the hour.

The aim: peaks within 10% in nine of ten cells and within 20% in all, step times within 25%.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft.runfolder import part_of

ROOT = Path(__file__).parents[1]
SHRIDHAR_FT = (sys.executable, "-m", "shridhar_ft.cli")
MODELS = {  # of llama: vocabulary, hidden, layers, heads, intermediate; the name says the parameters
    "2m": (4000, 192, 4, 6, 512),
    "8m": (8000, 256, 8, 4, 704),
    "30m": (16000, 512, 6, 8, 1408),
    "100m": (24000, 768, 10, 12, 2112),
    "256m": (50000, 1024, 16, 16, 2816),
}
LETTERS = "абвгдежзийклмнопрстуфхцчшщыэюя"
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
CONFIGS = {"one": "cpu", "ddp": "cpu_ddp", "zero2": "cpu_zero2", "zero3": "cpu_zero3"}


@dataclass(frozen=True)
class Cell:
    """One run."""

    model: str
    method: str
    window: int
    layout: str = "one"
    memory: str = "none"
    """Levers joined by +, or none."""

    @property
    def steps(self) -> int:
        """Optimizer steps; the first is not counted."""
        return 2 if self.window > 8192 or (self.window >= 4096 and self.model in ("30m", "100m", "256m")) else 3

    @property
    def name(self) -> str:
        return f"{self.model}-{self.method}-{self.window}-{self.layout}-{self.memory.replace('+', '.')}"


CALIBRATED_EVERY = 600  # seconds
LEVERS = "checkpointing+tiled_mlp"
CELLS = (
    *(Cell("2m", method, window) for method in ("full", "lora", "qlora") for window in (1024, 8192)),
    *(Cell("8m", method, window) for method in ("full", "qlora") for window in (1024, 4096, 16384)),
    *(Cell("30m", method, window) for method in ("full", "lora", "qlora") for window in (1024, 8192)),
    *(Cell("30m", "full", 8192, memory=memory) for memory in ("tiled_mlp", "checkpointing", LEVERS)),
    *(Cell("100m", method, 2048) for method in ("full", "lora", "qlora")),
    Cell("100m", "full", 8192, memory=LEVERS),
    *(Cell("256m", method, 1024) for method in ("full", "lora", "qlora")),
    Cell("256m", "full", 4096, memory=LEVERS),
    Cell("256m", "full", 4096, memory=f"{LEVERS}+bf16_weights"),
    Cell("8m", "full", 32768, memory=LEVERS),
    *(Cell("30m", "full", 4096, layout) for layout in ("ddp", "zero2", "zero3")),
    *(Cell("100m", "full", 1024, layout) for layout in ("ddp", "zero2", "zero3")),
    *(Cell("30m", "lora", 4096, layout) for layout in ("ddp", "zero2")),
)
assert len(CELLS) <= 40, "the accuracy is judged on at most 40 cells"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where runs and results go")
    parser.add_argument("--only", nargs="*", default=[], help="cells whose name holds each of these")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="run at most so many that are not done")
    parser.add_argument("--most-minutes", type=float, default=90.0, help="a cell that takes longer is given up")
    parser.add_argument("--json", action="store_true", help="the results as JSON")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    chosen = [cell for cell in CELLS if all(part in cell.name for part in asked.only)]
    files = {cell: asked.folder / f"{cell.name}.json" for cell in chosen}
    drawn = random.Random(108).sample(CELLS, len(CELLS))
    missing = [cell for cell in drawn if cell in files and not files[cell].is_file()]
    os.environ["XDG_CACHE_HOME"] = str((asked.folder / "cache").resolve())  # these calibrations are not the user's
    calibrated = -math.inf
    for cell in missing[: asked.cells]:
        if time.monotonic() - calibrated > CALIBRATED_EVERY:
            subprocess.run([*SHRIDHAR_FT, "plan", "--calibrate"], check=True)
            calibrated = time.monotonic()
        files[cell].write_text(json.dumps(run(cell, asked.folder.resolve(), asked.most_minutes), indent=1))
    results = [json.loads(file.read_text()) for file in files.values() if file.is_file()]
    print(json.dumps(results, indent=1) if asked.json else "\n".join(table(results)))


def run(cell: Cell, folder: Path, minutes: float) -> dict[str, Any]:
    """Train the cell's stage for real and read its receipt."""
    root = folder / "runs" / cell.name
    shutil.rmtree(root, ignore_errors=True)
    recipe = folder / f"{cell.name}.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(cell, folder)), encoding="utf-8")
    begun = time.monotonic()
    stage, log = root / "stages" / "only", folder / f"{cell.name}.log"
    with log.open("w", encoding="utf-8") as told:
        command = [*SHRIDHAR_FT, "run", str(recipe)]
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, cwd=folder)
    try:
        while process.poll() is None and not part_of(stage) and time.monotonic() - begun < minutes * 60:
            time.sleep(0.5)
    finally:
        process.terminate()  # the export measures nothing of this
        process.wait()
    found = {"cell": cell.name, "seconds": round(time.monotonic() - begun, 1)}
    if not part_of(stage):
        late = time.monotonic() - begun >= minutes * 60
        said = log.read_text(encoding="utf-8").strip().splitlines()[-3:]
        return found | {"failed": [f"given up after {minutes:g} minutes"] if late else said}
    held = json.loads((stage / "receipts" / "plan.json").read_text())
    return found | {"claimed": held["claimed"], "measured": held["measured"]}


def recipe_of(cell: Cell, folder: Path) -> dict[str, Any]:
    """A recipe of one stage that stops after a few steps."""
    vocabulary, *sizes = MODELS[cell.model]
    model = {"model_type": "llama", "tie_word_embeddings": True, **dict(zip(SIZES, sizes, strict=True))}
    memory = [] if cell.memory == "none" else cell.memory.split("+")
    return {
        "name": cell.name,
        "data": {
            "books": {"paths": str(words(folder, vocabulary))},
            "split": {"train": 1.0, "validation": 0.0, "test": 0.0, "decontaminate": False},
            "duplicates": {"exact": False, "near": False},
        },
        "tokenizer": {"train": {"vocab_size": vocabulary}},
        "model": {"from_config": model},
        "train": {"method": cell.method, "precision": "fp32", "memory": memory, "save_every": 1000},
        "stages": [{"name": "only", "context": cell.window, "max_steps": cell.steps, "gate": "tell"}],
        "launch": {"config": str(ROOT / "accelerate_configs" / f"{CONFIGS[cell.layout]}.yaml")},
    }


def words(folder: Path, vocabulary: int) -> Path:
    """A file of random words over a Zipf distribution, from which such a vocabulary can be learned."""
    file = folder / f"words-{vocabulary}.txt"
    if not file.is_file():
        draw = random.Random(108)
        known = ["".join(draw.choices(LETTERS, k=draw.randint(2, 12))) for _ in range(60_000)]
        weights = [1 / (rank + 10) for rank in range(len(known))]
        lines = (" ".join(draw.choices(known, weights, k=120)) for _ in range(max(1200, vocabulary // 8)))
        file.write_text("\n".join(lines), encoding="utf-8")
    return file


def table(results: list[dict[str, Any]]) -> list[str]:
    """The cells, and how many are within the bounds."""
    lines = [f"{'cell':<48}{'peak GiB':>10}{'foretold':>10}{'off':>8}{'s/step':>9}{'foretold':>10}{'off':>8}"]
    memory, late = [], []
    for result in results:
        if "failed" in result:
            lines.append(f"{result['cell']:<48} failed: {' '.join(result['failed'])[-160:]}")
            continue
        claimed, measured = result["claimed"], result["measured"]
        memory.append(measured["peak_off"])
        late.append(measured["step_off"])
        lines.append(
            f"{result['cell']:<48}{measured['peak_bytes'] / 2**30:>10.2f}{claimed['peak_bytes'] / 2**30:>10.2f}"
            f"{measured['peak_off']:>+8.0%}{measured['step_seconds']:>9.2f}{claimed['step_seconds']:>10.2f}"
            f"{measured['step_off']:>+8.0%}"
        )
    for name, offs, bounds in (("peak", memory, (0.1, 0.2)), ("step", late, (0.25,))):
        for bound in bounds:
            within = sum(abs(off) <= bound for off in offs)
            lines.append(f"{name}: {within} of {len(offs)} cells within {bound:.0%}")
    return lines


if __name__ == "__main__":
    main()
