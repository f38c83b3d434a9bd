"""The trainer's guards: no update from a non-finite number, no checkpoint that is half, a resume that is the same.

Beside transformers' Trainer: a vote of all ranks before each update; checkpoints that are checked, synced and made
whole by a manifest that is written last; and, where a setting was allowed to change, the new value put into the state
that a checkpoint restores.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTTrainer

from shridhar_ft.checkpoint import rotate, write_manifest
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import DiskFailed, NonFinite
from shridhar_ft.plan.levers import Levers
from shridhar_ft.resume import Facts, Resume
from shridhar_ft.room import checkpoint_bytes, need_room
from shridhar_ft.runfolder import disk_errors, sync_tree, write_json
from shridhar_ft.votes import any_rank

ROWS_READ = "rows_read.npy"  # which train windows were read up to a checkpoint, bool, (windows,)


class GuardedTrainer(SFTTrainer):
    """SFTTrainer that refuses to go on from a non-finite number, and leaves whole checkpoints."""

    optimizer: Any  # the Trainer's own, which its annotations leave open
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        *,
        facts: Facts,
        keep_checkpoints: int,
        tuning: Tuning,
        levers: Levers,
        resume: Resume | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """
        Args:
            facts: What a resume compares, put into every manifest.
            keep_checkpoints: Whole checkpoints that stay beside the best one.
            tuning: Learning rate, betas and kind of the optimizer.
            levers: Those that choose an optimizer of their own.
            resume: The verified checkpoint that `train` goes on from.
            **kwargs: SFTTrainer's own.
        """
        super().__init__(**kwargs)
        self.facts, self.keep_checkpoints, self.tuning, self.levers = facts, keep_checkpoints, tuning, levers
        self.resume = resume
        self.rows_read = np.zeros(len(self.train_dataset), dtype=bool)  # by this process; all ranks' are saved
        self.batches: list[tuple[list[int], torch.Tensor]] = []  # rows and tokens read since the last update
        self.bad: tuple[str, float] | None = None
        self.verified: set[str] = {resume.checkpoint.name} if resume else set()

    # ---------------------------------------------------------------------------------------- non-finite numbers

    def note_batch(self, rows: list[int], tokens: torch.Tensor) -> None:
        """Remember what the next update is made from: rows of the train windows, their tokens (B, T)."""
        self.rows_read[rows] = True
        self.batches.append((rows, tokens))

    def checked_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a forward pass in training; one that is not finite is voted on before the update.

        DeepSpeed updates inside its backward pass, so there the vote is at once.
        """
        if not torch.isfinite(loss) and self.bad is None:
            self.bad = ("loss", loss.item())
        if self.is_deepspeed_enabled:
            self._vote_on_update()
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:  # noqa: ANN401
        # transformers calls this between the backward passes and the update: the last moment to refuse.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not np.isfinite(float(norm)) and self.bad is None:
            self.bad = ("gradient norm", float(norm))
        self._vote_on_update()
        self.batches.clear()
        return norm

    def _vote_on_update(self) -> None:
        """Stop on all ranks where one has met a non-finite number.

        Raises:
            NonFinite: One has; what this rank read is kept in a file.
        """
        if not any_rank(self.bad is not None, self.args):
            return
        step = self.state.global_step + 1
        kept = Path(self.args.output_dir or ".").parent / f"non_finite_batch_rank{self.args.process_index}.json"
        what, value = self.bad or ("loss", float("nan"))
        where = "" if self.bad else " on another process"
        write_json(
            kept,
            {
                "step": step,
                "what": what + where,
                "value": str(value) if self.bad else None,
                "windows": [row for rows, _ in self.batches for row in rows],
                "input_ids": [tokens.tolist() for _, tokens in self.batches],
            },
        )
        # DeepSpeed's update is in its backward pass, before the norm is known here; it leaves one out by itself.
        left_out = bool(getattr(getattr(self.model_wrapped, "optimizer", None), "overflow", False))
        updated = self.is_deepspeed_enabled and what == "gradient norm" and not left_out
        raise NonFinite(
            f"the {what} became {value if self.bad else 'non-finite'}{where} at step {step}, "
            + (
                "inside DeepSpeed's update: the last checkpoint stands"
                if updated
                else "before the update: the weights are as they were"
            )
            + f". The batch is in {kept}; lower the learning rate, or look at that text, and run the same command again"
        )

    def _refuse_non_finite_weights(self, model: torch.nn.Module) -> None:
        """An update from finite gradients can overflow too; the next loss would tell, after the save."""
        held = (getattr(p, "ds_tensor", p) for p in model.parameters() if p.requires_grad)  # ZeRO-3 keeps a shard
        if any_rank(not all(bool(torch.isfinite(shard).all()) for shard in held), self.args):
            raise NonFinite(
                f"the update of step {self.state.global_step} made a weight NaN or infinite; no checkpoint is made of "
                "it, and the last one stands: lower the learning rate, and run the same command again"
            )

    # --------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # noqa: ANN401
        self._refuse_non_finite_weights(model)
        folder = Path(self.args.output_dir or ".")
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        needed = checkpoint_bytes(self.accelerator.unwrap_model(self.model), self.tuning, self.levers)
        try:
            if self.is_world_process_zero():
                need_room(folder, needed, "the files of a checkpoint")
            with disk_errors(checkpoint):
                Trainer._save_checkpoint(self, model, trial)  # TRL's own would add a model card of its making
                self._make_whole(checkpoint)
        except DiskFailed as error:
            if self.is_world_process_zero():
                shutil.rmtree(checkpoint, ignore_errors=True)  # kept, it would fill the disk for the status file too
            raise DiskFailed(
                f"{error} (a checkpoint takes about {needed:,} bytes; those before it stand, and what was written of "
                "this one is removed)"
            ) from error
        if self.is_world_process_zero():
            self.verified.add(checkpoint.name)
            rotate(folder, self.keep_checkpoints, self.state.best_model_checkpoint, self.verified)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights whole, each once.

        Under ZeRO-1 and 2 every process holds all weights. accelerate would clone them all into every process's memory
        nevertheless: frozen ones too, 16 GB a process for an adapter on 8B, and tied ones twice, so that the head would
        be written beside the embeddings that it is.
        """
        if self.is_deepspeed_enabled and not is_deepspeed_zero3_enabled():
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _make_whole(self, checkpoint: Path) -> None:
        """All ranks have written; their files go to the disk, and only then the manifest."""
        read = self.accelerator.reduce(torch.from_numpy(self.rows_read).int().to(self.args.device), reduction="sum")
        if self.is_world_process_zero():
            np.save(checkpoint / ROWS_READ, read.cpu().numpy() > 0)
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():  # a machine can push to the disk only what it wrote itself
            sync_tree(checkpoint)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            write_manifest(checkpoint, self.facts.as_dict())

    # --------------------------------------------------------------------------------------------------- resume

    def train(self, **kwargs: Any) -> Any:  # noqa: ANN401
        """Train, from `resume` where there is one."""
        if self.resume is None:
            return super().train(**kwargs)
        read = np.load(self.resume.checkpoint / ROWS_READ)
        if "data" not in self.resume.changed:  # otherwise these are other windows
            self.rows_read = read
        return super().train(resume_from_checkpoint=str(self.resume.checkpoint), **kwargs)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:  # noqa: ANN401
        found = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)  # transformers goes on with the checkpoint's save_every
        return found

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        own = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.resume is None or not (self.resume.changed or self.resume.lacking):
            return
        # The checkpoint brought its own learning rate, betas and decay along, and the place in the schedule.
        inner = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        inner.last_epoch = self.state.global_step
        inner.base_lrs = [group["initial_lr"] for group in own]
        rates = [base * shape(inner.last_epoch) for base, shape in zip(inner.base_lrs, inner.lr_lambdas, strict=True)]
        for group, fresh, rate in zip(self.optimizer.param_groups, own, rates, strict=True):
            group.update({**fresh, "lr": rate})
        inner._last_lr = rates
