"""TRL's SFTTrainer, fed with packed windows, and the callbacks that log, stop and make checkpoints whole.

Books and dialogues arrive as the same kind of window (data/windows.py), so there is one trainer. TRL brings the loss
without whole logits; here are the collator that keeps documents apart by their positions alone, the guard against
non-finite numbers, the vote that stops all ranks at the same step, and the manifest that is written last.
"""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from trl import SFTTrainer

from shridhar_ft.checkpoint import rotate, write_manifest
from shridhar_ft.data.windows import IGNORED
from shridhar_ft.errors import NonFinite
from shridhar_ft.progress import TrainingProgress
from shridhar_ft.runfolder import write_json
from shridhar_ft.scoring import positions


@dataclass(frozen=True)
class WindowCollator:
    """Windows → a batch; shorter ones are filled up with a piece of padding that no loss falls on."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": np.full((len(rows), longest), self.pad_token_id, dtype=np.int64),
            "labels": np.full((len(rows), longest), IGNORED, dtype=np.int64),
            "position_ids": np.zeros((len(rows), longest), dtype=np.int64),
        }  # each (B, T)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][index, :length] = row["input_ids"]
            batch["labels"][index, :length] = row["labels"]
            # No attention mask: an all-ones one would break the isolation that the positions give.
            pieces = [*row["lengths"], longest - length] if length < longest else row["lengths"]
            batch["position_ids"][index] = positions(pieces)
        return {key: torch.from_numpy(value) for key, value in batch.items()}


class WindowTrainer(SFTTrainer):
    """SFTTrainer on windows: refuses to go on from a non-finite number, and leaves whole checkpoints."""

    def __init__(self, *, manifest_facts: dict[str, Any], keep_checkpoints: int, **kwargs: Any) -> None:  # noqa: ANN401
        """
        Args:
            manifest_facts: What a resume compares, put into every manifest.
            keep_checkpoints: Whole checkpoints that stay beside the best one.
            **kwargs: SFTTrainer's own.
        """
        super().__init__(**kwargs)
        self.manifest_facts, self.keep_checkpoints = manifest_facts, keep_checkpoints
        self.tokens_seen = 0  # by this process since it started
        self.last_batch: torch.Tensor | None = None
        for default in (PrinterCallback, ProgressCallback):
            self.remove_callback(default)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        self.tokens_seen += inputs["input_ids"].numel()
        self.last_batch = inputs["input_ids"]
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise self._non_finite("loss", float(loss))
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:  # noqa: ANN401
        # transformers calls this between the backward passes and the update: the last moment to refuse.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not np.isfinite(float(norm)):
            raise self._non_finite("gradient norm", float(norm))
        return norm

    def _non_finite(self, what: str, value: float) -> NonFinite:
        step = self.state.global_step + 1
        kept = Path(self.args.output_dir or ".").parent / f"non_finite_batch_rank{self.args.process_index}.json"
        assert self.last_batch is not None, "a gradient without a batch"
        write_json(kept, {"step": step, "what": what, "value": str(value), "input_ids": self.last_batch.tolist()})
        return NonFinite(
            f"the {what} became {value} at step {step}, before the update: the weights are as they were. The batch is "
            f"in {kept}; lower the learning rate, or look at that text, and run the same command again"
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # noqa: ANN401
        Trainer._save_checkpoint(self, model, trial)  # TRL's own would add a model card of its making
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            write_manifest(folder / f"checkpoint-{self.state.global_step}", self.manifest_facts)
            rotate(folder, self.keep_checkpoints, self.state.best_model_checkpoint)


# ---------------------------------------------------------------------------------------------- callbacks


class StopVote(TrainerCallback):
    """On SIGTERM or SIGINT all ranks save at the next step boundary and stop; a second signal stops at once."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        for number in (signal.SIGTERM, signal.SIGINT):
            self.previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        for asked, handler in self.previous.items():
            signal.signal(asked, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        if self._any_rank_asked(args):
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def _any_rank_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.asked is not None
        # A rank that stopped alone would leave the others waiting in the next all-reduce for ever.
        vote = torch.tensor(float(self.asked is not None), device=args.device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        return bool(vote.item())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class Metrics(TrainerCallback):
    """Writes metrics.jsonl, one line a log, and shows the figures; a resume drops lines after its step."""

    def __init__(self, file: Path, progress: TrainingProgress, tokens_seen: Callable[[], int]) -> None:
        """
        Args:
            file: The part's metrics.jsonl.
            progress: Where figures are shown.
            tokens_seen: Tokens that this process has read since it started.
        """
        self.file, self.progress, self.tokens_seen = file, progress, tokens_seen
        self.last_time, self.last_tokens = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.progress.begin(state.global_step, state.max_steps)
        self.last_time, self.last_tokens = time.monotonic(), self.tokens_seen()
        if state.is_world_process_zero:
            lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
            kept = [line for line in lines if state.global_step and 0 < _step_of(line) <= state.global_step]
            self.file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.progress.step(state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        self.last_time, self.last_tokens = time.monotonic(), self.tokens_seen()  # its time is not training's

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        logs = dict(logs or {})
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        kept: dict[str, float] = {
            key: logs[key] for key in ("loss", "grad_norm", "learning_rate", "eval_loss") if key in logs
        }
        now, tokens = time.monotonic(), self.tokens_seen()
        if "loss" in kept and now > self.last_time:
            kept["tokens_per_second"] = round((tokens - self.last_tokens) * args.world_size / (now - self.last_time), 1)
            self.last_time, self.last_tokens = now, tokens
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, "epoch": round(state.epoch or 0, 4), **kept}) + "\n")
        self.progress.figures(state.global_step, kept)


def _step_of(line: str) -> int:
    """Step of a line of metrics.jsonl; 0 for one that a full disk cut short."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return 0
