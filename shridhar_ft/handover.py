"""The end of a part: its weights written whole, what they are worth, the gate, the receipts after, and part.json."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.config import Recipe
from shridhar_ft.guarded import ROWS_READ
from shridhar_ft.measuring import gate, losses, said
from shridhar_ft.model.build import safetensors_hash
from shridhar_ft.model.quantized import Quantization
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope
from shridhar_ft.monitoring.notify import notify_part
from shridhar_ft.part import Spent, TrainingPart
from shridhar_ft.part_windows import PartWindows
from shridhar_ft.plan_receipt import StepFigures, write_plan_receipt
from shridhar_ft.preparation import measured_context
from shridhar_ft.processes import build_whole_models
from shridhar_ft.runfolder import (
    Run,
    disk_errors,
    fingerprint,
    finish_part,
    peak_rss_bytes,
    replace_folder,
    sync_tree,
)
from shridhar_ft.starting import Means, Receipts, Started
from shridhar_ft.trainer import WindowTrainer
from shridhar_ft.weights import Weights


@dataclass(frozen=True)
class Trained:
    """What a training leaves when its last step is done."""

    trainer: WindowTrainer
    started: Started
    means: Means
    windows: PartWindows
    receipts: Receipts
    arithmetic: Callable[[], AbstractContextManager[Any]]
    """Autocast, as in training."""
    measured: Callable[[Any], dict[str, Any]]
    """Measures a model on the validation windows and the long text."""
    before: dict[str, Any]
    """What it gave before the first step."""
    plan: dict[str, Any]
    """What was foretold."""
    figures: StepFigures
    spent: Spent
    peak_before: int
    """Peak memory up to the first step, in bytes."""


def hand_over(
    recipe: Recipe, run: Run, part: TrainingPart, done: Trained, state: PartialState, tell: Callable[[str], None]
) -> None:
    """Write a trained part so that the next one may begin with it; part.json comes last.

    Args:
        recipe: The whole recipe.
        run: Its run.
        part: What was trained.
        done: What its training left.
        state: Processes; all of them write and measure, the first one judges.
        tell: Told the losses and how the plan held.

    Raises:
        CheckFailed: The gate or a receipt does not hold.
    """
    trainer, receipts, kind = done.trainer, done.receipts, _kind(part)
    written = part.folder / f".{kind}.saving"
    if state.is_main_process:
        shutil.rmtree(written, ignore_errors=True)  # a killed run's leavings
    with disk_errors(part.folder):
        trainer.save_weights(written)
    trainer.accelerator.wait_for_everyone()
    with done.arithmetic():
        after = done.measured(trainer.evaluated_model)
    build_whole_models()
    tell(f"{part.name}: after training, {said(after)}")
    _judge(part, done.before, after, receipts, tell)
    if state.is_main_process:
        plan_file = part.folder / "receipts" / "plan.json"
        steps = trainer.state.global_step
        told = write_plan_receipt(plan_file, done.plan, done.figures, done.spent.seconds / 3600, steps)
        tell(f"{part.name}: {told}")
        _place_weights(part, done, written)
        finish_part(part.folder, part.made_from, done.spent.seconds, **_summary(recipe, run, part, done, after))
        told_losses = {"loss_before": losses(done.before), "loss_after": losses(after)}
        notify_part(recipe, run, part.name, {"steps": steps, **told_losses}, tell)
    state.wait_for_everyone()


def measured_with(recipe: Recipe) -> str:
    """Fingerprint of what a part's losses are measured with; it changes no weight."""
    return fingerprint(recipe.eval.model_dump(mode="json"), measured_context(recipe))


def _kind(part: TrainingPart) -> str:
    return "model" if part.tuning.method == "full" else "adapter"


def _judge(
    part: TrainingPart,
    before: dict[str, Any],
    after: dict[str, Any],
    receipts: Receipts,
    tell: Callable[[str], None],
) -> None:
    """The gate: the loss at the part's own length must not be worse after it."""
    if not part.gate:
        return
    judged = gate(before, after, part.context, part.gate)
    if judged is None:
        tell(f"{part.name}: no gate: there is no validation window and no eval.long_text to measure the stage on")
        return
    if (reached := judged[1]["positions"]) < part.context:
        tell(
            f"{part.name}: the gate is judged on {judged[0]['measured_on']}, which reaches position {reached:,} of "
            f"{part.context:,}; an eval.long_text of {part.context:,} tokens would reach them all"
        )
    if judged[1]["worse"] and part.gate == "tell":
        tell(f"{part.name}: the loss at {part.context:,} tokens is worse than before the stage (gate: tell)")
    receipts.write(
        "gate",
        *judged,
        mend=f"the loss at {part.context} tokens is worse after the stage than before it: lower its learning_rate, "
        "give it more text, or set its gate to tell",
    )


def _place_weights(part: TrainingPart, done: Trained, written: Path) -> None:
    """Check the RoPE once more, live and as written, and put the weights in their place."""
    kind, started = _kind(part), done.started
    (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing reads it
    trained = done.trainer.accelerator.unwrap_model(done.trainer.model)
    base = trained.get_base_model() if kind == "adapter" else trained
    changed = "the RoPE is not the one that this part began with: change nothing in the model or its folder meanwhile"
    done.receipts.write("rope_after", *check_rope(base, started.claimed, part.context), mend=changed)
    if kind == "model":  # an adapter's folder has no config; its base is checked again at the next load
        claims, found, ok = check_written_rope(written, started.claimed, part.context)
        done.receipts.write("rope_written", claims, found, ok, mend="; ".join(found["differs"]) or changed)
    else:
        start = part.origin.start
        assert start is not None, "an adapter lies on stored weights"
        beneath = start.adapters[:-1] if part.origin.continues_adapter else start.adapters
        AdapterBase.of(start, started.base_hash, beneath, Quantization.of(part.tuning), base.config).write(written)
    sync_tree(written)
    replace_folder(written, part.folder / kind)


def _summary(recipe: Recipe, run: Run, part: TrainingPart, done: Trained, after: dict[str, Any]) -> dict[str, Any]:
    """What part.json holds beside fingerprint and seconds."""
    kind, trainer = _kind(part), done.trainer
    ended = _ended_with(part, trainer)
    return {
        "weights": _written_weights(run, part, kind),
        "hash": safetensors_hash(part.folder / kind),  # of what is handed over: under ZeRO-3 no process holds it whole
        "base_hash": done.started.base_hash,
        "peak_rss_bytes": max(done.peak_before, peak_rss_bytes()),
        "method": part.tuning.method,
        "context": part.context,
        "window": part.layout.window,
        "levers": list(done.means.levers.names),
        "precision": "bf16" if done.means.bf16 else "fp32",
        "steps": trainer.state.global_step,
        "checkpoint": ended.name,
        "epochs": round(trainer.state.epoch or 0, 3),
        "windows": len(done.windows.train),
        "windows_read": int(np.load(part.folder / "checkpoints" / ended.name / ROWS_READ).sum()),
        "tokens_per_epoch": done.windows.ledger["in"],
        "loss_before": losses(done.before),
        "loss_after": losses(after),
        "measured_before": done.before,
        "measured_after": after,
        "measured_with": measured_with(recipe),
    }


def _ended_with(part: TrainingPart, trainer: WindowTrainer) -> Path:
    """Name of the checkpoint that holds the weights that are handed over."""
    best = trainer.state.best_model_checkpoint if part.tuning.keep == "best" else None
    return Path(best or f"checkpoint-{trainer.state.global_step}")


def _written_weights(run: Run, part: TrainingPart, kind: str) -> dict[str, Any]:
    """Where the weights that this part ends with lie, for part.json."""
    if kind == "model":
        return Weights(str(part.folder / "model")).as_dict(run.root)
    start = part.origin.start
    assert start is not None, "an adapter lies on stored weights"
    kept = start.adapters[:-1] if part.origin.continues_adapter else start.adapters
    return Weights(start.base, start.revision, (*kept, str(part.folder / "adapter"))).as_dict(run.root)
