"""Prints whether a training that was stopped and resumed equals one that was not, bit for bit.

    python tests/faults/exactness.py [--methods full,lora] [--stops 1,2,3,4,5,6]

Six stop points in each of three stages and SFT, by full weights and LoRA, with dropout; then two processes. What is
compared is the last checkpoint: weights, optimizer, schedule and random state. On two idle cores about ten minutes.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cases_saving import STEP, near
from fault_lab import Lab, checkpoint

from shridhar_ft.runfolder import read_json

STEPS = 7
STAGES = (
    "{name: short, context: 64, gate: tell}",
    "{name: middle, context: 128, rope: {type: yarn}, gate: tell}",
    "{name: long, context: 256, rope: {type: yarn}, gate: tell, gradient_accumulation: 2}",
)
PARTS = ("stages/short", "stages/middle", "stages/long", "sft")
COMPARED = ("model.safetensors", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def settings(method: str, part: str) -> list[str]:
    """Overrides for a training that ends with this part."""
    shown = STAGES if part == "sft" else STAGES[: PARTS.index(part) + 1]
    keys = ("train", "sft") if part == "sft" else ("train",)
    common = [f"{key}.{name}" for key in keys for name in (f"max_steps={STEPS}", "save_every=3", f"method={method}")]
    adapter = ["train.rank=2", "train.dropout=0.1"] if method == "lora" else []
    stages = f"stages=[{', '.join(shown)}]"
    return [stages, *common, "train.evaluate_every=7", *adapter, *([] if part == "sft" else ["sft=null"])]


def state(folder: Path, part: str) -> dict[str, str]:
    """Hashes of what the last checkpoint of a part holds."""
    files = read_json(checkpoint(folder, STEPS, part) / "MANIFEST.json")["files"]
    return {name: files[name]["xxh3"] for name in COMPARED if name in files}


def whole(lab: Lab, method: str) -> Path:
    """A folder in which every part was trained without a stop."""
    folder = lab.fresh()
    for module in ("pretrain", "sft"):
        done = lab.train(folder, *settings(method, "sft"), module=module)
        assert done.status == 0, done.text[-2000:]
    return folder


def resumed_equals(lab: Lab, reference: Path, method: str, part: str, stop: int) -> tuple[bool, str]:
    """Stop a part after a step, go on, and compare with the reference.

    Returns:
        Whether they are equal, and what differs.
    """
    lab.number += 1
    folder = Path(shutil.copytree(reference, lab.root / f"trial{lab.number}"))
    for later in PARTS[PARTS.index(part) :]:
        shutil.rmtree(folder / "runs/tiny" / later)
    module = "sft" if part == "sft" else "pretrain"
    passes = 2 if part == "stages/long" else 1  # forward passes in a step
    signal = {"where": STEP, "call": (stop - 1) * passes + 1, "do": "SIGTERM"}
    stopped = lab.train(folder, *settings(method, part), module=module, faults=[signal])
    assert stopped.status == 75 and f"after step {stop}" in stopped.text, stopped.text[-2000:]
    done = lab.train(folder, *settings(method, part), module=module)
    assert done.status == 0 and f"going on after step {stop}" in done.text, done.text[-2000:]
    found, wanted = state(folder, part), state(reference, part)
    assert len(wanted) == 4, wanted
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    shutil.rmtree(folder)
    return not differing, ", ".join(differing) or "weights, optimizer, schedule, random state"


def two_processes(lab: Lab, stop: int) -> str:
    """The first stage on two ranks, stopped by a signal to the second one alone."""
    arguments = [*settings("full", "stages/short"), "train.batch_size=2"]
    plain, folder = lab.fresh(), lab.fresh()
    assert lab.train(plain, *arguments, ranks=2).statuses == [0, 0]
    signal = {"where": STEP, "call": stop, "do": "SIGTERM", "rank": 1}
    assert lab.train(folder, *arguments, ranks=2, faults=[signal]).together(75)
    assert lab.train(folder, *arguments, ranks=2).statuses == [0, 0]
    return "bit for bit" if state(folder, "stages/short") == state(plain, "stages/short") else near(folder, plain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matrix; 0 where everything is equal."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--methods", default="full,lora")
    ask.add_argument("--stops", default="1,2,3,4,5,6")
    given = ask.parse_args(arguments)
    stops = [int(stop) for stop in given.stops.split(",")]
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        print(f"{STEPS} steps, checkpoints at 3 and 6; equal means the same bytes\n")
        print(
            f"| method | part | {' | '.join(f'stop after {stop}' for stop in stops)} |\n|---|---{'|---' * len(stops)}|"
        )
        for method in given.methods.split(","):
            reference = whole(lab, method)
            for part in PARTS:
                cells = []
                for stop in stops:
                    equal, what = resumed_equals(lab, reference, method, part, stop)
                    exact &= equal
                    cells.append("equal" if equal else f"DIFFERS: {what}")
                print(f"| {method} | {part} | {' | '.join(cells)} |", flush=True)
        print(f"\ntwo processes, signal to the second alone after step 4: {two_processes(lab, 4)} (at most 1e-6 apart)")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
