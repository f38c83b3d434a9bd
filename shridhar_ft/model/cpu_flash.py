"""torch's flash attention of the CPU, called below its autograd, as a `Kernel` of model/segments.py."""

import time
from functools import cache

import torch

from shridhar_ft.model.band import band_mask


class CpuFlash:
    """torch's flash attention for the CPU, which F.scaled_dot_product_attention runs where it has no dropout."""

    def __init__(self, scale: float | None) -> None:
        self.scale = scale

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, call: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = _read_rightly(q, k, v)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, window is None, attn_mask=self._mask(q, window), scale=self.scale
        )

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        log_sum: torch.Tensor,
        window: int | None,
        call: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if q.dtype == torch.bfloat16 and _backward_is_slow_in_bfloat16():
            grad, q, k, v, out = (part.float() for part in (grad, q, k, v, out))
        grad, q, k, v, out = _read_rightly(grad, q, k, v, out)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, log_sum, 0.0, window is None, attn_mask=self._mask(q, window), scale=self.scale
        )

    @staticmethod
    def _mask(q: torch.Tensor, window: int | None) -> torch.Tensor | None:
        return None if window is None else band_mask(q.shape[2], window, q.dtype, q.device)


def _read_rightly(*parts: torch.Tensor) -> list[torch.Tensor]:
    """The kernel takes any strides but the last, which it believes to be 1: another gives wrong numbers, no error."""
    return [part if part.stride(-1) == 1 else part.contiguous() for part in parts]


@cache
def _backward_is_slow_in_bfloat16() -> bool:
    """Measured once: without AMX the kernel's backward pass in bfloat16 took twelve times what float32 takes."""
    draw = torch.Generator().manual_seed(0)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        q = torch.randn(1, 2, 256, 64, generator=draw).to(dtype)
        given = (q, q, q, q, *torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.0, True))
        seconds[dtype] = min(_seconds_of_backward(given) for _ in range(3))
    return seconds[torch.bfloat16] > 2 * seconds[torch.float32]


def _seconds_of_backward(given: tuple[torch.Tensor, ...]) -> float:
    start = time.perf_counter()
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, 0.0, True)
    return time.perf_counter() - start
