"""Faults while a training runs, or between its stop and its resume: numbers, memory, data, settings, hangs."""

import json
from pathlib import Path
from typing import Any

from cases_saving import STEP, TRAINER, resumed, trained_to
from fault_cases import case, without
from fault_lab import BOUND, ONE, Lab, checkpoint, checkpoints, status, weights
from safetensors.numpy import load_file

LOSS = "shridhar_ft.guarded:GuardedTrainer.checked_loss"


def all_finite(folder: Path) -> bool:
    """Whether no checkpoint of a folder holds a number that is none."""
    import numpy as np

    files = (folder / "runs/tiny/stages/short/checkpoints").rglob("*.safetensors")
    return all(np.isfinite(tensor).all() for file in files for tensor in load_file(file).values())


@case(
    9,
    "a NaN loss, an infinite gradient, an update that overflows",
    "65 before the update; the batch kept; no NaN saved",
    "finite",
)
def non_finite(lab: Lab, guard: bool) -> str:
    faults = {
        "loss": {"where": LOSS, "call": 4, "do": "NaN"},
        "gradient norm": {
            "where": "shridhar_ft.guarded:GuardedTrainer._clip_grad_norm",
            "call": 4,
            "do": "infinite gradient",
        },
        "weight": {"where": f"{TRAINER}._maybe_log_save_evaluate", "call": 4, "do": "NaN weights"},
    }
    if not guard:
        faults = {"weight": faults["weight"]}
    for what, fault in faults.items():
        folder = lab.fresh()
        done = lab.train(folder, *ONE, faults=[fault], without=without("finite", guard))
        assert all_finite(folder), f"{what}: a checkpoint holds NaN"
        assert done.status == 65 and status(folder)["status"] == 65, f"{what}: {done.status} {done.text[-1500:]}"
        assert "Traceback" not in done.text and checkpoints(folder)[-1] == "checkpoint-2"
        if what != "weight":
            kept = json.loads((folder / "runs/tiny/stages/short/non_finite_batch_rank0.json").read_text())
            assert kept["step"] == 4 and kept["what"] == what and len(kept["windows"]) == 4, kept
        resumed(lab, folder)
    folder = lab.fresh()
    one_of_two = {**faults.get("loss", {}), "rank": 1, "call": 7}
    half = ("train.batch_size=1", "train.gradient_accumulation=2")
    if guard:  # the first of two forward passes of a step, on one of two ranks
        done = lab.train(folder, *ONE, *half, faults=[one_of_two], ranks=2, bound=BOUND if guard else 60)
        assert done.together(65), f"{done.statuses}: {done.text[-1500:]}"
    return "65 at step 4, nothing updated, windows kept, resumed bit-equal; from one of two ranks both leave with 65"


@case(
    10,
    "out of memory at a step",
    "length, batch, peak, the smallest change; nothing changed by itself",
    "memory errors",
)
def out_of_memory(lab: Lab, guard: bool) -> str:
    folder = lab.fresh()
    faults = [
        {"where": STEP, "call": 4, "do": "tight memory"},
        {"where": f"{TRAINER}.compute_loss", "call": 4, "do": "allocate"},
    ]
    done = lab.train(folder, *ONE, faults=faults, without=without("memory errors", guard))
    assert done.status == 2 and "Traceback" not in done.text, f"{done.status}: {done.text[-1500:]}"
    sentence = done.text.splitlines()[-1]
    for part in ("windows of 64 tokens", "batch_size 4", "peak of", "set memory to [tiled_mlp]", "GiB"):
        assert part in sentence, sentence
    resumed(lab, folder)
    return sentence.split("out of memory ")[1][:150] + "…"


@case(11, "data edited, shortened or reordered before the resume", "fingerprint differs: refused", "settings")
def edited_data(lab: Lab, guard: bool) -> str:
    folder = trained_to(lab, 2)
    books = folder / "books"
    books.mkdir()
    import shutil

    from shridhar_ft.shipped import shipped

    for file in shipped("recipes/demo/data/books").glob("*.txt"):
        shutil.copy(file, books)
    file = min(books.glob("*.txt"))
    text = file.read_text(encoding="utf-8")
    paragraphs = text.split("\n")
    changed = {
        "edited": text.replace(" и ", " да "),
        "shortened": text[: len(text) * 9 // 10],
        "reordered": "\n".join([*paragraphs[40:], *paragraphs[:40]]),
    }
    for how, content in changed.items():
        file.write_text(content, encoding="utf-8")
        done = lab.train(folder, *ONE, f"data.books.paths={books}", without=without("settings", guard))
        assert done.status == 2 and "data: " in done.text and "--allow restart" in done.text, (
            f"{how}: {done.text[-900:]}"
        )
    assert checkpoints(folder) == ["checkpoint-2"]
    return "each refused with both hashes; the checkpoint stays"


@case(12, "the data run out and begin again, then a stop", "exact in the second pass too", "data skip")
def second_pass(lab: Lab, guard: bool) -> str:
    few = ("train.batch_size=64", "train.max_steps=9", "train.save_every=3", "train.evaluate_every=9")  # 7 steps a pass
    whole, folder = lab.fresh(), lab.fresh()
    assert lab.train(whole, *ONE, *few).status == 0
    stop = {"where": STEP, "call": 8, "do": "SIGTERM"}
    assert lab.train(folder, *ONE, *few, faults=[stop]).status == 75
    assert checkpoints(folder)[-1] == "checkpoint-8"
    assert lab.train(folder, *ONE, *few, without=without("data skip", guard)).status == 0
    assert weights(folder) == weights(whole), "the second pass read other windows after the resume"
    return "stopped in the second pass over the windows; bit-equal"


@case(13, "another tokenizer before the resume", "refused before training", "settings")
def another_tokenizer(lab: Lab, guard: bool) -> str:
    folder = trained_to(lab, 2)
    file = folder / "runs/tiny/tokenizer/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(tokenizer))
    done = lab.train(folder, *ONE, without=without("settings", guard))
    assert done.status == 2 and "tokenizer: " in done.text, f"{done.status}: {done.text[-900:]}"
    assert "tokenizer cannot change in the middle" in done.text and "Traceback" not in done.text
    return "refused: two swapped ids make another hash, which only --allow restart may take"


@case(
    16,
    "another learning rate, seed, batch or world size at the resume",
    "the difference shown; allowed by name",
    "settings",
)
def changed_settings(lab: Lab, guard: bool) -> str:
    changes = {
        "train.learning_rate=0.02": "learning_rate: 0.01 → 0.02",
        "seed=7": "seed: ",
        "train.batch_size=2": "batch_size: 4 → 2",
    }
    folder = trained_to(lab, 2)
    for change, shown in changes.items():
        done = lab.train(folder, *ONE, change, without=without("settings", guard))
        assert done.status == 2 and shown in done.text and "--allow" in done.text, (
            f"{change}: {done.status} {done.text[-900:]}"
        )
    done = lab.train(folder, *ONE, ranks=2)
    assert done.status == 2 and "world_size: 1 → 2" in done.text, done.text[-900:]
    done = lab.train(folder, *ONE, "train.learning_rate=0.02", "--allow=learning_rate")
    assert done.status == 0 and "going on after step 2" in done.text, done.text[-900:]
    manifest = json.loads((checkpoint(folder, 4) / "MANIFEST.json").read_text())
    assert manifest["settings"]["learning_rate"] == 0.02
    rates = [line["learning_rate"] for line in metrics(folder) if "learning_rate" in line]
    other = lab.fresh()
    assert lab.train(other, *ONE, "train.learning_rate=0.02").status == 0
    wanted = [line["learning_rate"] for line in metrics(other) if "learning_rate" in line]
    assert rates[2:] == wanted[2:] and rates[:2] == [rate / 2 for rate in wanted[:2]], (rates, wanted)
    folder = trained_to(lab, 2)
    assert lab.train(folder, *ONE, "train.learning_rate=0.02", "--allow=restart").status == 0
    assert weights(folder) == weights(other), "begun anew it is a training of the new settings"
    return "each shown and refused; --allow learning_rate trains on at the new rate, --allow restart begins anew"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs/tiny/stages/short/metrics.jsonl").read_text().splitlines()]


@case(18, "a step, or a reader, that hangs", "stacks written; ended within the limit; 75", "watchdog")
def hung(lab: Lab, guard: bool) -> str:
    places = [STEP, f"{TRAINER}.get_batch_samples"] if guard else [STEP]
    for where in places:
        folder = lab.fresh()
        hang = {"where": where, "call": 4, "do": "hang"}
        done = lab.train(
            folder,
            *ONE,
            "train.stall_after=10s",
            faults=[hang],
            without=without("watchdog", guard),
            bound=BOUND if guard else 60,
        )
        assert done.status == 75 and status(folder)["status"] == 75, f"{done.status}: {done.text[-900:]}"
        stacks = (folder / "runs/tiny/stages/short/stalled_rank0.txt").read_text()
        assert "_hang" in stacks and "training_loop" in stacks
        resumed(lab, folder)
    return "ended 10 s after the last step with the stacks of all threads; resumed bit-equal"
