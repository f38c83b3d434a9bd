"""The one assembly that pretraining stages and SFT share: windows, model, receipts, trainer, hand-over, resume.

    train_part   ledger → model with its RoPE → receipts (rope, isolation, handover) → loss before → trainer
                 → weights written whole → loss after → part.json

What differs between the two entries is in their `TrainingPart`: which documents, which window, which weights.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from trl import SFTConfig

from shridhar_ft.adapters import Weights, adapter_hash, attach, load_weights
from shridhar_ft.checkpoint import newest_whole, step_of
from shridhar_ft.config import Recipe, Tuning
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.windows import Encoded, load_windows, save_windows
from shridhar_ft.documents import long_text
from shridhar_ft.errors import Resumable
from shridhar_ft.model.build import attention_choice, build_model, safetensors_hash, stage_config, weights_hash
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.rope import check_rope
from shridhar_ft.preparation import measured_context, part_of
from shridhar_ft.progress import TrainingProgress, quiet, say
from shridhar_ft.receipts import write_receipt
from shridhar_ft.runfolder import (
    PART,
    Run,
    begin_peak_rss,
    disk_errors,
    finish_part,
    is_current,
    read_json,
    replace_folder,
    sync_tree,
    write_json,
)
from shridhar_ft.scoring import loss_on_windows, text_windows
from shridhar_ft.tokenizer import pad_id
from shridhar_ft.trainer import Metrics, StopVote, WindowCollator, WindowTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
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
        tell(f"{part.name}: up to date")
        return
    started = time.monotonic()
    begin_peak_rss()
    (part.folder / PART).unlink(missing_ok=True)
    tuning = part.tuning

    # Windows and their ledger
    with state.main_process_first():
        for split in SPLITS[:2]:
            folder = part.folder / "windows" / split
            save_windows(folder, part.documents(split), part.context, part.why_masked, part.made_from)
    train_windows, ledger = load_windows(part.folder / "windows" / "train")
    validation_windows, _ = load_windows(part.folder / "windows" / "validation")
    tell(
        f"{part.name}: {ledger['in']:,} tokens in {ledger['windows']:,} windows of {part.context:,}: "
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
    model, base_hash = _start_model(recipe, run, part, tokenizer, receipts, tell)
    receipts.write("isolation", *probe_isolation(model, len(tokenizer), part.context))

    # Trainer
    checkpoints = part.folder / "checkpoints"
    with state.main_process_first():
        resume = newest_whole(checkpoints, part.made_from, tell)
    measured = part.folder / "before.json"
    if resume is None or not measured.is_file():
        before = _measure(recipe, part, model, validation_windows, tokenizer)
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
        args=_arguments(recipe, part, len(train_windows), bool(len(validation_windows)), state.num_processes, tell),
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
        result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
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
    after = _measure(recipe, part, trainer.accelerator.unwrap_model(trainer.model), validation_windows, tokenizer)
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
        time.monotonic() - started,
        weights=_written_weights(run, part, kind),
        hash=safetensors_hash(part.folder / kind),
        base_hash=base_hash,
        method=tuning.method,
        context=part.context,
        steps=trainer.state.global_step,
        epochs=round(trainer.state.epoch or 0, 3),
        windows=len(train_windows),
        tokens_per_epoch=ledger["in"],
        loss_before=before,
        loss_after=after,
        train_loss=result.training_loss,
    )
    state.wait_for_everyone()


# -------------------------------------------------------------------------------------------------- pieces


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
    tell: Callable[[str], None],
) -> tuple[torch.nn.Module, str]:
    """The model that a part begins with, its RoPE and hand-over receipts written; and the hash of its base."""
    attention, why = attention_choice(recipe.model)
    tell(f"{part.name}: {why}")
    config, wanted = stage_config(recipe, part.stage_index, len(tokenizer))
    claimed_config = type(config)(**config.to_dict())
    if part.start is None:
        model: Any = build_model(config, recipe.seed, attention)
        grown = False
    else:
        model, grown = load_weights(
            part.start, config, tokenizer, attention, torch.float32, keep_last=part.continues_adapter
        )
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
    claimed: dict[str, Any] = {
        "from": part.came_from.get("name", "the first weights"),
        "hash": part.came_from.get("hash"),
    }
    if part.continues_adapter:
        found, base_hash = adapter_hash(model), part.came_from["base_hash"]
    elif part.start is not None and part.start.adapters:
        found, base_hash = safetensors_hash(Path(part.start.adapters[-1])), weights_hash(model)
    else:
        found = base_hash = weights_hash(model)
    receipts.write(
        "handover",
        claimed | ({} if part.came_from else {"hash": found, "seed": recipe.seed if part.start is None else None}),
        {"hash": found, "base_hash": base_hash},
        not part.came_from or found == part.came_from["hash"],
        mend="the weights are not those that the part before ended with: were its files changed? Remove its folder "
        "and run the same command again",
    )
    if part.tuning.method == "lora" and not part.continues_adapter:
        model = attach(model, part.tuning, grown)
    if part.tuning.gradient_checkpointing:
        model.config.use_cache = False
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    tell(
        f"{part.name}: {whole / 1e6:,.1f} million parameters, "
        f"{trained / 1e6:,.1f} million trained ({part.tuning.method})"
    )
    return model, base_hash


def _arguments(
    recipe: Recipe, part: TrainingPart, windows: int, validates: bool, processes: int, tell: Callable[[str], None]
) -> SFTConfig:
    """The recipe's training settings as TRL's, nothing left to a default that could cut or drop."""
    tuning = part.tuning
    per_step = tuning.batch_size * tuning.gradient_accumulation * processes
    steps = tuning.max_steps or math.ceil(math.ceil(windows / per_step) * tuning.max_epochs)
    evaluate_every = tuning.evaluate_every or max(1, steps // 10)
    save_every = evaluate_every if tuning.keep == "best" else tuning.save_every or evaluate_every
    bf16, why = precision(tuning)
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
        max_steps=tuning.max_steps or -1,
        num_train_epochs=tuning.max_epochs,
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
        use_cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
        gradient_checkpointing=tuning.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if tuning.gradient_checkpointing else None,
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


def precision(tuning: Tuning) -> tuple[bool, str]:
    """Whether matrix products run in bf16 under autocast, and a sentence on why."""
    if tuning.precision == "bf16":
        return True, "precision bf16 (the recipe), weights and optimizer fp32"
    if tuning.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return True, "precision bf16 (the GPU has it), weights and optimizer fp32"
    reason = "the recipe" if tuning.precision == "fp32" else "no CUDA device with bf16"
    return False, f"precision fp32 ({reason})"


def _measure(
    recipe: Recipe,
    part: TrainingPart,
    model: torch.nn.Module,
    validation: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, float | None]:
    """Mean losses, in nats a token: on the validation split at the part's window, on the long text at both lengths."""
    most = recipe.eval.max_windows
    found: dict[str, float | None] = {"validation": None}
    if len(validation):
        # SFT windows hold many short conversations: all are measured, they are few.
        found["validation"] = loss_on_windows(model, validation, most if part.stage_index >= 0 else None).mean
    ids = long_text(recipe, tokenizer)
    if len(ids):
        for context in dict.fromkeys((part.context, measured_context(recipe) if recipe.stages else part.context)):
            if context <= len(ids):
                found[f"long_text_{context}"] = loss_on_windows(model, text_windows(ids, context), most).mean
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


def named(part: str, folder: Path) -> dict[str, Any]:
    """part.json of a finished part with its name, for the next one's hand-over.

    Raises:
        AssertionError: It is not finished; the callers train it first.
    """
    finished = part_of(folder)
    assert finished is not None, f"{folder} is not finished"
    return {"name": part, **finished}
