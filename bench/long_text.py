"""Measures the weights of a run on its long text at one length, by position, and what they are without the curriculum.

    python bench/long_text.py runs/shelf-cpu runs/shelf-cpu-control --context 6912
    python bench/long_text.py runs/shelf-108k --context 108000 --windows 2 --controls

Each stage's weights are read under that stage's RoPE. With --controls the weights before the long stages (the first
stage's, or the open base's) are read twice more: with their own RoPE unscaled, and with the last stage's, untrained.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from shridhar_ft.adapters import Weights, load_weights
from shridhar_ft.config import Recipe
from shridhar_ft.documents import long_text
from shridhar_ft.export.run import open_run
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import base_config, stage_config
from shridhar_ft.model.rope import copied
from shridhar_ft.model.rope_receipt import need_rope
from shridhar_ft.progress import hush_libraries
from shridhar_ft.runfolder import PART, Run, read_json
from shridhar_ft.scoring import measure_text
from shridhar_ft.tokenizer import load_tokenizer, opening_token

COLUMNS = 8  # of the sixteen parts that losses by position are kept for, every second is printed


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("runs", nargs="+", type=Path, help="run folders")
    ask.add_argument("--context", type=int, required=True, help="window length in tokens")
    ask.add_argument("--windows", type=int, default=16, help="windows measured, spread evenly")
    ask.add_argument("--controls", action="store_true", help="the weights before the long stages too, under both RoPEs")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    hush_libraries()
    rows = []
    for folder in given.runs:
        for row in measure(folder, given.context, given.windows, given.controls):
            rows.append(row)
            if not given.json:
                print(_line(row), flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))


def measure(folder: Path, context: int, most: int, controls: bool) -> Iterator[dict[str, Any]]:
    """One row for each pair of weights and RoPE, from `scoring.measure_text`."""
    recipe, run = open_run(folder)
    tokenizer = load_tokenizer(run.tokenizer)
    text = long_text(recipe, tokenizer)
    plain = base_config(recipe.model, len(tokenizer))
    attention = choose_attention(recipe.model, plain, PartialState().device, half=False)
    for name, weights, stage, scaled in _pairs(recipe, run, controls):
        config, _ = stage_config(recipe, stage, len(tokenizer))
        if not scaled:
            config.rope_parameters = plain.rope_parameters
        claimed = copied(config)
        model, _, _ = load_weights(weights, config, tokenizer, attention.implementation, torch.float32)
        model.to(PartialState().device)
        need_rope(model, claimed, context)
        yield {"run": run.name, "weights": name, **measure_text(model, text, context, most, opening_token(tokenizer))}


def _pairs(recipe: Recipe, run: Run, controls: bool) -> Iterator[tuple[str, Weights, int, bool]]:
    """Name, weights, number of the stage whose RoPE they are read under, and whether that RoPE is put on at all."""
    stages = [
        (stage.name, Weights.from_dict(read_json(run.stage(stage.name) / PART)["weights"], run.root))
        for stage in recipe.stages
    ]
    if controls and recipe.model.base is not None:
        first: tuple[str, Weights] = ("base", Weights(recipe.model.base, recipe.model.revision))
    else:
        first = stages[0]
    if controls:
        yield f"{first[0]}, unscaled", first[1], 0, False
        yield f"{first[0]}, scaled untrained", first[1], len(stages) - 1, True
    for number, (name, weights) in enumerate(stages):
        yield name, weights, number, True


def _line(row: dict[str, Any]) -> str:
    gain, parts = row["context_gain"], row["by_position"][1::2]
    by_position = " ".join(f"{part['loss']:.3f}" for part in parts[-COLUMNS:])
    return (
        f"{row['run']:<18}{row['weights']:<26}{row['loss']:>8.4f}  gain {gain['gain']:+.4f} ± "
        f"{gain['standard_error'] or 0:.4f}   every second sixteenth: {by_position}"
    )


if __name__ == "__main__":
    main()
