"""Which arithmetic is the faster one here: CPUs with AMX multiply bf16 five times as fast as fp32, others slower."""

import time
from functools import cache

import torch

TOKENS, WIDTH = 512, 1024  # a product of 1.1 billion operations: 10 ms at 100 GFLOP/s
WORTH = 1.2  # autocast's conversions cost something too


@cache
def faster_precision(device: torch.device) -> tuple[bool, str]:
    """Whether matrix products in bf16 are faster than in fp32, and a sentence on why.

    On a CPU both are timed, once a process: about 0.2 s, up to 1 s where bf16 is emulated.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "the GPU has bf16"
        return False, "the GPU has no bf16"
    if device.type != "cpu":
        return False, f"on {device.type} bf16 is taken only where the recipe says so"
    fp32, bf16 = (_gflops(dtype) for dtype in (torch.float32, torch.bfloat16))
    return bf16 > WORTH * fp32, f"matrix products run at {fp32:,.0f} GFLOP/s in fp32 and {bf16:,.0f} in bf16 here"


def _gflops(dtype: torch.dtype) -> float:
    """Rate of a matrix product, in 10⁹ operations a second: the best of four, after one that sets it up."""
    left = torch.ones(TOKENS, WIDTH, dtype=dtype)
    right = torch.ones(WIDTH, WIDTH, dtype=dtype)
    times = []
    with torch.no_grad():
        for _ in range(5):
            begun = time.perf_counter()
            torch.nn.functional.linear(left, right)
            times.append(time.perf_counter() - begun)
    return 2 * TOKENS * WIDTH * WIDTH / min(times[1:]) / 1e9
