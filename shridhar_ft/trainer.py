"""TRL's SFTTrainer, fed with packed windows.

Books and dialogues arrive as the same kind of window (data/windows.py), so there is one trainer. Here are the collator
that says where documents end, positions that skip, the loss without whole logits, what a stage carries over, and the
evaluation by position; guards and checkpoints are in guarded.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback

from shridhar_ft.data.pose import skipped_positions
from shridhar_ft.data.windows import IGNORED
from shridhar_ft.errors import UserError
from shridhar_ft.guarded import GuardedTrainer
from shridhar_ft.measuring import shared_loss
from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.model.loss import add_loss_head
from shridhar_ft.model.optimizers import make_optimizer
from shridhar_ft.model.quantized import unmarked
from shridhar_ft.processes import SharedAttention
from shridhar_ft.scoring import Loss, positions


@dataclass(frozen=True)
class WindowCollator:
    """Windows → a batch; shorter ones are filled up with a piece of padding that no loss falls on."""

    pad_token_id: int
    shared_length: int | None = None
    """Ulysses: tokens of every row, filled up; gloo hands rows of one length on only. Boundaries are in positions."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        longest = self.shared_length or longest
        batch = {
            "input_ids": np.full((len(rows), longest), self.pad_token_id, dtype=np.int64),
            "labels": np.full((len(rows), longest), IGNORED, dtype=np.int64),
            "position_ids": np.zeros((len(rows), longest), dtype=np.int64),
        }  # each (B, T)
        pieces = []
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][index, :length] = row["input_ids"]
            batch["labels"][index, :length] = row["labels"]
            pieces.append([*row["lengths"], longest - length] if length < longest else row["lengths"])
            batch["position_ids"][index] = positions(pieces[-1])
        # No attention mask: the boundaries keep the pieces apart, and an all-ones mask would not.
        tensors = {key: torch.from_numpy(value) for key, value in batch.items()}
        told = {key: [row[key] for row in rows] for key in ABOUT_ROWS}  # lists: Ulysses cuts tensors up
        return {**tensors, **({} if self.shared_length else boundaries(pieces)), **told}


ABOUT_ROWS = ("row", "replayed")  # for the trainer; the model does not take them


@dataclass(frozen=True)
class SpannedSchedule:
    """A learning-rate schedule over several stages: where this one stands in it."""

    before: int
    """Steps of the stages before it."""
    total: int
    """Steps of all of them."""


class WindowTrainer(GuardedTrainer):
    """SFTTrainer on windows."""

    loss_is_scaled_for_ga = True  # `compute_loss` divides by the tokens of the whole step

    def __init__(
        self,
        *,
        window: int,
        pose_context: int | None = None,
        spanned: SpannedSchedule | None = None,
        carried_optimizer: Path | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """
        Args:
            window: Tokens of a window.
            pose_context: Positions that skip-wise windows lie within; None trains the windows' own positions.
            spanned: The schedule, where it goes over several stages.
            carried_optimizer: optimizer.pt of the checkpoint whose weights this part begins with.
            **kwargs: GuardedTrainer's own.
        """
        with unmarked(kwargs["model"]):
            super().__init__(**kwargs)
        add_loss_head(self.model)  # after TRL's own, which it goes before on devices where that one is slow
        self.window = window
        self.pose_context, self.spanned, self.carried_optimizer = pose_context, spanned, carried_optimizer
        self.tokens_seen = 0  # by this process since it started
        self._micro = (-1, 0)  # optimizer step, forward passes made for it
        self.shared_attention: SharedAttention | None = None  # set where Ulysses shares windows out
        self.when_ready: Callable[[], None] | None = None  # called once the engine has the model
        for default in (PrinterCallback, ProgressCallback):
            self.remove_callback(default)

    # ------------------------------------------------------------------------------------------------- a step

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        self.tokens_seen += inputs["input_ids"].numel()
        self.note_batch(inputs["row"], inputs["input_ids"])
        if self.pose_context is not None:
            inputs["position_ids"] = self._skipped(inputs, self.pose_context).to(inputs["position_ids"].device)
        return super().training_step(model, inputs, *args, **kwargs)

    def _skipped(self, inputs: dict[str, Any], context: int) -> torch.Tensor:
        """Positions of this forward pass under PoSE, drawn from step, pass and rank: a resume draws the same."""
        step, passed = self._micro
        passed = passed + 1 if step == self.state.global_step else 0
        self._micro = (self.state.global_step, passed)
        draw = np.random.default_rng([self.args.seed, self.state.global_step, passed, self.args.process_index])
        own = inputs["position_ids"].cpu()
        ends = inputs["cu_seq_lens_q"].tolist()
        found = np.empty(own.numel(), dtype=np.int64)
        replayed = inputs["replayed"]
        for start, stop in pairwise(ends):
            row, place = divmod(start, own.shape[1])
            plain = own[row, place : place + stop - start].numpy()
            found[start:stop] = plain if replayed[row] else skipped_positions([stop - start], context, draw)
        return torch.from_numpy(found).view(own.shape)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # noqa: ANN401
        """Summed nats of the learned tokens divided by their number in the whole step, over micro-batches and ranks."""
        batch = {key: value for key, value in inputs.items() if key not in ABOUT_ROWS}
        if self.aux_loss_enabled:  # a mixture of experts: TRL shares its routers' loss out over micro-batches
            loss, output = super().compute_loss(model, batch, True, num_items_in_batch)
        else:
            output = model(**batch, use_cache=False, fused_lm_head=True, num_items_in_batch=num_items_in_batch)
            loss = output.loss
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes  # DDP averages gradients over the ranks
        loss = self.checked_loss(loss)
        return (loss, output) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:  # noqa: ANN401
        if self.get_sp_size() == 1:
            return super()._get_num_items_in_batch(batch_samples, device)
        # transformers leaves it out under Ulysses and averages the means of micro-batches. The shares of all processes
        # hold each label once.
        own = sum(int((batch["shift_labels"] != IGNORED).sum()) for batch in batch_samples)
        return self.accelerator.reduce(torch.tensor(own, device=device), reduction="sum")

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.shared_attention is not None:
            self.shared_attention.only_in_training()
        if self.when_ready is not None:
            self.when_ready()
        return prepared

    # ------------------------------------------------------------------------------------ optimizer, schedule

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for name, p in trained if name in decayed], "weight_decay": self.tuning.weight_decay},
            {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
        ]
        embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight.requires_grad]
        self.optimizer = make_optimizer(groups, self.tuning, self.levers, embeddings)
        if self.carried_optimizer is not None:
            self._carry_optimizer(self.carried_optimizer)
        return self.optimizer

    def _carry_optimizer(self, file: Path) -> None:
        """Take over the moments of the stage before; learning rate and decay are this stage's."""
        carried = torch.load(file, map_location=self.args.device, weights_only=True)
        own = self.optimizer.state_dict()
        before, now = ([len(group["params"]) for group in held["param_groups"]] for held in (carried, own))
        if before != now:
            raise UserError(
                f"carry.optimizer: {file} holds moments of {sum(before)} parameters and this stage trains {sum(now)}; "
                "take carry.optimizer away, or train the same weights"
            )
        self.optimizer.load_state_dict({**carried, "param_groups": own["param_groups"]})

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:  # noqa: ANN401
        if self.spanned is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        of_all = super().create_scheduler(self.spanned.total, optimizer)
        shape, before = of_all.lr_lambdas[0], self.spanned.before
        for group in of_all.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(of_all.optimizer, lambda step: shape(step + before))
        return self.lr_scheduler

    # ----------------------------------------------------------------------------------- evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,  # noqa: ANN401
        ignore_keys: Any = None,  # noqa: ANN401
        metric_key_prefix: str = "eval",
    ) -> dict[str, Any]:
        """Loss on the validation windows, whole and by position, in nats a token; the ranks share the windows."""
        loss = self._loss_on(self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = {f"{metric_key_prefix}_loss": loss.mean, f"{metric_key_prefix}_by_position": loss.by_position()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The model to measure with the weights as they are now, by all ranks together."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled  # then only the wrapper can put weights together
        return self.model_wrapped if sharded else self.model

    def _loss_on(self, windows: Any) -> Loss:  # noqa: ANN401
        """Loss on windows with the weights as they are now, measured by all ranks together."""
        with self.compute_loss_context_manager():
            return shared_loss(self.evaluated_model, windows, self.window, None, PartialState())

    def save_weights(self, folder: Path) -> None:
        """Write the weights whole, or the adapter's; all ranks have to come here, since ZeRO-3 puts them together."""
        if self.model_wrapped is self.model:  # never trained in this process: a finished checkpoint was loaded into it
            if self.args.should_save:
                self._save(str(folder))
        else:
            self.save_model(str(folder))
