"""What all ranks have to agree on before one of them may act alone."""

import torch
from transformers import TrainingArguments


def any_rank(asks: bool, args: TrainingArguments) -> bool:
    """Whether any process asks; every process has to come here at the same point of its work."""
    return bool(highest(int(asks), args.device, args.world_size))


def highest(level: int, device: torch.device, processes: int) -> int:
    """The highest level that any process has; every process has to come here at the same point of its work.

    A rank that stopped alone would leave the others waiting in their next exchange for ever.

    Args:
        level: This process's, a small number.
        device: Where its exchange takes tensors from.
        processes: How many there are.
    """
    if processes == 1:
        return level
    vote = torch.tensor(float(level), device=device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
    return int(vote.item())
