"""The one assembly that pretraining stages and SFT share: windows, model, receipts, trainer, hand-over, resume.

    train_part   ledger → model with its RoPE and levers → receipts (handover, rope, isolation) → losses before
                 → trainer → weights written whole → losses after → gate → part.json

What differs between the two entries is in their `TrainingPart`: which documents, which windows, which weights.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import TrainerState

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.arguments import arguments
from shridhar_ft.callbacks import Metrics, StopAtPlateau, StopVote, at_plateau
from shridhar_ft.checkpoint import step_of, whole
from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.windows import Encoded, Layout, load_windows, save_windows
from shridhar_ft.documents import long_text
from shridhar_ft.engines import Engine
from shridhar_ft.errors import BudgetSpent, Resumable, UserError
from shridhar_ft.guarded import ROWS_READ
from shridhar_ft.measuring import gate, losses, measure
from shridhar_ft.model.build import safetensors_hash
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.memory import give_back_freed_memory
from shridhar_ft.model.quantized import Quantization
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope
from shridhar_ft.monitoring.board import Board
from shridhar_ft.monitoring.live import Live, price
from shridhar_ft.monitoring.notify import notify_part
from shridhar_ft.out_of_memory import memory_errors
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.plan.steps import schedule
from shridhar_ft.plan_receipt import StepFigures, foretold, peak_bytes, write_plan_receipt
from shridhar_ft.preparation import measured_context
from shridhar_ft.processes import build_whole_models, shared_attention
from shridhar_ft.progress import TrainingProgress, quiet, say
from shridhar_ft.resume import Facts, choose_together
from shridhar_ft.room import check_room, checkpoint_bytes
from shridhar_ft.runfolder import (
    PART,
    Run,
    begin_peak_rss,
    disk_errors,
    fingerprint,
    finish_part,
    is_current,
    peak_rss_bytes,
    read_json,
    replace_folder,
    sync_tree,
    write_json,
)
from shridhar_ft.spending import Spending
from shridhar_ft.starting import Origin, Receipts, start_model
from shridhar_ft.tokenizer import pad_id
from shridhar_ft.trainer import SpannedSchedule, WindowCollator, WindowTrainer
from shridhar_ft.votes import highest
from shridhar_ft.watchdog import Watchdog
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Settings that change no number of the weights. `memory` is among them but for the levers that do (stages.py).
NOT_IN_THE_WEIGHTS = {"log_every", "evaluate_every", "save_every", "keep_checkpoints", "memory", "memory_limit"}


@dataclass(frozen=True)
class TrainingPart:
    """One stage, or SFT."""

    name: str
    folder: Path
    tuning: Tuning
    context: int
    """Positions that it trains, in tokens."""
    layout: Layout
    """How documents become windows."""
    stage_index: int
    """Whose RoPE it has; −1 is the last stage's."""
    documents: Callable[[SplitName], Iterator[Encoded]]
    """Encoded documents of a split."""
    why_masked: str
    """Reason in the ledger for tokens without loss."""
    origin: Origin
    """Which weights it begins with."""
    settings: dict[str, Any]
    """Everything that its weights hang on, by name, as JSON holds it: settings, and hashes of what it reads."""
    gate: Literal["stop", "tell"] | None = None
    """What a worse loss at its own length does; None asks nothing."""
    skips: bool = False
    """Whether its windows' positions skip (PoSE)."""
    schedule_of: tuple[tuple[Tuning, int], ...] = ()
    """Tuning and window of the stages that share its learning-rate schedule, in order; () where it has its own."""
    schedule_place: int = 0
    """Which of them it is."""
    carries_optimizer: Path | None = None
    """Checkpoint (a folder) whose optimizer state it goes on with."""
    handed_over: Callable[["PreTrainedTokenizerBase"], None] | None = None
    """Further receipts of this kind of part, written before training."""

    @property
    def made_from(self) -> str:
        """Fingerprint of everything that its weights hang on."""
        return fingerprint(self.settings)


def train_part(
    recipe: Recipe,
    run: Run,
    part: TrainingPart,
    tokenizer: "PreTrainedTokenizerBase",
    allowed: frozenset[str] = frozenset(),
) -> None:
    """Train one part to its end, or go on where it stopped; returns at once when it is current.

    Args:
        recipe: The whole recipe.
        run: Its run.
        part: What is trained.
        tokenizer: The run's.
        allowed: What a resume may go on with changed, or without (allowed.py).

    Raises:
        CheckFailed: A receipt does not hold.
        Resumable: A signal came; a checkpoint is written.
        BudgetSpent: The run has cost what it may; a checkpoint is written, or it did not begin.
        NonFinite: A loss or gradient is not finite.
    """
    state = PartialState()
    tell = say if state.is_main_process else quiet
    if is_current(part.folder, part.made_from):
        told = read_json(part.folder / PART)["measured_with"] == _measured_with(recipe)
        tell(
            f"{part.name}: up to date"
            + ("" if told else " (its losses were measured with other settings under `eval`)")
        )
        return
    spending = Spending.of(recipe, run, state.device.type, layout_here().nodes, state.is_main_process, tell)
    spending.keep(at_once=True)
    if highest(int(spending.over), state.device, state.num_processes):
        raise BudgetSpent(f"{part.name}: not begun: {spending.sentence()}")
    engine = Engine.of_process()
    build_whole_models()
    facts = Facts.now(part.settings, recipe.model_dump(mode="json"), state.num_processes)
    resume = choose_together(part.name, part.folder, facts, allowed, state, tell)
    spent = Spent(part.folder / "spent.json", write=state.is_main_process)
    (part.folder / PART).unlink(missing_ok=True)
    tuning = part.tuning

    # Windows and their ledger
    with state.main_process_first():
        plain = Layout(part.layout.window, part.layout.overlong)
        for split, layout in zip(SPLITS[:2], (part.layout, plain), strict=True):
            save_windows(
                part.folder / "windows" / split, part.documents(split), layout, part.why_masked, part.made_from
            )
    train_windows, ledger = load_windows(part.folder / "windows" / "train")
    validation_windows, _ = load_windows(part.folder / "windows" / "validation")
    tell(
        f"{part.name}: {ledger['in']:,} tokens in {ledger['windows']:,} windows of {part.layout.window:,}, "
        f"{ledger['filled']:.1%} full: "
        f"{ledger['trained']:,} trained, {ledger['masked']:,} masked, {ledger['truncated'] + ledger['dropped']:,} lost"
        + (f", {ledger['replayed']:,} of them in short pieces once more" if ledger["replayed"] else "")
    )
    receipts = Receipts(part.folder / "receipts", to_disk=state.is_main_process)
    lost = {"in": "trained + masked + truncated + dropped"}
    balanced = ledger["in"] == sum(ledger[key] for key in ("trained", "masked", "truncated", "dropped"))
    receipts.write("ledger", lost, {key: ledger[key] for key in ledger if key != "fingerprint"}, balanced)
    if not len(train_windows):
        raise UserError(f"{part.name}: nothing is left to read; take carry.data away, or shorten the stage before")
    packed = any(len(lengths) > 1 for lengths in train_windows["lengths"])
    engine.check_packed(packed, part.name)
    if part.handed_over and state.is_main_process:
        part.handed_over(tokenizer)

    # Model
    give_back_freed_memory()
    set_seed(recipe.seed)
    started, means = start_model(
        recipe, part.name, part.stage_index, tuning, part.context, part.layout.window,
        part.origin, tokenizer, part.folder, receipts, tell,
    )  # fmt: skip
    model = started.model
    arithmetic = partial(torch.autocast, state.device.type, torch.bfloat16, enabled=means.bf16)
    with arithmetic():
        rows = min(tuning.batch_size, 2)
        receipts.write("isolation", *probe_isolation(model, len(tokenizer), part.context, rows, skips=part.skips))

    # Trainer
    checkpoints = part.folder / "checkpoints"
    carried = whole(part.carries_optimizer, "carry.optimizer") if part.carries_optimizer and not resume else None
    progress = TrainingProgress(part.name, show=state.is_main_process)
    vote = StopVote(recipe.train.stop_after, spending)
    watchdog = Watchdog(recipe.train.stall_after, run, part.name, part.folder)
    settings = arguments(
        tuning, checkpoints, part.layout.window, len(train_windows), bool(len(validation_windows)),
        means.bf16, recipe.seed, state, engine.readers, lambda said: tell(f"{part.name}: {said}"),
        recipe.train.report_to,
    )  # fmt: skip
    per_step = tuning.batch_size * tuning.gradient_accumulation * engine.readers
    tell(f"{part.name}: {settings.max_steps:,} steps of {per_step} windows")
    trainer = WindowTrainer(
        model=model,
        args=settings,
        levers=means.levers,
        tuning=tuning,
        window=part.layout.window,
        train_dataset=train_windows,
        eval_dataset=validation_windows if len(validation_windows) else None,
        data_collator=WindowCollator(pad_id(tokenizer), engine.shared_length(part.layout.window)),
        processing_class=tokenizer,
        facts=facts,
        resume=resume,
        keep_checkpoints=tuning.keep_checkpoints,
        pose_context=part.context if part.skips else None,
        spanned=_spanned(part, engine.readers),
        carried_optimizer=carried and carried / "optimizer.pt",
    )
    if state.is_main_process:
        saves = -(-settings.max_steps // int(settings.save_steps))
        check_room(checkpoints, checkpoint_bytes(model, tuning, means.levers), tuning.keep_checkpoints, saves)
    if packed and engine.sequence > 1:  # the probe above saw whole rows; Ulysses is in place in training only
        trainer.when_ready = lambda: receipts.write(
            "isolation_shared",
            *probe_isolation(trainer.model_wrapped, len(tokenizer), part.context, tuning.batch_size, shared=True),
            mend="documents that share a window read one another under Ulysses; take another launch.config",
        )
    trainer.add_callback(vote)
    trainer.add_callback(watchdog)
    trainer.add_callback(figures := StepFigures())
    if tuning.plateau:
        trainer.add_callback(StopAtPlateau(tuning.plateau, tell))

    text = long_text(recipe, tokenizer)
    most = recipe.eval.max_windows
    measured = partial(
        measure,
        validation=validation_windows,
        window=part.layout.window,
        most=most if part.stage_index >= 0 else None,  # SFT windows hold many short conversations, and are few
        text=text,
        contexts=[part.context, measured_context(recipe) if recipe.stages else part.context],
        windows_of_text=most,
        state=state,
    )
    before_file = part.folder / "before.json"
    memory = (part.name, tuning, part.layout.window, means.levers, means.bf16, started.claimed, state.device)
    trained_numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = foretold(
        recipe, tuning, started.claimed, trained_numbers, part.layout.window, means.levers, means.bf16, train_windows,
        state.device, layout_here(),
    )  # fmt: skip
    nodes = layout_here().nodes
    board, hourly = Board(part.folder), price(recipe)
    live = Live(run.root, part.name, plan, None if hourly is None else hourly * nodes, spent)
    metrics = part.folder / "metrics.jsonl"
    peak_now = partial(peak_bytes, state.device)
    trainer.add_callback(Metrics(metrics, progress, lambda: trainer.tokens_seen, live, board, peak_now))
    if resume is None or "data" in resume.changed or not before_file.is_file():
        with arithmetic(), memory_errors(*memory):
            before = measured(model)
        if state.is_main_process:
            write_json(before_file, before)
    else:
        before = read_json(before_file)
    if resume:
        tell(f"{part.name}: going on after step {step_of(resume.checkpoint)}")
    tell(f"{part.name}: before training, {_figures(before)}")
    peak_before = peak_rss_bytes()
    give_back_freed_memory()  # quantising a base leaves pieces of the whole one
    begin_peak_rss()
    figures.begin(peak_bytes(state.device))
    with progress, disk_errors(part.folder), memory_errors(*memory), shared_attention(engine) as shared:
        trainer.shared_attention = shared
        try:
            if resume is None or not _take_finished(trainer, resume.checkpoint, tuning):
                trainer.train()
        finally:
            vote.release()
            watchdog.stop()
            board.close()
    spent.stop()
    spending.keep(at_once=True)
    figures.end(peak_bytes(state.device))
    if vote.stopped and vote.spent:
        raise BudgetSpent(
            f"{part.name}: stopped after step {trainer.state.global_step}, with a checkpoint: {spending.sentence()}"
        )
    if vote.stopped:
        raise Resumable(
            f"{part.name}: stopped by {vote.asked} after step {trainer.state.global_step}; a checkpoint is written"
        )

    # Hand-over: the weights, whole, then what they are worth, then the gate, then part.json
    kind = "model" if tuning.method == "full" else "adapter"
    written = part.folder / f".{kind}.saving"
    if state.is_main_process:
        shutil.rmtree(written, ignore_errors=True)  # a killed run's leavings
    with disk_errors(part.folder):
        trainer.save_weights(written)
    trainer.accelerator.wait_for_everyone()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    with arithmetic():
        after = measured(trainer.evaluated_model)
    build_whole_models()
    tell(f"{part.name}: after training, {_figures(after)}")
    if part.gate and (judged := gate(before, after, part.context, part.gate)):
        worse = judged[1]["worse"]
        if worse and part.gate == "tell":
            tell(f"{part.name}: the loss at {part.context:,} tokens is worse than before the stage (gate: tell)")
        receipts.write(
            "gate",
            *judged,
            mend=f"the loss at {part.context} tokens is worse after the stage than before it: lower its learning_rate, "
            "give it more text, or set its gate to tell",
        )
    if not state.is_main_process:
        state.wait_for_everyone()
        return
    plan_file = part.folder / "receipts" / "plan.json"
    told = write_plan_receipt(plan_file, plan, figures, spent.seconds / 3600, trainer.state.global_step)
    tell(f"{part.name}: {told}")
    (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing reads it
    base = trained.get_base_model() if kind == "adapter" else trained
    changed = "the RoPE is not the one that this part began with: change nothing in the model or its folder meanwhile"
    receipts.write("rope_after", *check_rope(base, started.claimed, part.context), mend=changed)
    if kind == "model":  # an adapter's folder has no config; its base is checked again at the next load
        claims, found, ok = check_written_rope(written, started.claimed, part.context)
        receipts.write("rope_written", claims, found, ok, mend="; ".join(found["differs"]) or changed)
    if kind == "adapter":
        start = part.origin.start
        assert start is not None, "an adapter lies on stored weights"
        beneath = start.adapters[:-1] if part.origin.continues_adapter else start.adapters
        AdapterBase.of(start, started.base_hash, beneath, Quantization.of(tuning), base.config).write(written)
    sync_tree(written)
    replace_folder(written, part.folder / kind)
    ended = _ended_with(trainer, tuning)
    finish_part(
        part.folder,
        part.made_from,
        spent.seconds,
        weights=_written_weights(run, part, kind),
        hash=safetensors_hash(part.folder / kind),  # of what is handed over: under ZeRO-3 no process holds it whole
        base_hash=started.base_hash,
        peak_rss_bytes=max(peak_before, peak_rss_bytes()),
        method=tuning.method,
        context=part.context,
        window=part.layout.window,
        levers=list(means.levers.names),
        precision="bf16" if means.bf16 else "fp32",
        steps=trainer.state.global_step,
        checkpoint=ended.name,
        epochs=round(trainer.state.epoch or 0, 3),
        windows=len(train_windows),
        windows_read=int(np.load(checkpoints / ended.name / ROWS_READ).sum()),
        tokens_per_epoch=ledger["in"],
        loss_before=losses(before),
        loss_after=losses(after),
        measured_before=before,
        measured_after=after,
        measured_with=_measured_with(recipe),
    )
    told_losses = {f"loss_{when}": losses(found) for when, found in (("before", before), ("after", after))}
    notify_part(recipe, run, part.name, {"steps": trainer.state.global_step, **told_losses}, tell)
    state.wait_for_everyone()


# -------------------------------------------------------------------------------------------------- pieces


def _spanned(part: TrainingPart, processes: int) -> SpannedSchedule | None:
    """Where this part stands in a schedule over several stages; their steps hang on their limits alone."""
    if not part.schedule_of:
        return None
    steps = [schedule(tuning, 1, window, processes)["steps"] for tuning, window in part.schedule_of]
    return SpannedSchedule(before=sum(steps[: part.schedule_place]), total=sum(steps))


class Spent:
    """Seconds that a part has taken over all its processes' lives, and the peak memory of this one."""

    def __init__(self, file: Path, write: bool) -> None:
        self.file, self.write, self.started = file, write, time.monotonic()
        self.before = read_json(file)["seconds"] if file.is_file() else 0.0
        begin_peak_rss()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def stop(self) -> None:
        """Keep what was spent so far, for the process that goes on."""
        if self.write:
            write_json(self.file, {"seconds": round(self.seconds, 1)})


def _take_finished(trainer: WindowTrainer, checkpoint: Path, tuning: Tuning) -> bool:
    """Take the weights of a checkpoint of the last step; transformers would train one step more before it looks."""
    reached = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    ended = reached.global_step >= trainer.args.max_steps  # not the checkpoint's own, which may have been changed
    if not ended and not (tuning.plateau and at_plateau(reached.log_history, tuning.plateau)):
        return False
    best = Path(reached.best_model_checkpoint or checkpoint).name if tuning.keep == "best" else checkpoint.name
    trainer._load_from_checkpoint(str(checkpoint.with_name(best)))
    trainer.state = reached
    return True


def _measured_with(recipe: Recipe) -> str:
    """Fingerprint of what the losses were measured with; it changes no weight."""
    return fingerprint(recipe.eval.model_dump(mode="json"), measured_context(recipe))


def _ended_with(trainer: WindowTrainer, tuning: Tuning) -> Path:
    """Name of the checkpoint that holds the weights that are handed over."""
    best = trainer.state.best_model_checkpoint if tuning.keep == "best" else None
    return Path(best or f"checkpoint-{trainer.state.global_step}")


def _figures(measured: dict[str, Any]) -> str:
    said = [f"{name} loss {value:.4f}" for name, value in losses(measured).items() if value is not None]
    for name, found in measured.items():
        if gain := found.get("context_gain"):
            error = f" ± {gain['standard_error']:.4f}" if gain["standard_error"] is not None else ""
            said.append(f"context gain {gain['gain']:+.4f}{error} on {name}")
    return ", ".join(said)


def _written_weights(run: Run, part: TrainingPart, kind: str) -> dict[str, Any]:
    """Where the weights that this part ends with lie, for part.json."""
    if kind == "model":
        return Weights(str(part.folder / "model")).as_dict(run.root)
    start = part.origin.start
    assert start is not None, "an adapter lies on stored weights"
    kept = start.adapters[:-1] if part.origin.continues_adapter else start.adapters
    return Weights(start.base, start.revision, (*kept, str(part.folder / "adapter"))).as_dict(run.root)
