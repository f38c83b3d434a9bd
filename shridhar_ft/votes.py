"""What all ranks have to agree on before one of them may act alone."""

import torch
from transformers import TrainingArguments


def any_rank(asks: bool, args: TrainingArguments) -> bool:
    """Whether any process asks; every process has to come here at the same point of its work.

    A rank that stopped alone would leave the others waiting in their next exchange for ever.
    """
    if args.world_size == 1:
        return asks
    vote = torch.tensor(float(asks), device=args.device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
    return bool(vote.item())
