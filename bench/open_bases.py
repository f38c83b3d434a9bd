"""Trains open bases with their real weights on books, then dialogues, by each method: loss, peak memory, tokens/s.

    python bench/open_bases.py my/smollm2 my/gemma3-270m --books my/books --dialogues my/dialogues.jsonl

Every cell is a `shridhar-ft run` of its own under one accelerate config, ZeRO-2 on two CPU processes unless told
otherwise. Losses are those of the held-out windows; the peak is of the first process, over its whole life; tokens/s
counts the windows of all processes over the time of a middle step (the plan receipt's).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft.engines import Engine
from shridhar_ft.runfolder import PART, read_json

METHODS = ("lora", "qlora")
ACCUMULATION = 2
HELD_OUT = 0.015  # share of validation and of test


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("bases", nargs="+", type=Path, help="folders with a model and its tokenizer")
    ask.add_argument("--books", required=True, type=Path)
    ask.add_argument("--dialogues", required=True, type=Path)
    ask.add_argument("--config", default="accelerate_configs/cpu_zero2.yaml", help="accelerate config")
    ask.add_argument("--methods", default=",".join(METHODS), help="of lora,qlora,full (default: lora,qlora)")
    ask.add_argument("--context", type=int, default=512, help="tokens of a window")
    ask.add_argument("--steps", type=int, default=16, help="optimizer steps of each part")
    ask.add_argument("--into", type=Path, default=Path("open_bases"), help="folder for the runs, gone on with if there")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    rows = []
    for base in given.bases:
        for method in given.methods.split(","):
            for row in trained(base, method, given):
                rows.append(row)
                if not given.json:
                    print(_line(row), flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


def trained(base: Path, method: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one base by one method and return a row for the books and one for the dialogues."""
    into = given.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    name = f"{base.name}-{method}"
    file = into / f"{name}.yaml"
    file.write_text(yaml.safe_dump(_recipe(name, base, method, given), allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "shridhar_ft.cli", "run", str(file)]
    done = subprocess.run(command, cwd=into, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    run = into / "runs" / name
    readers = Engine.of_file(Path(given.config)).readers
    parts = [("books", run / "stages" / "books"), ("dialogues", run / "sft")]
    return [_row(base.name, method, what, folder, given.context, readers) for what, folder in parts]


def _recipe(name: str, base: Path, method: str, given: argparse.Namespace) -> dict[str, Any]:
    limits = {"max_steps": given.steps, "gradient_accumulation": ACCUMULATION, "learning_rate": 2e-4}
    limits["evaluate_every"] = given.steps + 1  # before and after only: the split outweighs the steps
    adapter = {"rank": 16, "alpha": 32} if method != "full" else {}
    return {
        "name": name,
        "data": {
            "books": {"paths": str(given.books.resolve())},
            "dialogues": [{"paths": str(given.dialogues.resolve())}],
            "split": {"train": 1 - 2 * HELD_OUT, "validation": HELD_OUT, "test": HELD_OUT},
        },
        "model": {"base": str(base.resolve())},
        "train": {"method": method, "log_every": 1, "batch_size": 1, **adapter, **limits},
        "stages": [{"name": "books", "context": given.context}],
        "sft": {"method": method, "batch_size": 1, **adapter, **limits},
        "eval": {"max_windows": 4},
        "launch": {"config": str(Path(given.config).resolve())},
    }


def _row(base: str, method: str, what: str, folder: Path, context: int, readers: int) -> dict[str, Any]:
    part, plan = read_json(folder / PART), read_json(folder / "receipts" / "plan.json")
    seconds = plan["measured"]["step_seconds"]
    return {
        "base": base,
        "method": method,
        "on": what,
        "steps": part["steps"],
        "loss_before": part["loss_before"]["validation"],
        "loss_after": part["loss_after"]["validation"],
        "peak_gib": part["peak_rss_bytes"] / 2**30,
        "tokens_per_second": readers * ACCUMULATION * context / seconds,
    }


def _line(row: dict[str, Any]) -> str:
    done = f"{row['base']:<24} {row['method']:<6} {row['on']:<10} {row['steps']:>3} steps"
    cost = f"peak {row['peak_gib']:.2f} GiB a process  {row['tokens_per_second']:.0f} tokens/s"
    return f"{done}  loss {row['loss_before']:.4f} → {row['loss_after']:.4f}  {cost}"


if __name__ == "__main__":
    main()
