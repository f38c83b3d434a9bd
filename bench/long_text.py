"""Measures every stage of runs on their long text at one length, by position: what the curriculum bought.

python bench/long_text.py runs/shelf-cpu runs/shelf-cpu-control --context 6912
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from shridhar_ft.adapters import Weights, load_weights
from shridhar_ft.documents import long_text
from shridhar_ft.export.run import open_run
from shridhar_ft.model.build import stage_config
from shridhar_ft.progress import hush_libraries
from shridhar_ft.runfolder import PART, read_json
from shridhar_ft.scoring import evenly, log_probs, text_windows
from shridhar_ft.tokenizer import load_tokenizer

BUCKETS = 8


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("runs", nargs="+", type=Path, help="run folders")
    ask.add_argument("--context", type=int, required=True, help="window length in tokens")
    ask.add_argument("--windows", type=int, default=16, help="windows measured, spread evenly")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    hush_libraries()
    rows = [row for folder in given.runs for row in measure(folder, given.context, given.windows)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    width = given.context // BUCKETS
    print(f"{'run':<20}{'stage':<14}{'loss':>8}   by position, {BUCKETS} buckets of {width} tokens")
    for row in rows:
        print(
            f"{row['run']:<20}{row['stage']:<14}{row['loss']:>8.4f}   " + " ".join(f"{v:.3f}" for v in row["buckets"])
        )


def measure(folder: Path, context: int, most: int) -> list[dict]:
    """Loss on the long text after each stage of a run, in nats a token, whole and by position."""
    recipe, run = open_run(folder)
    tokenizer = load_tokenizer(run.tokenizer)
    windows = evenly(text_windows(long_text(recipe, tokenizer), context), most)
    rows = []
    for index, stage in enumerate(recipe.stages):
        config, _ = stage_config(recipe, index, len(tokenizer))
        weights = Weights.from_dict(read_json(run.stage(stage.name) / PART)["weights"], run.root)
        model, _, _ = load_weights(weights, config, tokenizer, "sdpa", torch.float32)
        places = torch.arange(context)[None]
        total = np.zeros(context - 1)
        for window in windows:
            ids = torch.as_tensor(window["input_ids"], dtype=torch.long)[None]
            total -= log_probs(model, ids, ids, places)[0].double().numpy()
        by_position = total / len(windows)
        buckets = [float(part.mean()) for part in np.array_split(by_position, BUCKETS)]
        rows.append({"run": run.name, "stage": stage.name, "loss": float(by_position.mean()), "buckets": buckets})
    return rows


if __name__ == "__main__":
    main()
