"""The recipe's training settings as TRL's, nothing left to a default that could cut, drop or shorten."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trl import SFTConfig

from shridhar_ft.config_training import Tuning
from shridhar_ft.plan.steps import evaluated_every, saved_every, schedule

if TYPE_CHECKING:
    from accelerate import PartialState


def arguments(
    tuning: Tuning,
    folder: Path,
    window: int,
    windows: int,
    validates: bool,
    bf16: bool,
    seed: int,
    state: "PartialState",
    readers: int,
    tell: Callable[[str], None],
    report_to: Sequence[str] = (),
) -> SFTConfig:
    """The settings of one part.

    Args:
        tuning: The part's.
        folder: Where checkpoints go.
        window: Tokens of a window.
        windows: Train windows.
        validates: Whether there are validation windows.
        bf16: Whether matrix products run in bf16 under autocast.
        seed: The recipe's.
        state: The device.
        readers: Processes that read different windows in one forward pass (all of them, but for Ulysses).
        tell: Told what does not divide evenly.
        report_to: Services that figures are sent to.
    """
    at_once = tuning.batch_size * readers
    if readers > 1 and windows % at_once:
        tell(f"{windows} windows do not share out evenly over {at_once} places; some are read twice")
    steps = schedule(tuning, windows, window, readers)["steps"]
    return SFTConfig(
        output_dir=str(folder),
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
        adam_beta1=tuning.betas[0],
        adam_beta2=tuning.betas[1],
        weight_decay=tuning.weight_decay,
        max_grad_norm=tuning.max_grad_norm,
        bf16=bf16,
        fp16=False,
        use_cpu=state.device.type == "cpu",
        gradient_checkpointing=False,  # a lever of model/memory.py, on the model before the trainer sees it
        logging_steps=tuning.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=evaluated_every(tuning, steps),
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=saved_every(tuning, steps),
        load_best_model_at_end=tuning.keep == "best" and validates,
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False if validates else None,
        seed=seed,
        report_to=list(report_to),
        disable_tqdm=True,
    )
