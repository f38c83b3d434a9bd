"""The mask of a block of a sliding window: the only mask that attention by document makes, and a small one."""

from functools import lru_cache

import torch


@lru_cache(maxsize=4)
def band_mask(queries: int, window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Additive mask of a block: (queries, queries + window − 1), 0 where query i sees key i … i + window − 1."""
    ones = torch.ones(queries, queries + window - 1, dtype=torch.bool, device=device)
    seen = ones.triu().logical_and(ones.tril(window - 1))
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, float("-inf"))
