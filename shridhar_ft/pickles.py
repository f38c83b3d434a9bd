"""Which pickles of a checkpoint ask for code that no training writes.

transformers opens optimizer, scheduler and random state with torch's restricted unpickler; DeepSpeed opens its shards
with the whole one, which runs whatever they name. So every pickle is read without being run, before any of them is
opened, and only the names below pass.
"""

from pathlib import Path

import torch
from transformers.trainer_pt_utils import safe_globals

# Beside what torch's restricted unpickler takes: what DeepSpeed 0.19 writes into its shards.
_OF_DEEPSPEED = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)


def foreign_pickle(checkpoint: Path) -> str | None:
    """The first pickle of a checkpoint that names foreign code, as a sentence; None where there is none."""
    for file in sorted(checkpoint.rglob("*")):
        if file.suffix not in (".pt", ".pth", ".bin", ".pkl"):
            continue
        name = file.relative_to(checkpoint)
        if file.name == "training_args.bin":  # transformers writes it, and nothing opens it
            continue
        try:
            with safe_globals():
                asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        except Exception as error:  # noqa: BLE001 - whatever a broken or hostile file provokes
            return f"{name} is no file of torch's ({type(error).__name__})"
        if foreign := sorted(set(asked) - _OF_DEEPSPEED):
            return f"{name} asks for {', '.join(foreign)}, which no training writes"
    return None
