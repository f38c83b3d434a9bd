"""Attention in plain torch, a block of queries at a time: memory linear in the length, on every device.

It serves where torch's own kernels would hold L × L numbers: on MPS (no backward pass of linear memory), for dropout
of attention on the CPU (its flash kernel has none, and torch silently takes the plain path), and for soft-capped
scores (Gemma 2). Each block holds whole rows of scores; the backward pass computes them again from the log-sums, as in
FlashAttention-2 (Dao 2023, arXiv 2307.08691).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

SCORES = 2**25  # numbers in one block of scores, 128 MiB; a few such blocks live at a time


@dataclass(frozen=True)
class Blockwise:
    """A `Kernel` (model/segments.py) in plain torch."""

    scale: float
    softcap: float | None = None
    """Scores become softcap · tanh(score / softcap)."""
    dropout: float = 0.0
    """Probability with which a weight of attention is dropped."""
    seed: int = 0
    """Of dropout: a call's own generator starts from it, so that the backward pass draws the same again."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, call: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        log_sum = q.new_empty(q.shape[:3], dtype=_exact(q))
        draw = self._generator(q.device, call)
        for rows, columns in _blocks(q, k, window):
            scores = self._scores(q[:, :, rows], k[:, :, columns], window)
            log_sum[:, :, rows] = scores.logsumexp(-1)
            weights = scores.sub_(log_sum[:, :, rows, None]).exp_()
            if self.dropout:
                weights *= self._dropped(weights, draw)
            out[:, :, rows] = _grouped(weights.to(v.dtype), v[:, :, columns])
        return out, log_sum

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
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(part, dtype=_exact(q)) for part in (k, v))
        draw = self._generator(q.device, call)
        for rows, columns in _blocks(q, k, window):
            its_q, its_k, its_v, its_grad = q[:, :, rows], k[:, :, columns], v[:, :, columns], grad[:, :, rows]
            scores = self._scores(its_q, its_k, window)
            weights = (scores - log_sum[:, :, rows, None]).exp_()
            grad_weights = _grouped(its_grad, its_v.transpose(2, 3)).to(_exact(q))
            used = weights
            if self.dropout:
                dropped = self._dropped(weights, draw)
                used = weights * dropped
                grad_weights *= dropped
            grad_v[:, :, columns] += _summed(used.to(v.dtype), its_grad, k.shape[1])
            # Σ weights · grad_weights of a row is grad · out, with dropout too (arXiv 2205.14135, B.4).
            row_sum = (its_grad.to(_exact(q)) * out[:, :, rows]).sum(-1, keepdim=True)
            grad_scores = grad_weights.sub_(row_sum).mul_(weights)
            if self.softcap is not None:
                grad_scores *= 1 - (scores.masked_fill(scores.isinf(), 0) / self.softcap) ** 2
            grad_scores = grad_scores.mul_(self.scale).to(q.dtype)
            grad_q[:, :, rows] = _grouped(grad_scores, its_k)
            grad_k[:, :, columns] += _summed(grad_scores, its_q, k.shape[1])
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)

    def _scores(self, q: torch.Tensor, k: torch.Tensor, window: int | None) -> torch.Tensor:
        """(n, H, rows, columns), −inf where a query does not see a key; the last column is the last row's own."""
        scores = _grouped(q, k.transpose(2, 3)).to(_exact(q)).mul_(self.scale)
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh_().mul_(self.softcap)
        rows = torch.arange(q.shape[2], device=q.device)
        later = rows > rows[:, None]
        scores[..., -len(rows) :].masked_fill_(later, float("-inf"))
        if window is not None:
            scores[..., : len(rows)].masked_fill_(later.T, float("-inf"))
        return scores

    def _generator(self, device: torch.device, call: int) -> torch.Generator:
        return torch.Generator(device).manual_seed(self.seed + call)

    def _dropped(self, like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """0 with the probability of dropout, else the factor that keeps the mean."""
        keep = torch.rand(like.shape, generator=draw, device=like.device) >= self.dropout
        return keep / (1 - self.dropout)


def _exact(of: torch.Tensor) -> torch.dtype:
    """The type of scores and sums: float32, where the inputs are not finer."""
    return torch.promote_types(of.dtype, torch.float32)


def _blocks(q: torch.Tensor, k: torch.Tensor, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Rows of queries, and the columns of keys that any of them sees."""
    length, many = q.shape[2], q.shape[0] * q.shape[1]
    rows = max(32, min(512, SCORES // (many * k.shape[2])))
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        yield slice(start, stop), slice(0, stop) if window is None else slice(start, stop + window - 1)


def _grouped(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n, H, a, b) @ (n, KV, b, c) → (n, H, a, c), each head of `right` serving H / KV of `left`, not copied."""
    groups = left.unflatten(1, (right.shape[1], -1)).flatten(2, 3)  # (n, KV, H / KV · a, b)
    return (groups @ right).unflatten(2, (-1, left.shape[2])).flatten(1, 2)


def _summed(weights: torch.Tensor, of_queries: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(n, H, a, b)ᵀ @ (n, H, a, c) → (n, KV, b, c), summed over the heads of a group."""
    left, right = (part.unflatten(1, (kv_heads, -1)).flatten(2, 3) for part in (weights, of_queries))
    return left.transpose(2, 3) @ right
