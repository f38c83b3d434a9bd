"""The one assembly that pretraining stages and SFT share: windows, model, receipts, trainer, hand-over, resume.

    train_part   ledger → model with its RoPE and levers → receipts (handover, rope, isolation) → losses before
                 → trainer → weights written whole → losses after → gate → part.json

What differs between the two entries is in their `TrainingPart`: which documents, which windows, which weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import TrainerState

from shridhar_ft.allocator import give_back_freed_memory
from shridhar_ft.arguments import arguments
from shridhar_ft.callbacks import Metrics, StopAtPlateau, StopVote, at_plateau
from shridhar_ft.checkpoint import step_of, whole
from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.documents import long_text
from shridhar_ft.engines import Engine
from shridhar_ft.errors import BudgetSpent, Resumable
from shridhar_ft.handover import Trained, hand_over, measured_with
from shridhar_ft.measuring import measure, said
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.monitoring.board import Board
from shridhar_ft.monitoring.live import Live
from shridhar_ft.out_of_memory import memory_errors
from shridhar_ft.part import Spent, TrainingPart
from shridhar_ft.part_windows import make_windows
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.plan.steps import NOTHING, schedule, trains_nothing
from shridhar_ft.plan_receipt import StepFigures, foretold, peak_bytes
from shridhar_ft.preparation import measured_context
from shridhar_ft.processes import build_whole_models, shared_attention
from shridhar_ft.progress import TrainingProgress, quiet, say
from shridhar_ft.resume import Facts, Resume, choose_together
from shridhar_ft.room import check_room, checkpoint_bytes
from shridhar_ft.runfolder import (
    PART,
    Run,
    begin_peak_rss,
    disk_errors,
    is_current,
    peak_rss_bytes,
    read_json,
    write_json,
)
from shridhar_ft.spending import Spending
from shridhar_ft.starting import Receipts, start_model
from shridhar_ft.tokenizer import opening_token, pad_id
from shridhar_ft.trainer import SpannedSchedule, WindowCollator, WindowTrainer
from shridhar_ft.votes import highest
from shridhar_ft.watchdog import Watchdog

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        told = read_json(part.folder / PART)["measured_with"] == measured_with(recipe)
        tell(
            f"{part.name}: up to date"
            + ("" if told else " (its losses were measured with other settings under `eval`)")
        )
        return
    spending = Spending.of(recipe, run, state.device.type, layout_here().nodes, state.is_main_process, tell)
    spending.keep(at_once=True)
    if highest(int(spending.over), state.device, state.num_processes):
        raise BudgetSpent(f"{part.name}: not begun: {spending.sentence()}")
    training = _Training(recipe, run, part, tokenizer, spending, state, tell, allowed)
    training.train()
    hand_over(recipe, run, part, training.trained, state, tell)


class _Training:
    """One part's training in this process, its pieces made in the order in which they need one another."""

    trained: Trained
    """What is handed over, once `train` has come back."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        part: TrainingPart,
        tokenizer: "PreTrainedTokenizerBase",
        spending: Spending,
        state: PartialState,
        tell: Callable[[str], None],
        allowed: frozenset[str],
    ) -> None:
        self.recipe, self.run, self.part, self.tokenizer = recipe, run, part, tokenizer
        self.spending, self.state, self.tell = spending, state, tell
        self.engine = Engine.of_process()
        build_whole_models()
        self.facts = Facts.now(part.settings, recipe.model_dump(mode="json"), state.num_processes)
        self.resume: Resume | None = choose_together(part.name, part.folder, self.facts, allowed, state, tell)
        self.spent = Spent(part.folder / "spent.json", write=state.is_main_process)
        (part.folder / PART).unlink(missing_ok=True)
        self.receipts = Receipts(part.folder / "receipts", to_disk=state.is_main_process)
        self.windows = make_windows(part, self.engine, self.receipts, state, tell)
        if part.handed_over and state.is_main_process:
            part.handed_over(tokenizer)
        self._start_model()
        self._make_trainer()

    def _start_model(self) -> None:
        part = self.part
        give_back_freed_memory()
        set_seed(self.recipe.seed)
        self.started, self.means = start_model(
            self.recipe, part.name, part.stage_index, part.tuning, part.context, part.layout.window,
            part.origin, self.tokenizer, part.folder, self.receipts, self.tell,
        )  # fmt: skip
        self.arithmetic = partial(torch.autocast, self.state.device.type, torch.bfloat16, enabled=self.means.bf16)
        rows = min(part.tuning.batch_size, 2)
        with self.arithmetic():
            apart = probe_isolation(self.started.model, len(self.tokenizer), part.context, rows, skips=part.skips)
        self.receipts.write("isolation", *apart)

    def _make_trainer(self) -> None:
        part, tuning, means, engine = self.part, self.part.tuning, self.means, self.engine
        checkpoints = part.folder / "checkpoints"
        fresh = part.carries_optimizer if not self.resume else None
        carried = whole(fresh, "carry.optimizer") if fresh else None
        train, validation = self.windows.train, self.windows.validation
        settings = arguments(
            tuning, checkpoints, part.layout.window, len(train), bool(len(validation)),
            means.bf16, self.recipe.seed, self.state, engine.readers, lambda said: self.tell(f"{part.name}: {said}"),
            self.recipe.train.report_to,
        )  # fmt: skip
        per_step = tuning.batch_size * tuning.gradient_accumulation * engine.readers
        self.tell(f"{part.name}: {settings.max_steps:,} steps of {per_step} windows")
        spanned = _spanned(part, engine.readers)
        if trains_nothing(tuning, settings.max_steps, bool(spanned and spanned.before)):
            self.tell(f"{part.name}: {NOTHING}")
        self.trainer = WindowTrainer(
            model=self.started.model,
            args=settings,
            levers=means.levers,
            tuning=tuning,
            window=part.layout.window,
            train_dataset=train,
            eval_dataset=validation if len(validation) else None,
            data_collator=WindowCollator(pad_id(self.tokenizer), engine.shared_length(part.layout.window)),
            processing_class=self.tokenizer,
            facts=self.facts,
            resume=self.resume,
            keep_checkpoints=tuning.keep_checkpoints,
            pose_context=part.context if part.skips else None,
            spanned=spanned,
            carried_optimizer=carried and carried / "optimizer.pt",
        )
        if self.state.is_main_process:
            saves = -(-settings.max_steps // int(settings.save_steps))
            needed = checkpoint_bytes(self.started.model, tuning, means.levers)
            check_room(checkpoints, needed, tuning.keep_checkpoints, saves)
        if self.windows.packed and engine.sequence > 1:
            self.trainer.when_ready = self._probe_shared  # Ulysses is in place in training only

    def _probe_shared(self) -> None:
        """The isolation probe of the model as Ulysses shares its rows; the first one saw whole rows."""
        rows = self.part.tuning.batch_size
        self.receipts.write(
            "isolation_shared",
            *probe_isolation(self.trainer.model_wrapped, len(self.tokenizer), self.part.context, rows, shared=True),
            mend="documents that share a window read one another under Ulysses; take another launch.config",
        )

    def train(self) -> None:
        """Measure, take every step that is left, and lay out what is handed over.

        Raises:
            Resumable: A signal or the time limit stopped it, with a checkpoint.
            BudgetSpent: The money did.
        """
        recipe, part, tuning, means = self.recipe, self.part, self.part.tuning, self.means
        device, trainer = self.state.device, self.trainer
        vote = StopVote(recipe.train.stop_after, self.spending)
        watchdog = Watchdog(recipe.train.stall_after, self.run, part.name, part.folder)
        figures, board = StepFigures(), Board(part.folder)
        progress = TrainingProgress(part.name, show=self.state.is_main_process)
        plan = self._foretold()
        live = Live(self.run.root, part.name, plan, self.spending, self.spent)
        peak_now = partial(peak_bytes, device)
        for callback in (vote, watchdog, figures):
            trainer.add_callback(callback)
        if tuning.plateau:
            trainer.add_callback(StopAtPlateau(tuning.plateau, self.tell))
        file = part.folder / "metrics.jsonl"
        trainer.add_callback(Metrics(file, progress, lambda: trainer.tokens_seen, live, board, peak_now))

        memory = (part.name, tuning, part.layout.window, means.levers, means.bf16, self.started.claimed, device)
        measured = self._measure()
        with self.arithmetic(), memory_errors(*memory):
            before = self._before(measured)
        peak_before = peak_rss_bytes()
        give_back_freed_memory()  # quantising a base leaves pieces of the whole one
        begin_peak_rss()
        figures.begin(peak_bytes(device))
        with progress, disk_errors(part.folder), memory_errors(*memory), shared_attention(self.engine) as shared:
            trainer.shared_attention = shared
            try:
                if self.resume is None or not _take_finished(trainer, self.resume.checkpoint, tuning):
                    trainer.train()
            finally:
                vote.release()
                watchdog.stop()
                board.close()
        self.spent.stop()
        self.spending.keep(at_once=True)
        figures.end(peak_bytes(device))
        step = trainer.state.global_step
        if vote.stopped and vote.spent:
            raise BudgetSpent(f"{part.name}: stopped after step {step}, with a checkpoint: {self.spending.sentence()}")
        if vote.stopped:
            raise Resumable(f"{part.name}: stopped by {vote.asked} after step {step}; a checkpoint is written")
        self.trained = Trained(
            trainer, self.started, means, self.windows, self.receipts, self.arithmetic, measured, before, plan,
            figures, self.spent, peak_before,
        )  # fmt: skip

    def _foretold(self) -> dict[str, Any]:
        """What the formulas say of this part, its levers and windows known."""
        part, means, model = self.part, self.means, self.started.model
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return foretold(
            self.recipe, part.tuning, self.started.claimed, numbers, part.layout.window, means.levers, means.bf16,
            self.windows.train, self.state.device, layout_here(),
        )  # fmt: skip

    def _measure(self) -> Callable[[Any], dict[str, Any]]:
        """What measures a model before and after: the validation windows, and the long text."""
        recipe, part = self.recipe, self.part
        most = recipe.eval.max_windows
        return partial(
            measure,
            validation=self.windows.validation,
            window=part.layout.window,
            most=most if part.stage_index >= 0 else None,  # SFT windows hold many short conversations, and are few
            text=long_text(recipe, self.tokenizer),
            contexts=[part.context, measured_context(recipe) if recipe.stages else part.context],
            windows_of_text=most,
            opening=opening_token(self.tokenizer),
            state=self.state,
        )

    def _before(self, measured: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The losses before the first step: measured, or those that a stopped process kept."""
        part, resume = self.part, self.resume
        file = part.folder / "before.json"
        if resume is None or "data" in resume.changed or not file.is_file():
            before = measured(self.started.model)
            if self.state.is_main_process:
                write_json(file, before)
        else:
            before = read_json(file)
        if resume:
            self.tell(f"{part.name}: going on after step {step_of(resume.checkpoint)}")
        self.tell(f"{part.name}: before training, {said(before)}")
        return before


def _spanned(part: TrainingPart, processes: int) -> SpannedSchedule | None:
    """Where this part stands in a schedule over several stages; their steps hang on their limits alone."""
    if not part.schedule_of:
        return None
    steps = [schedule(tuning, 1, window, processes)["steps"] for tuning, window in part.schedule_of]
    return SpannedSchedule(before=sum(steps[: part.schedule_place]), total=sum(steps))


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
