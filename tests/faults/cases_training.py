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
    "65 before the update, under ZeRO too; the batch kept; no NaN saved",
    "finite loss",
    "finite gradient norm",
    "finite weight",
)
def non_finite(lab: Lab, out: str | None) -> str:
    faults = {
        "loss": {"where": LOSS, "call": 4, "do": "NaN"},
        "gradient norm": {
            "where": "shridhar_ft.guarded:GuardedTrainer._clip_grad_norm",
            "call": 4,
            "do": "infinite gradient",
        },
        "weight": {"where": f"{TRAINER}._maybe_log_save_evaluate", "call": 4, "do": "NaN weights"},
    }
    if out is not None:  # one guard; it is tried by each of the faults
        faults = {what: fault for what, fault in faults.items() if out == f"finite {what}"}
    for what, fault in faults.items():
        folder = lab.fresh()
        done = lab.train(folder, *ONE, faults=[fault], without=without(out))
        assert all_finite(folder), f"{what}: a checkpoint holds NaN"
        assert done.status == 65 and status(folder)["status"] == 65, f"{what}: {done.status} {done.text[-1500:]}"
        assert "Traceback" not in done.text and checkpoints(folder)[-1] == "checkpoint-2"
        if what != "weight":
            kept = json.loads((folder / "runs/tiny/stages/short/non_finite_batch_rank0.json").read_text())
            assert kept["step"] == 4 and kept["what"] == what and len(kept["windows"]) == 4, kept
        resumed(lab, folder)
    folder = lab.fresh()
    one_of_two = {**faults["loss"], "rank": 1, "call": 7}
    half = ("train.batch_size=1", "train.gradient_accumulation=2")
    # The first of two forward passes of a step, on one of two ranks.
    done = lab.train(folder, *ONE, *half, faults=[one_of_two], ranks=2)
    assert done.together(65), f"{done.statuses}: {done.text[-1500:]}"
    for engine in ("zero2", "cpu_zero3"):
        not_updated(lab, engine)
    return (
        "65 at step 4, nothing updated, windows kept, resumed bit-equal; from one of two ranks both leave with 65, "
        "under ZeRO-2 and ZeRO-3 too"
    )


def not_updated(lab: Lab, engine: str) -> None:
    """An infinite gradient on one of two ranks under DeepSpeed, whose update is inside of its backward pass."""
    folder = lab.fresh()
    faults = [
        {"where": LOSS, "call": 4, "do": "steep loss", "rank": 1},
        {"where": "shridhar_ft.guarded:GuardedTrainer._vote_on_update", "call": 0, "do": "note the weights"},
    ]
    done = lab.train(folder, *ONE, "train.batch_size=2", faults=faults, ranks=2, engine=engine)
    assert done.together(65), f"{engine}: {done.statuses}: {done.text[-1500:]}"
    assert "before the update" in done.text, f"{engine}: {done.text[-1500:]}"
    for rank in (0, 1):
        # Noted twice a step: after the forward pass, and when DeepSpeed has updated, or has not.
        first, *_, trained, before, after = (folder / f"weights_rank{rank}.txt").read_text().split()
        assert first != trained == before == after, f"{engine}: rank {rank} was updated"
    assert all_finite(folder)


@case(
    10,
    "out of memory at a step",
    "length, batch, peak, the smallest change; nothing changed by itself",
    "memory errors",
)
def out_of_memory(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    faults = [
        {"where": STEP, "call": 4, "do": "tight memory"},
        {"where": f"{TRAINER}.compute_loss", "call": 4, "do": "allocate"},
    ]
    done = lab.train(folder, *ONE, faults=faults, without=without(out))
    assert done.status == 2 and "Traceback" not in done.text, f"{done.status}: {done.text[-1500:]}"
    sentence = done.text.splitlines()[-1]
    for part in ("windows of 64 tokens", "batch_size 4", "peak of", "set memory to [tiled_mlp]", "GiB"):
        assert part in sentence, sentence
    resumed(lab, folder)
    return sentence.split("out of memory ")[1][:150] + "…"


@case(11, "data edited, shortened or reordered before the resume", "fingerprint differs: refused", "settings")
def edited_data(lab: Lab, out: str | None) -> str:
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
        done = lab.train(folder, *ONE, f"data.books.paths={books}", without=without(out))
        assert done.status == 2 and "data: " in done.text and "--allow restart" in done.text, (
            f"{how}: {done.text[-900:]}"
        )
    assert checkpoints(folder) == ["checkpoint-2"]
    return "each refused with both hashes; the checkpoint stays"


@case(12, "the data run out and begin again, then a stop", "exact in the second pass too", "data skip")
def second_pass(lab: Lab, out: str | None) -> str:
    few = ("train.batch_size=64", "train.max_steps=9", "train.save_every=3", "train.evaluate_every=9")  # 7 steps a pass

    def whole_run() -> Path:
        folder = lab.fresh()
        assert lab.train(folder, *ONE, *few).status == 0
        return folder

    def stopped() -> Path:
        folder = lab.fresh()
        stop = {"where": STEP, "call": 8, "do": "SIGTERM"}
        assert lab.train(folder, *ONE, *few, faults=[stop]).status == 75
        return folder

    whole, folder = lab.once("two passes", whole_run), lab.once("stopped in the second pass", stopped)
    assert checkpoints(folder)[-1] == "checkpoint-8"
    assert lab.train(folder, *ONE, *few, without=without(out)).status == 0
    assert weights(folder) == weights(whole), "the second pass read other windows after the resume"
    return "stopped in the second pass over the windows; bit-equal"


@case(
    13,
    "another tokenizer before the resume; one with an id beyond the vocabulary",
    "refused before training",
    "settings",
    "token ids",
)
def another_tokenizer(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    beyond = json.loads((folder / "runs/tiny/tokenizer/tokenizer.json").read_text())
    beyond["model"]["vocab"][list(beyond["model"]["vocab"])[300]] = 70_000
    (folder / "runs/tiny/tokenizer/tokenizer.json").write_text(json.dumps(beyond))
    done = lab.train(folder, *ONE, without=without(out if out == "token ids" else None))
    assert done.status == 2 and "id 70000" in done.text and "Traceback" not in done.text, (
        f"{done.status}: {done.text[-900:]}"
    )
    folder = trained_to(lab, 2)
    file = folder / "runs/tiny/tokenizer/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(tokenizer))
    done = lab.train(folder, *ONE, without=without(out))
    assert done.status == 2 and "tokenizer: " in done.text, f"{done.status}: {done.text[-900:]}"
    assert "tokenizer cannot change in the middle" in done.text and "Traceback" not in done.text
    return (
        "refused: two swapped ids make another hash, which only restart may take; an id beyond the vocabulary is named"
    )


@case(
    16,
    "another learning rate, seed, batch or world size at the resume",
    "the difference shown; allowed by name",
    "settings",
)
def changed_settings(lab: Lab, out: str | None) -> str:
    changes = {
        "train.learning_rate=0.02": "learning_rate: 0.01 → 0.02",
        "seed=7": "seed: ",
        "train.batch_size=2": "batch_size: 4 → 2",
    }
    folder = trained_to(lab, 2)
    for change, shown in changes.items():
        done = lab.train(folder, *ONE, change, without=without(out))
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


@case(18, "a step, a reader, or one of two ranks that hangs", "stacks written; ended within the limit; 75", "watchdog")
def hung(lab: Lab, out: str | None) -> str:
    for where in [STEP, f"{TRAINER}.get_batch_samples"]:
        folder = lab.fresh()
        hang = {"where": where, "call": 4, "do": "hang"}
        done = lab.train(
            folder,
            *ONE,
            "train.stall_after=10s",
            faults=[hang],
            without=without(out),
            bound=60 if out else BOUND,
        )
        assert done.status == 75 and status(folder)["status"] == 75, f"{done.status}: {done.text[-900:]}"
        stacks = (folder / "runs/tiny/stages/short/stalled_rank0.txt").read_text()
        assert "_hang" in stacks and "training_loop" in stacks
        resumed(lab, folder)
    folder = lab.fresh()
    hang = {"where": STEP, "call": 4, "do": "hang", "rank": 1}
    done = lab.train(folder, *ONE, "train.batch_size=2", "train.stall_after=20s", faults=[hang], ranks=2)
    assert done.together(75) and status(folder)["status"] == 75, f"{done.statuses}: {done.text[-900:]}"
    assert any("_hang" in file.read_text() for file in folder.rglob("stalled_rank*.txt")), done.text[-900:]
    return "ended 10 s after the last step with the stacks of all threads, by one of two ranks too; resumed bit-equal"
