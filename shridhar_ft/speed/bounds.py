"""What bounds a model's speed on this machine: how fast memory is read, and how fast matrices are multiplied."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.cores import cores

if TYPE_CHECKING:
    import torch

GIGABYTE = 1 << 30
WIDE = 2048  # rows and columns of the product that shows what the processor computes


def memory_rate(device: str = "cpu") -> float:
    """Bytes a second that are read from memory: the cores' sums over a gigabyte, or a device's own; best of three.

    Decode reads every weight and all keys and values for each token, so it cannot be faster than this allows; only a
    model that fits the processor's cache can.
    """
    if device != "cpu":
        return _device_rate(device)
    count = cores()
    parts = [np.ones(GIGABYTE // 8 // count, dtype=np.float64) for _ in range(count)]
    best = 0.0
    for _ in range(3):
        threads = [threading.Thread(target=part.sum) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - started))
    return best


def _device_rate(device: str) -> float:
    import torch

    held = torch.ones(GIGABYTE // 4, device=device)
    return GIGABYTE / min(_took(lambda: held.sum().item()) for _ in range(3))


def compute_rate(device: str, dtype: "torch.dtype") -> float:
    """Operations a second of a large matrix product; best of three. Prefill is such products for the most part."""
    import torch

    one = torch.ones(WIDE, WIDE, device=device, dtype=dtype)
    return 2 * WIDE**3 / min(_took(lambda: (one @ one)[0, 0].item()) for _ in range(3))


def _took(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
