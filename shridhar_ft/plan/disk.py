"""What a run writes: checkpoints, weights, the export; and what it takes to carry them elsewhere."""

from dataclasses import dataclass

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.sizes import Sizes, optimizer_bytes
from shridhar_ft.plan.steps import saved_every


@dataclass(frozen=True)
class Written:
    """Bytes that a part leaves on the disk."""

    checkpoint: int
    """One checkpoint."""
    kept: int
    """Checkpoints that lie there at once, the one that is being written among them."""
    saves: int
    """Checkpoints written in all."""
    weights: int
    """What it hands over: the model, or an adapter."""

    @property
    def at_once(self) -> int:
        return self.checkpoint * min(self.kept, max(1, self.saves)) + self.weights

    @property
    def in_all(self) -> int:
        """Bytes that a backup of every checkpoint carries."""
        return self.checkpoint * self.saves + self.weights


def written(size: Sizes, tuning: Tuning, levers: tuple[Lever, ...], layout: Layout, bf16: bool, steps: int) -> Written:
    """What a part writes.

    Args:
        size: The model as it is trained.
        tuning: Method, how often is saved, how many stay.
        levers: Those that are on.
        layout: DeepSpeed adds float32 masters.
        bf16: Whether matrix products run in bf16.
        steps: Optimizer steps.
    """
    own = layout.deepspeed and bf16
    stored = 2 if own or ("bf16_weights" in levers and tuning.method == "full") else 4
    if tuning.method == "full":
        weights = size.trained * stored
    else:  # beside trained embeddings an adapter's file has the head, tied or not: peft asks for both when it loads
        weights = 4 * (size.trained + (size.shape.head if size.head_trained and size.shape.tied else 0))
    moments = optimizer_bytes(size, tuning, levers, 4 if layout.deepspeed else stored)
    return Written(
        checkpoint=weights + moments + (4 * size.trained if layout.deepspeed else 0),
        kept=tuning.keep_checkpoints + 1,
        saves=-(-steps // saved_every(tuning, steps)),
        weights=weights,
    )
