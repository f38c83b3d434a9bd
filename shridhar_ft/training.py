"""The one assembly that pretraining stages and SFT share: windows, model, receipts, trainer, hand-over, resume.

    train_part   ledger → model with its RoPE → receipts (rope, isolation, handover) → loss before → trainer
                 → weights written whole → loss after → part.json

What differs between the two entries is in their `TrainingPart`: which documents, which window, which weights.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import TrainerState
from trl import SFTConfig

from shridhar_ft.adapters import Weights, adapter_hash, attach, load_weights
from shridhar_ft.checkpoint import newest_whole, step_of
from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.windows import Encoded, Overlong, load_windows, save_windows
from shridhar_ft.documents import long_text
from shridhar_ft.errors import Resumable, UserError
from shridhar_ft.model.build import attention_choice, build_model, safetensors_hash, stage_config, weights_hash
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.rope import check_rope
from shridhar_ft.preparation import measured_context
from shridhar_ft.progress import TrainingProgress, quiet, say
from shridhar_ft.receipts import write_receipt
from shridhar_ft.runfolder import (
    PART,
    Run,
    begin_peak_rss,
    disk_errors,
    fingerprint,
    finish_part,
    is_current,
    read_json,
    replace_folder,
    sync_tree,
    write_json,
)
from shridhar_ft.scoring import loss_on_windows, text_windows
from shridhar_ft.sufficiency import schedule
from shridhar_ft.tokenizer import pad_id
from shridhar_ft.trainer import Metrics, StopVote, WindowCollator, WindowTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor"}
NOT_IN_THE_WEIGHTS = {"log_every", "evaluate_every", "save_every", "keep_checkpoints"}  # settings that change no number


@dataclass(frozen=True)
class TrainingPart:
    """One stage, or SFT."""

    name: str
    folder: Path
    tuning: Tuning
    context: int
    """Window length in tokens."""
    stage_index: int
    """Whose RoPE it has; −1 is the last stage's."""
    documents: Callable[[SplitName], Iterator[Encoded]]
    """Encoded documents of a split."""
    why_masked: str
    """Reason in the ledger for tokens without loss."""
    start: Weights | None
    """Weights that it begins with; None: random ones from the config."""
    continues_adapter: bool
    """Whether the last adapter of `start` is trained on, instead of being merged."""
    came_from: dict[str, Any]
    """part.json of the part before; {} for the first."""
    made_from: str
    """Fingerprint of everything that its weights hang on."""
    overlong: Overlong = "split"
    """What becomes of a document that is longer than the window."""
    handed_over: Callable[["PreTrainedTokenizerBase"], None] | None = None
    """Further receipts of this kind of part, written before training."""


def train_part(recipe: Recipe, run: Run, part: TrainingPart, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Train one part to its end, or go on where it stopped; returns at once when it is current.

    Raises:
        CheckFailed: A receipt does not hold.
        Resumable: A signal came; a checkpoint is written.
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
    spent = Spent(part.folder / "spent.json", write=state.is_main_process)
    (part.folder / PART).unlink(missing_ok=True)
    tuning = part.tuning

    # Windows and their ledger
    with state.main_process_first():
        for split in SPLITS[:2]:
            folder = part.folder / "windows" / split
            save_windows(folder, part.documents(split), part.context, part.why_masked, part.made_from, part.overlong)
    train_windows, ledger = load_windows(part.folder / "windows" / "train")
    validation_windows, _ = load_windows(part.folder / "windows" / "validation")
    tell(
        f"{part.name}: {ledger['in']:,} tokens in {ledger['windows']:,} windows of {part.context:,}, "
        f"{ledger['filled']:.1%} full: "
        f"{ledger['trained']:,} trained, {ledger['masked']:,} masked, {ledger['truncated'] + ledger['dropped']:,} lost"
    )
    receipts = Receipts(part.folder / "receipts", to_disk=state.is_main_process)
    lost = {"in": "trained + masked + truncated + dropped"}
    balanced = ledger["in"] == sum(ledger[key] for key in ("trained", "masked", "truncated", "dropped"))
    receipts.write("ledger", lost, {key: ledger[key] for key in ledger if key != "fingerprint"}, balanced)
    if part.handed_over and state.is_main_process:
        part.handed_over(tokenizer)

    # Model
    set_seed(recipe.seed)
    model, base_hash = _start_model(recipe, run, part, tokenizer, receipts, state.device, tell)
    arithmetic = partial(torch.autocast, state.device.type, torch.bfloat16, enabled=precision(tuning, state.device)[0])
    with arithmetic():
        receipts.write("isolation", *probe_isolation(model, len(tokenizer), part.context, min(tuning.batch_size, 2)))

    # Trainer
    checkpoints = part.folder / "checkpoints"
    with state.main_process_first():
        resume = newest_whole(checkpoints, part.made_from, state.num_processes, tell)
    measured = part.folder / "before.json"
    text = long_text(recipe, tokenizer)
    if resume is None or not measured.is_file():
        with arithmetic():
            before = _measure(recipe, part, model, validation_windows, text)
        if state.is_main_process:
            write_json(measured, before)
    else:
        before = read_json(measured)
        tell(f"{part.name}: going on after step {step_of(resume)}")
    tell(f"{part.name}: before training, {_figures(before)}")
    progress = TrainingProgress(part.name, show=state.is_main_process)
    vote = StopVote()
    trainer = WindowTrainer(
        model=model,
        args=_arguments(recipe, part, len(train_windows), bool(len(validation_windows)), state, tell),
        train_dataset=train_windows,
        eval_dataset=validation_windows if len(validation_windows) else None,
        data_collator=WindowCollator(pad_id(tokenizer)),
        processing_class=tokenizer,
        manifest_facts={"fingerprint": part.made_from, "world_size": state.num_processes},
        keep_checkpoints=tuning.keep_checkpoints,
    )
    trainer.add_callback(vote)
    trainer.add_callback(Metrics(part.folder / "metrics.jsonl", progress, lambda: trainer.tokens_seen))
    with progress, disk_errors(part.folder):
        if resume is None or not _take_finished(trainer, resume, tuning):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    spent.stop()
    if vote.stopped:
        raise Resumable(
            f"{part.name}: stopped by {vote.asked} after step {trainer.state.global_step}; a checkpoint is written"
        )

    # Hand-over: the weights, whole, then what they are worth, then part.json
    kind = "adapter" if tuning.method == "lora" else "model"
    written = part.folder / f".{kind}.saving"
    if state.is_main_process:
        shutil.rmtree(written, ignore_errors=True)  # a killed run's leavings
    with disk_errors(part.folder):
        trainer.save_model(str(written))
    trainer.accelerator.wait_for_everyone()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    with arithmetic():
        after = _measure(recipe, part, trained, validation_windows, text)
    tell(f"{part.name}: after training, {_figures(after)}")
    if not state.is_main_process:
        state.wait_for_everyone()
        return
    (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing reads it
    sync_tree(written)
    replace_folder(written, part.folder / kind)
    finish_part(
        part.folder,
        part.made_from,
        spent.seconds,
        weights=_written_weights(run, part, kind),
        hash=adapter_hash(trained) if kind == "adapter" else weights_hash(trained),
        base_hash=base_hash,
        method=tuning.method,
        context=part.context,
        steps=trainer.state.global_step,
        epochs=round(trainer.state.epoch or 0, 3),
        windows=len(train_windows),
        tokens_per_epoch=ledger["in"],
        loss_before=before,
        loss_after=after,
        measured_with=_measured_with(recipe),
    )
    state.wait_for_everyone()


# -------------------------------------------------------------------------------------------------- pieces


def _check_handover(
    recipe: Recipe, part: TrainingPart, model: torch.nn.Module, base_hash: str, receipts: "Receipts"
) -> None:
    """The receipt that a part begins with the very weights that the one before ended with."""
    came, start = part.came_from, part.start
    if part.continues_adapter:
        measured = {"hash": adapter_hash(model), "base_hash": base_hash}
    elif start is not None and start.adapters:  # merged already: what was merged is in the file
        measured = {"hash": safetensors_hash(Path(start.adapters[-1])), "base_hash": base_hash}
    else:
        measured = {"hash": base_hash}
    claimed = {key: came.get(key, measured[key]) for key in measured}
    first = {"seed": recipe.seed} if start is None else {"base": start.base}
    receipts.write(
        "handover",
        {"from": came.get("name", "the first weights"), **({} if came else first), **claimed},
        measured,
        measured == claimed,
        mend="the weights are not those that the part before ended with: were its files or the base's changed? Remove "
        "its folder and run the same command again",
    )


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
    if reached.global_step < reached.max_steps:
        return False
    best = Path(reached.best_model_checkpoint or checkpoint).name if tuning.keep == "best" else checkpoint.name
    trainer._load_from_checkpoint(str(checkpoint.with_name(best)))
    trainer.state = reached
    return True


def _measured_with(recipe: Recipe) -> str:
    """Fingerprint of what the losses were measured with; it changes no weight."""
    return fingerprint(recipe.eval.model_dump(mode="json"), measured_context(recipe))


@dataclass(frozen=True)
class Receipts:
    """Writes a part's receipts, from the first rank only: what it measures is the same on all of them."""

    folder: Path
    to_disk: bool

    def write(self, name: str, claimed: dict[str, Any], measured: dict[str, Any], ok: bool, mend: str = "") -> None:
        if self.to_disk:
            write_receipt(self.folder / f"{name}.json", claimed, measured, ok, mend)


def _start_model(
    recipe: Recipe,
    run: Run,
    part: TrainingPart,
    tokenizer: "PreTrainedTokenizerBase",
    receipts: Receipts,
    device: torch.device,
    tell: Callable[[str], None],
) -> tuple[torch.nn.Module, str]:
    """The model that a part begins with, its RoPE and hand-over receipts written; and the hash of its base."""
    attention, why = attention_choice(recipe.model)
    tell(f"{part.name}: {why}")
    if attention == "flash_attention_2" and part.tuning.batch_size > 1:
        raise UserError(
            f"batch_size: FlashAttention keeps packed documents apart in one row only, and {part.name} has "
            f"{part.tuning.batch_size}; set it to 1 and multiply gradient_accumulation, or set model.attention=sdpa"
        )
    config, wanted = stage_config(recipe, part.stage_index, len(tokenizer))
    claimed_config = type(config)(**config.to_dict())
    if part.start is None:
        model: Any = build_model(config, recipe.seed, attention)
        grown, base_hash = False, weights_hash(model)
    else:
        model, grown, base_hash = load_weights(
            part.start, config, tokenizer, attention, torch.float32, keep_last=part.continues_adapter
        )
    model = model.to(device)
    base = model.get_base_model() if part.continues_adapter else model
    for holder in (base.config, base.generation_config):  # the Trainer would align them itself, with a warning
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(holder, key, getattr(tokenizer, key))
    receipts.write(
        "rope",
        *check_rope(base, claimed_config, part.context),
        mend="the live RoPE is not the recipe's: load the model with the stage's config, and change nothing after",
    )
    tell(f"{part.name}: RoPE {wanted.rope.type} at {part.context:,} tokens, checked in the live module")
    _check_handover(recipe, part, model, base_hash, receipts)
    if part.tuning.method == "lora" and not part.continues_adapter:
        model = attach(model, part.tuning, grown)
    if "checkpointing" in part.tuning.memory:
        model.config.use_cache = False
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    tell(
        f"{part.name}: {whole / 1e6:,.1f} million parameters, "
        f"{trained / 1e6:,.1f} million trained ({part.tuning.method})"
    )
    return model, base_hash


def _arguments(
    recipe: Recipe, part: TrainingPart, windows: int, validates: bool, state: PartialState, tell: Callable[[str], None]
) -> SFTConfig:
    """The recipe's training settings as TRL's, nothing left to a default that could cut or drop."""
    tuning = part.tuning
    at_once = tuning.batch_size * state.num_processes
    per_step = at_once * tuning.gradient_accumulation
    if state.num_processes > 1 and windows % at_once:
        tell(f"{part.name}: {windows} windows do not share out evenly over {at_once} places; some are read twice")
    steps = schedule(tuning, windows, part.context, state.num_processes)["steps"]
    evaluate_every = tuning.evaluate_every or max(1, steps // 10)
    save_every = evaluate_every if tuning.keep == "best" else tuning.save_every or evaluate_every
    bf16, why = precision(tuning, state.device)
    tell(f"{part.name}: {why}; {steps:,} steps of {per_step} windows")
    return SFTConfig(
        output_dir=str(part.folder / "checkpoints"),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        per_device_train_batch_size=tuning.batch_size,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=tuning.gradient_accumulation,
        max_steps=steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type=tuning.schedule if tuning.schedule != "constant" else "constant_with_warmup",
        warmup_steps=tuning.warmup,
        optim=OPTIMIZERS[tuning.optimizer],
        adam_beta1=tuning.betas[0],
        adam_beta2=tuning.betas[1],
        weight_decay=tuning.weight_decay,
        max_grad_norm=tuning.max_grad_norm,
        bf16=bf16,
        fp16=False,
        use_cpu=state.device.type == "cpu",
        gradient_checkpointing="checkpointing" in tuning.memory,
        gradient_checkpointing_kwargs={"use_reentrant": False} if "checkpointing" in tuning.memory else None,
        logging_steps=tuning.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=evaluate_every,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=save_every,
        load_best_model_at_end=tuning.keep == "best" and validates,
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False if validates else None,
        seed=recipe.seed,
        report_to=[],
        disable_tqdm=True,
    )


def precision(tuning: Tuning, device: torch.device) -> tuple[bool, str]:
    """Whether matrix products run in bf16 under autocast, and a sentence on why."""
    if tuning.precision == "bf16":
        return True, "precision bf16 (the recipe), weights and optimizer fp32"
    if tuning.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return True, "precision bf16 (the GPU has it), weights and optimizer fp32"
    reason = "the recipe" if tuning.precision == "fp32" else "no CUDA device with bf16"
    return False, f"precision fp32 ({reason})"


def _measure(
    recipe: Recipe,
    part: TrainingPart,
    model: torch.nn.Module,
    validation: "Dataset",
    text: np.ndarray,
) -> dict[str, float | None]:
    """Mean losses, in nats a token: on the validation split at the part's window, on the long text at both lengths."""
    most = recipe.eval.max_windows
    found: dict[str, float | None] = {"validation": None}
    if len(validation):
        # SFT windows hold many short conversations: all are measured, they are few.
        found["validation"] = loss_on_windows(model, validation, most if part.stage_index >= 0 else None).mean
    if len(text):
        for context in dict.fromkeys((part.context, measured_context(recipe) if recipe.stages else part.context)):
            if context <= len(text):
                found[f"long_text_{context}"] = loss_on_windows(model, text_windows(text, context), most).mean
    return found


def _figures(losses: dict[str, float | None]) -> str:
    return ", ".join(f"{key} loss {value:.4f}" for key, value in losses.items() if value is not None)


def _written_weights(run: Run, part: TrainingPart, kind: str) -> dict[str, Any]:
    """Where the weights that this part ends with lie, for part.json."""
    if kind == "model":
        return Weights(str(part.folder / "model")).as_dict(run.root)
    assert part.start is not None, "an adapter lies on stored weights"
    kept = part.start.adapters[:-1] if part.continues_adapter else part.start.adapters
    return Weights(part.start.base, part.start.revision, (*kept, str(part.folder / "adapter"))).as_dict(run.root)
