"""Faults while checkpoints are written and read: kills, full disks, damage, signals."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import case, without
from fault_lab import (
    BOUND,
    ONE,
    Lab,
    checkpoint,
    checkpoints,
    files,
    small_disk,
    status,
    weights,
)

from shridhar_ft.resume import Facts, choose
from shridhar_ft.runfolder import read_json

TRAINER = "shridhar_ft.trainer:WindowTrainer"
STEP = f"{TRAINER}.training_step"
SAVE = "shridhar_ft.guarded:Trainer._save_checkpoint"
# In the order of a save. The first three are transformers' own writes, the last two the folder's way to the disk.
BOUNDARIES: list[dict[str, Any]] = [
    {"where": "transformers.modeling_utils:safe_save_file", "call": 2},
    {"where": "transformers.modeling_utils:safe_save_file", "call": 2, "after": True},
    {"where": "torch:save", "call": 5},  # four a checkpoint: arguments, optimizer, schedule, random state
    {"where": "torch:save", "call": 6, "after": True},
    {"where": "torch:save", "call": 8},
    {"where": SAVE, "call": 2, "after": True},
    {"where": "numpy:save", "call": 2, "after": True},
    {"where": "shridhar_ft.guarded:sync_tree", "call": 2, "after": True},
    {"where": "shridhar_ft.checkpoint:write_json", "call": 2},
    {"where": "shridhar_ft.checkpoint:write_json", "call": 2, "after": True},
    {"where": "shridhar_ft.guarded:rotate", "call": 2},
]


def resumed(lab: Lab, folder: Path, *arguments: str, **settings: Any) -> str:
    """Go on to the end and compare with the training that nothing interrupted."""
    done = lab.train(folder, *ONE, *arguments, **settings)
    assert done.status == 0, f"the resume ended with {done.status}: {done.text[-2000:]}"
    assert weights(folder) == weights(lab.uninterrupted), "other weights than without the fault"
    return done.text


def trained_to(lab: Lab, step: int) -> Path:
    """A folder whose training was killed after the save of this step."""

    def make() -> Path:
        folder = lab.fresh()
        kill = {"where": STEP, "call": step + 1, "do": "SIGKILL"}
        assert lab.train(folder, *ONE, faults=[kill]).status == -9
        assert checkpoint(folder, step).is_dir()
        return folder

    return lab.once(f"killed after step {step}", make)


def kill_at(lab: Lab, boundary: dict[str, Any], out: str | None) -> str:
    """Kill at one boundary of the second save, and go on."""
    folder = lab.fresh()
    killed = lab.train(folder, *ONE, faults=[{**boundary, "do": "SIGKILL"}])
    assert killed.status == -9, f"it was not killed but ended with {killed.status}"
    left = checkpoints(folder)
    text = resumed(lab, folder, without=without(out))
    found = "set aside" if "was never finished" in text else "whole"
    return f"{'after' if boundary.get('after') else 'before'} {boundary['where'].split(':')[1]}: {left[-1]} {found}"


@case(1, "kill -9 at a write boundary of a save", "resume from the newest verified; bit-equal", "manifest")
def killed_in_a_save(lab: Lab, out: str | None) -> str:
    return kill_at(lab, BOUNDARIES[3], out)


def taken_at_every_boundary(lab: Lab) -> list[tuple[str, str]]:
    """Which checkpoint would be gone on from after a kill at each boundary of the second save, by what a kill leaves.

    One training, whose files are copied at each boundary: what it has handed to the system by then is what a kill
    leaves. `kill_at` kills in earnest, and trains on to the end.

    Returns:
        Its name, and the one that is right, boundary by boundary.
    """
    folder = lab.fresh()
    done = lab.train(folder, *ONE, faults=[{**boundary, "do": "keep a copy"} for boundary in BOUNDARIES])
    assert done.status == 0, done.text[-1500:]
    copies = sorted((folder / "copies").iterdir())
    assert len(copies) == len(BOUNDARIES), copies
    found = []
    for copy, boundary in zip(copies, BOUNDARIES, strict=True):
        held = read_json(copy / "stages/short/checkpoints/checkpoint-2/MANIFEST.json")
        facts = Facts(**{entry.name: held[entry.name] for entry in fields(Facts)})
        chosen = choose(copy / "stages/short/checkpoints", facts, frozenset(), lambda _: None)
        assert chosen is not None
        whole = boundary["where"].endswith(":rotate") or (
            boundary["where"].endswith("write_json") and "after" in boundary
        )
        found.append((chosen.checkpoint.name, "checkpoint-4" if whole else "checkpoint-2"))
        names = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        own, other = (
            read_json(at / "MANIFEST.json")["files"]
            for at in (chosen.checkpoint, checkpoint(lab.uninterrupted, int(chosen.checkpoint.name.split("-")[1])))
        )
        assert [own[name] for name in names] == [other[name] for name in names], "another state than uninterrupted"
    return found


@case(
    2,
    "a disk that is full in the middle of a save, or has no room for one",
    "74 with the bytes; what was there stays whole",
    "disk errors",
    "room",
)
def full_disk(lab: Lab, out: str | None) -> str:
    folder = trained_to(lab, 2)
    held = folder / "runs/tiny/stages"
    before = files(checkpoint(folder, 2))
    if out != "room":
        with small_disk(held, 8 << 20):
            fill = {"where": "transformers.trainer:Trainer._save_optimizer_and_scheduler", "do": "fill the disk"}
            done = lab.train(folder, *ONE, faults=[fill], without=without(out))
            assert done.status == 74, f"status {done.status}: {done.text[-1500:]}"
            assert "bytes" in done.text and "Traceback" not in done.text
            assert checkpoints(folder) == ["checkpoint-2"], "the partial one is removed"
            assert {name: size for name, (size, _) in files(checkpoint(folder, 2)).items()} == {
                name: size for name, (size, _) in before.items()
            }
            (held / "filler").unlink(missing_ok=True)
            resumed(lab, folder)
    with small_disk(held, 1 << 20):
        done = lab.train(folder, *ONE, without=without(out))
        assert done.status == 74 and "more checkpoints of" in done.text, done.text[-1500:]
    return (
        "74 with the bytes, checkpoint-2 whole, partial removed, resumed bit-equal; a disk with 1 MB is refused at once"
    )


def damaged(lab: Lab, out: str | None, harm: Any) -> str:
    folder = trained_to(lab, 4)
    harm(checkpoint(folder, 4))
    text = resumed(lab, folder, without=without(out))
    assert "checkpoint-4 is set aside as checkpoint-4.damaged: " in text and "going on after step 2" in text, text[
        -1500:
    ]
    return text.split("checkpoint-4.damaged: ")[1].split("\n")[0] + "; went on from step 2, bit-equal"


@case(3, "a truncated shard", "named; fall back one checkpoint", "manifest")
def truncated(lab: Lab, out: str | None) -> str:
    def harm(held: Path) -> None:
        file = held / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-5000])

    return damaged(lab, out, harm)


@case(4, "one flipped byte in weights, optimizer or manifest", "the digest catches it", "manifest")
def flipped(lab: Lab, out: str | None) -> str:
    told = [
        damaged(lab, out, lambda held, name=name: flip(held / name))
        for name in ("model.safetensors", "optimizer.pt", "MANIFEST.json")
    ]
    return "; ".join(told)


def flip(file: Path) -> None:
    """Change the lowest bit of the byte in the middle; in a manifest, of a setting's value."""
    raw = bytearray(file.read_bytes())
    place = raw.index(b'"learning_rate": 0.01') + 19 if file.name == "MANIFEST.json" else len(raw) // 2
    raw[place] ^= 1
    file.write_bytes(raw)


@case(5, "optimizer, schedule or random state missing", "refused; allowed by name", "state")
def missing_state(lab: Lab, out: str | None) -> str:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        folder = trained_to(lab, 2)
        (checkpoint(folder, 2) / name).unlink()
        done = lab.train(folder, *ONE, without=without(out))
        assert done.status == 2 and f"lacks {name}" in done.text and "--allow weights-only" in done.text, done.text[
            -900:
        ]
        assert checkpoints(folder) == ["checkpoint-2"]
    allowed = lab.train(folder, *ONE, "--allow=weights-only")
    assert allowed.status == 0 and f"goes on without {name}" in allowed.text, allowed.text[-1500:]
    return "each refused with one sentence; --allow weights-only goes on and says so"


def stopped_exactly(lab: Lab, fault: dict[str, Any], step: int, out: str | None, *settings: str) -> None:
    folder = lab.fresh()
    done = lab.train(folder, *ONE, *settings, faults=[fault], without=without(out))
    assert done.status == 75 and status(folder)["status"] == 75, done.text[-1500:]
    assert "to go on: " in done.text and "Traceback" not in done.text
    assert (checkpoints(folder) or ["none"])[-1] == (f"checkpoint-{step}" if step else "none"), checkpoints(folder)
    if settings:
        plain = lab.fresh()
        assert lab.train(plain, *ONE, *settings).status == 0
        assert lab.train(folder, *ONE, *settings).status == 0
        assert weights(folder) == weights(plain)
    else:
        resumed(lab, folder)


@case(
    6,
    "SIGTERM in a step, an accumulation, an evaluation, at start-up",
    "stop at a step; 75; exact",
    "stop at a step",
)
def signalled(lab: Lab, out: str | None) -> str:
    stopped_exactly(lab, {"where": STEP, "call": 3, "do": "SIGTERM"}, 3, out)
    two = ("train.batch_size=2", "train.gradient_accumulation=2")
    stopped_exactly(lab, {"where": STEP, "call": 5, "do": "SIGINT"}, 3, out, *two)
    evaluation = {"where": f"{TRAINER}._loss_on", "call": 1, "do": "SIGTERM"}
    stopped_exactly(lab, evaluation, 3, out, "train.evaluate_every=3")
    stopped_exactly(lab, {"where": "shridhar_ft.training:start_model", "do": "SIGTERM"}, 0, out)
    folder = lab.fresh()
    limited = lab.train(folder, *ONE, "train.stop_after=1s")
    assert limited.status == 75 and "stopped by train.stop_after (1s)" in limited.text, limited.text[-1500:]
    resumed(lab, folder)
    return (
        "saved at step 3 (in a step, an accumulation, an evaluation) and by stop_after; start-up loses nothing; exact"
    )


@case(7, "SIGTERM to one of two ranks", "no deadlock; all ranks stop at one step", "vote")
def one_rank(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    half = ("train.batch_size=2",)
    fault = {"where": STEP, "call": 3, "do": "SIGTERM", "rank": 1}
    done = lab.train(folder, *ONE, *half, faults=[fault], without=without(out), ranks=2, bound=60 if out else BOUND)
    assert done.together(75), f"{done.statuses}: {done.text[-1500:]}"
    assert checkpoints(folder)[-1] == "checkpoint-3" and status(folder)["status"] == 75
    again = lab.train(folder, *ONE, *half, ranks=2)
    assert again.statuses == [0, 0], again.text[-1500:]
    whole = lab.fresh()
    assert lab.train(whole, *ONE, *half, ranks=2).statuses == [0, 0]
    apart = "bit-equal" if weights(folder) == weights(whole) else near(folder, whole)
    return f"both ranks left with 75 after step 3; resumed {apart}"


def near(folder: Path, whole: Path) -> str:
    """How far the weights of two trainings are apart; a sum over ranks may round in another order."""
    from safetensors.numpy import load_file

    one, other = (load_file(f / "runs/tiny/stages/short/model/model.safetensors") for f in (folder, whole))
    apart = max(float(np.abs(one[name] - other[name]).max()) for name in one)
    assert apart < 1e-6, f"weights are {apart:g} apart"
    return f"within {apart:.1g}"


@case(8, "a second signal in the save", "the save is abandoned; the checkpoint before it is valid", "manifest")
def second_signal(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    faults = [
        {"where": STEP, "call": 3, "do": "SIGTERM"},
        {"where": "torch:save", "call": 6, "do": "SIGTERM"},  # the optimizer of the save that the first one asked for
    ]
    done = lab.train(folder, *ONE, faults=faults)
    assert done.status == 75, done.text[-1500:]
    assert checkpoints(folder) == ["checkpoint-2", "checkpoint-3"]
    assert not (checkpoint(folder, 3) / "MANIFEST.json").exists()
    text = resumed(lab, folder, without=without(out))
    assert "it was never finished" in text and "going on after step 2" in text
    assert checkpoints(folder) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"], "it went with the next whole one"
    return "75 at once; checkpoint-3 set aside as unfinished, went on from step 2, bit-equal"
