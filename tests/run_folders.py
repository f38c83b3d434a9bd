"""Run folders written by hand for tests of the run page: whole, half done, failed; nothing in them was trained."""

import json
from pathlib import Path
from typing import Any

from shridhar_ft.config import dump_recipe, load_recipe
from shridhar_ft.data.histogram import Histogram
from shridhar_ft.receipts import receipt_of
from shridhar_ft.runfolder import Run, record_recipe, write_json, write_text
from shridhar_ft.shipped import shipped

SECRET = "Меня зовут Агафья, и вот что я вам расскажу"
"""What somebody said: it stands in the folder wherever a dialogue's text does, and must stand on no page."""
FEW_PAIRS = "only 40 pairs of the own books: below 1,000 an interval is wider than ±1.4 %"
STAGES = {"stages/8k": 128, "stages/32k": 512, "stages/108k": 1728}
PARTS = {**STAGES, "sft": 512}


def finished_run(folder: Path) -> Run:
    """A run that is done, evaluated and sampled, every kind of receipt in it."""
    run = half_run(folder)
    for number, part in enumerate(PARTS):
        write_part(run, part, number)
    export = run.root / "export"
    write_json(export / "part.json", {"fingerprint": "e" * 32, "seconds": 30.0, "peak_rss_bytes": 2**30})
    write_json(export / "certificate.json", certificate())
    write_text(export / "whole-q8_0.gguf", "")
    write_json(run.root / "eval" / "results.json", results("whole"))
    write_json(run.root / "eval" / "models" / "base-1a2b3c" / "results.json", results("base"))
    write_text(run.root / "eval" / "items" / "dialogue.jsonl", json.dumps({"said": SECRET}, ensure_ascii=False))
    write_json(run.root / "samples.json", samples())
    run.status(0, "run", "done")
    return run


def half_run(folder: Path) -> Run:
    """A run that is in its first stage: data, tokenizer, a few steps."""
    run = Run(folder / "runs" / "whole")
    recipe = load_recipe(shipped("recipes/demo/recipe.yaml"), ["name=whole"])
    record_recipe(run, dump_recipe(recipe), recipe.seed)
    for name in ("data", "tokenizer"):
        write_json(
            run.root / name / "part.json", {"fingerprint": name[0] * 32, "seconds": 1.0, "peak_rss_bytes": 2**29}
        )
    write_json(run.data / "report.json", data_report())
    write_json(run.data / "verdict.json", verdict())
    for name, receipt in data_receipts().items():
        write_json(run.data / "receipts" / f"{name}.json", receipt)
    begin_part(run, "stages/8k", 0)
    run.status(None, "pretrain", "training")
    return run


def failed_run(folder: Path) -> Run:
    """A run that a receipt stopped in its first stage, with a log that the kill cut off and a damaged file."""
    run = half_run(folder)
    part = run.stage("8k")
    measured = {"largest_difference_in_other_documents": "nan", "largest_difference_in_the_changed_document": 1.0}
    write_json(
        part / "receipts" / "isolation.json",
        receipt_of("isolation", {"documents": [3], "tolerance": 1e-4}, measured, False, "take another attention"),
    )
    with (part / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 30, "lo')
    write_text(part / "before.json", '{"validation": {')
    run.status(1, "pretrain", "the isolation receipt does not hold", resume="shridhar-ft run runs/whole/recipe.yaml")
    return run


# ------------------------------------------------------------------------------------------------- its pieces


def begin_part(run: Run, name: str, number: int) -> None:
    """Log, losses and receipts of a part that is being trained."""
    folder, context = run.root / name, PARTS[name]
    lines = [{"step": step, "loss": 6 - number - step / 50, "grad_norm": 1.0} for step in range(10, 51, 10)]
    lines += [{"step": 25, "eval_loss": 5.8 - number, "eval_by_position": []}]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "before.json", losses(context, 6.1 - number))
    before = {"from": list(PARTS)[number - 1]} if number else {"from": "the first weights", "seed": 108}
    rope = {"rope_theta": 10000.0, "rope_type": "yarn" if number else "default"}
    if number == 2:  # as models with sliding layers have them
        rope = {"full_attention": rope, "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}
    rope_claim = {"rope_parameters": rope, "max_position_embeddings": context, "context": context}
    rope_found = {"rotary_modules": 1, "largest_relative_frequency_difference": 6.66e-8, "attention_factor": 1.0}
    leak = {"largest_difference_in_other_documents": 0.0, "largest_difference_in_the_changed_document": 1.2}
    counts = {"in": 1000, "trained": 900, "masked": 80, "truncated": 15, "dropped": 5, "filled": 0.99}
    told = {
        "handover": ({**before, "hash": f"{number}" * 32}, {"hash": f"{number}" * 32}),
        "rope": (rope_claim, rope_found),
        "isolation": ({"documents": [23, 17], "tolerance": 1e-4}, leak),
        "ledger": ({"in": "trained + masked + truncated + dropped"}, counts),
    }
    if name == "sft":
        found = {"example": f"⟦{SECRET}⟧", "legend": "⟦what the loss falls on⟧", "tokens": 90, "learned_tokens": 40}
        found |= {"answers": 3, "answers_with_their_closing_token": 3}
        told["mask"] = ({"assistant_only_loss": True}, found)
    for receipt, (claimed, measured) in told.items():
        write_json(folder / "receipts" / f"{receipt}.json", receipt_of(receipt, claimed, measured, True))


def write_part(run: Run, name: str, number: int) -> None:
    """A part that is finished."""
    begin_part(run, name, number)
    folder, context = run.root / name, PARTS[name]
    after = losses(context, 5.2 - number)
    forecast = {"peak_bytes": 2**30, "step_seconds": 0.5, "hours": 0.01, "usd": None, "rates": "calibrated"}
    came = {
        "peak_bytes": 2**30 * 1.1,
        "peak_off": 0.1,
        "step_seconds": 0.6,
        "step_off": 0.2,
        "hours": 0.02,
        "usd": None,
    }
    receipts = folder / "receipts"
    write_json(receipts / "plan.json", receipt_of("plan", forecast, came, True))
    gate = {"loss_before": 6.0, "loss_after": 5.0, "change": -1.0, "standard_error": 0.1, "worse": False}
    write_json(receipts / "gate.json", receipt_of("gate", {"measured_on": "validation", "gate": "stop"}, gate, True))
    written = {"rope_parameters": {"rope_type": "yarn"}, "max_position_embeddings": context, "context": context}
    found = {"largest_relative_frequency_difference": 0.0, "differs": []}
    write_json(receipts / "rope_written.json", receipt_of("rope_written", written, found, True))
    done = {"fingerprint": f"{number}" * 32, "hash": f"{number}abc" * 8, "seconds": 60.0, "peak_rss_bytes": 2**30}
    done |= {"context": context, "method": "full", "steps": 50, "measured_before": losses(context, 6.1 - number)}
    write_json(folder / "part.json", {**done, "measured_after": after})


def losses(context: int, level: float) -> dict[str, Any]:
    """As `measuring.measure` gives them."""
    size = context // 16
    rows = [
        {"from": place * size, "to": (place + 1) * size, "loss": level - place / 100, "tokens": 64}
        for place in range(16)
    ]
    gain = {"gain": 0.02, "standard_error": 0.01, "loss_short": level, "loss_whole": level - 0.02, "tokens": 64}
    text = {"loss": level, "standard_error": 0.01, "tokens": 999, "by_position": rows, "context_gain": gain}
    validation = {"loss": level, "tokens": 999, "by_position": [*rows[:-1], {**rows[-1], "loss": None, "tokens": 0}]}
    return {"validation": validation, f"long_text_{context}": text}


def results(name: str) -> dict[str, Any]:
    """As `eval` writes them: shares, nats, a score that is undefined, needles, something that is not measured."""
    score = {"n": 40, "unit": "share", "higher_is_better": True, "target": "", "details": {}}
    near = {"floor": 0.5, "floor_of": "chance", "ceiling": 1.0, "ceiling_of": "every pair right"}
    unknown = {"floor": None, "floor_of": "not measured", "ceiling": None, "ceiling_of": "not measured"}
    scores = [
        {**score, **near, "name": "own pairs, sum log-probability", "value": 0.62, "low": 0.55, "high": 0.7},
        {**score, **unknown, "name": "loss (windows)", "value": 4.2, "low": 4.1, "high": 4.3, "unit": "nats a token",
         "higher_is_better": False},
        {**score, **near, "name": "style acceptance S", "value": None, "low": None, "high": None, "unit": "ratio",
         "lacking": "undefined: the verifier accepts 10% of the author and 5% of the floor",
         "target": "at least 0.85, with no more copied runs than the true continuations"},
        {**score, **near, "name": "context gain", "value": -0.01, "low": -0.02, "high": 0.0, "unit": "nats a token",
         "floor": -0.05, "ceiling": None, "ceiling_of": "not measured"},
    ]  # fmt: skip
    heat = {"lengths": [432, 864], "depths": [0.0, 0.5, 1.0], "shares": [[0.25, 1.0, None], [0.0, 0.5, 0.75]]}
    way = {"heat_map": heat, "effective_length": {"single_key": 864, "two_fact": None}}
    rows = [{"from": at, "to": at + 108, "loss": 5 - at / 2000, "tokens": 108} for at in range(0, 1728, 108)]
    return {
        "model": name,
        "window": 1728,
        "seed": 108,
        "scores": scores,
        "details": {
            "retention": {"exact": way, "choice": way, "notes": []},
            "loss_by_position": {"by_position": rows, "reading": "windows"},
            "ru_pairs": {"floors": {}, "notes": [FEW_PAIRS]},
        },
        "unmeasured": {"dialogue": "the model has no chat template: it was not taught to talk"},
        "at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


def samples() -> dict[str, Any]:
    """As `samples.ensure_samples` keeps them: an answer withheld, one without a template, one cut, one stale."""
    texts = [{"text": "и река несла свои воды."}, {"withheld": True}]
    return {
        "settings": "s",
        "tokens": 48,
        "random_base": True,
        "prompts": [
            {"kind": "text", "work": "put_k_istochniku", "text": "Утро было тихое,", "true": "и дорога вела к реке."},
            {"kind": "question", "text": "Что такое терпение?"},
        ],
        "models": [
            {"name": "stages/8k", "made_from": "0" * 32, "answers": [texts[0], {"text": None}]},
            {"name": "stages/32k", "made_from": "older", "answers": [{"text": "", "cut": True}, texts[1]]},
            {"name": "sft", "made_from": "3" * 32, "answers": [texts[0], texts[1]]},
        ],
    }


def data_report() -> dict[str, Any]:
    """As a build writes it."""
    characters = {"in": 1000, "kept": 990, "removed": {"spaces": 10}, "added": {}, "changed": {}}
    kind = {"characters": characters, "rows": 30, "files": [{"source": "a.txt", "characters": characters, "rows": 30}]}
    size = {"rows": 10, "characters": 330}
    return {
        "books": kind,
        "dialogues": kind,
        "splits": {split: {"books": size, "dialogues": size} for split in ("train", "validation", "test")},
        "histograms": {"block characters": Histogram([900, 950]).as_dict()},
    }


def data_receipts() -> dict[str, Any]:
    """The ledger's and the split's."""
    kind = {"in": 1000, "kept": 990, "removed": {"spaces": 10}, "added": {}, "changed": {}, "difference": 0}
    tokens = {"train": {"books": 300, "dialogues": 200}}
    runs = {"shares": {"train": 0.8}, "runs_of_13_words": {"test": {"runs": 50, "in_train": 0}}}
    asked = {"shares": {"train": 0.8}, "by": "characters", "runs_in_train": 0}
    found = {"books": kind, "dialogues": kind, "tokens": tokens}
    return {
        "ledger": receipt_of("ledger", {"unit": "characters"}, found, True),
        "split": receipt_of("split", asked, {"books": runs, "dialogues": runs}, True),
    }


def verdict() -> dict[str, Any]:
    """As `sufficiency.write_verdict` keeps it."""
    stages = [
        {
            "name": name.removeprefix("stages/"), "context": context, "windows": 30, "epochs": 6.0, "steps": 50,
            "verdict": "First training, from random weights: 22,908 distinct tokens.",
            "notes": ["6 epochs, and beyond about 4 repeating teaches little; set max_epochs: 4."],
        }
        for name, context in STAGES.items()
    ]  # fmt: skip
    sft = {
        "context": 512, "conversations": 85, "assistant_tokens": 9066, "epochs": 6.0, "steps": 174, "notes": [],
        "verdict": "85 conversations with 9,066 tokens of answers: few; about 1,000 taught a large base its manner.",
    }  # fmt: skip
    counted = {split: {"books": 300, "dialogues": 200} for split in ("train", "validation", "test")}
    notes = ["books: train holds 70.0% of the tokens, and 80.0% were asked for."]
    return {"tokens": counted, "notes": notes, "stages": stages, "sft": sft}


def certificate() -> dict[str, Any]:
    """As an export writes it."""
    compared = {
        "merged": {"largest_logit_difference": 1e-5, "mean_kl_nats": 1e-9, "largest_difference_in_deviations": 1e-6}
    }
    claimed = {
        "artefacts": ["base + adapter", "merged"],
        "not_read": [],
        "tolerances": {"merged": {"mean_kl_nats": 1e-6}},
    }
    measured = {**compared, "tokens": 1728, "dtype": "float32", "rope": {"ok": True}}
    return receipt_of("certificate", claimed, measured, True)
