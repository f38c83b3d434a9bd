"""TensorBoard: every training writes its figures into the run folder, and nothing anywhere else.

tensorboard --logdir runs
"""

from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class Board:
    """The event files of one part; a thread of TensorBoard's own writes them."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: The part's.
        """
        self.folder = folder / FOLDER
        self.writer: Any = None

    def begin(self, step: int) -> None:
        """Training (re)starts after this step: what was written of later ones no longer counts."""
        from torch.utils.tensorboard import SummaryWriter  # here: only the process that writes pays for the import

        self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def figures(self, step: int, figures: dict[str, Any]) -> None:
        """The figures of a line of metrics.jsonl."""
        for name, value in board_scalars(figures).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held; also after an error."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def board_scalars(figures: dict[str, Any]) -> dict[str, float]:
    """The figures of a log line as TensorBoard groups them: train, eval, and the loss by position spread out."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        if key == "eval_by_position":
            found |= {f"eval_position/{piece['from']}": piece["loss"] for piece in value if piece["loss"] is not None}
        elif isinstance(value, int | float):
            found[f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"] = float(value)
    return found
