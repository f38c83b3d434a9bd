"""Exact attention that visits each packed document by itself: no L × L mask, memory linear in the window.

A batch is cut into calls of a kernel: one for each long document, one for all short documents of a length, and for a
sliding window one for each block of queries with the band of keys before it. The cost is the sum of the squares of the
documents' lengths, and tokens × window where a layer slides. Tensors are laid out by token, (N, heads, D) with the
rows of a batch end to end, so that each call works on views.

One node of the graph holds q, k, v, output and log-sums for all calls. The kernel is model/cpu_flash.py, or
model/blockwise.py for what that one cannot do; on CUDA torch chooses (`attend_by_torch`).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from shridhar_ft.model.band import band_mask
from shridhar_ft.model.kept_attention import kept_attention

SHORT = 512  # tokens; pieces up to it are gathered by length, longer ones are worth a call of their own


class Call(NamedTuple):
    """Queries and keys of one call of a kernel, as slices or as indices (n, L) of n pieces of one length."""

    queries: slice | torch.Tensor
    keys: slice | torch.Tensor
    window: int | None
    """None: causal, from the same first token on. Else query i sees keys i … i + window − 1 of this call."""


class Kernel(Protocol):
    """Attention over (n, heads, L, D), with fewer heads of keys and values than of queries where they are grouped."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None, call: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output (n, H, L, Dv), and the log of the sum of exponentials (n, H, L) in float32."""

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
        """Gradients of q, k and v."""


def plan_calls(
    pieces: Sequence[tuple[int, int]],
    window: int | None,
    block: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Call]:
    """Cut documents into kernel calls: of pieces up to `SHORT` tokens no more than √(2 · tokens) come out.

    Args:
        pieces: First token and the one after the last of each, rows laid end to end.
        window: Tokens that a token sees, itself included; None sees its whole piece.
        block: Queries of one call of a sliding window (default: a quarter of the window, which measured fastest).
        device: Where the indices of short pieces are wanted.
    """
    calls, short = [], defaultdict(list)
    for start, stop in pieces:
        length = stop - start
        if window is not None and length > window:
            calls += _band(start, stop, window, block or max(64, min(512, window // 4)))
        elif length > SHORT:
            calls.append(Call(slice(start, stop), slice(start, stop), None))
        else:
            short[length].append(start)
    for length, starts in short.items():
        if len(starts) == 1:
            where: slice | torch.Tensor = slice(starts[0], starts[0] + length)
        else:
            where = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)  # (n, L)
        calls.append(Call(where, where, None))
    return calls


def _band(start: int, stop: int, window: int, block: int) -> list[Call]:
    """Calls of one piece that is longer than its window: its first tokens are causal, then come blocks of queries.

    A block of B queries multiplies B · (B + window) scores and uses B · window of them.
    """
    first = slice(start, start + window)
    calls = [Call(first, first, None)]
    for place in range(start + window, stop, block):
        end = min(place + block, stop)
        calls.append(Call(slice(place, end), slice(place - window + 1, end), window))
    return calls


# ----------------------------------------------------------------------------------------------- one node


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, calls: list[Call], kernel: Kernel) -> torch.Tensor:
    """Attention of all calls as one node of the graph; keeps or takes its output where a `KeptAttention` is active.

    Args:
        q: (N, H, D), as all of them by token.
        k: (N, KV, D), KV dividing H.
        v: (N, KV, Dv).
        calls: From `plan_calls`; each token is a query of exactly one.
        kernel: What computes a call.

    Returns:
        (N, H, Dv).
    """
    return _Attend.apply(q, k, v, calls, kernel)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        calls: list[Call],
        kernel: Kernel,
    ) -> torch.Tensor:
        active = kept_attention()
        if active is not None and active[1] == "again":
            out, log_sum = active[0].take()
        else:
            out, log_sum = _forward(q, k, v, calls, kernel)
            if active is not None:
                active[0].keep(out, log_sum)
        ctx.save_for_backward(q, k, v, out, log_sum)
        ctx.calls, ctx.kernel = calls, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        q, k, v, out, log_sum = ctx.saved_tensors
        return *_backward(grad, q, k, v, out, log_sum, ctx.calls, ctx.kernel), None, None


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, calls: list[Call], kernel: Kernel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (N, H, Dv) and log-sums (N, H)."""
    out = q.new_empty(*q.shape[:2], v.shape[2])
    log_sum = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    for number, (queries, keys, window) in enumerate(calls):
        its_out, its_sum = kernel.forward(_heads(q, queries), _heads(k, keys), _heads(v, keys), window, number)
        out[_flat(queries)] = _tokens(its_out)
        log_sum[_flat(queries)] = _tokens(its_sum)
    return out, log_sum


def _backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    calls: list[Call],
    kernel: Kernel,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, by token."""

    def of_call(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        queries, keys, window = calls[number]
        its_grad, its_q, its_out, its_sum = (_heads(tensor, queries) for tensor in (grad, q, out, log_sum))
        its_k, its_v = _heads(k, keys), _heads(v, keys)
        slopes = kernel.backward(its_grad, its_q, its_k, its_v, its_out, its_sum, window, number)
        return _tokens(slopes[0]), _tokens(slopes[1]), _tokens(slopes[2])

    if len(calls) == 1:
        its_q, its_k, its_v = of_call(0)  # no second copy of the gradients of a document that fills the window
        return its_q.to(q.dtype), its_k.to(k.dtype), its_v.to(v.dtype)
    # A key of a band gets its gradient from several blocks, which bfloat16 would round at each.
    bands = any(call.window is not None for call in calls)
    summed = torch.promote_types(q.dtype, torch.float32) if bands else q.dtype
    grad_q = torch.empty_like(q)
    grad_k, grad_v = (torch.zeros_like(tensor, dtype=summed) for tensor in (k, v))
    for number, (queries, keys, _) in enumerate(calls):
        its_q, its_k, its_v = of_call(number)
        grad_q[_flat(queries)] = its_q.to(q.dtype)
        grad_k[_flat(keys)] += its_k.to(summed)
        grad_v[_flat(keys)] += its_v.to(summed)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _flat(where: slice | torch.Tensor) -> slice | torch.Tensor:
    return where if isinstance(where, slice) else where.flatten()


def _heads(tokens: torch.Tensor, where: slice | torch.Tensor) -> torch.Tensor:
    """(N, H, …) → (n, H, L, …)."""
    if isinstance(where, slice):
        return tokens[where].transpose(0, 1)[None]
    return tokens[where.flatten()].unflatten(0, where.shape).transpose(1, 2)


def _tokens(heads: torch.Tensor) -> torch.Tensor:
    """(n, H, L, …) → (n · L, H, …)."""
    return heads.transpose(1, 2).flatten(0, 1)


# -------------------------------------------------------------------------------- kernels that torch chooses


def attend_by_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    calls: list[Call],
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """The same, with F.scaled_dot_product_attention for each call and its own autograd: for CUDA and other devices."""
    # One gather for all calls: a slice for each would give each a gradient as large as the whole in the backward pass.
    queries, keys = [call.queries for call in calls], [call.keys for call in calls]
    every_q, every_k = (torch.cat([_index(where, q.device) for where in part]) for part in (queries, keys))
    all_q = _split(q[every_q], queries)
    all_k, all_v = (_split(part[every_k], keys) for part in (k, v))
    outs = []
    for its_q, its_k, its_v, call in zip(all_q, all_k, all_v, calls, strict=True):
        mask = None
        if call.window is not None:
            mask = band_mask(its_q.shape[2], call.window, q.dtype, q.device)
            # With a mask, grouped heads would leave the memory-efficient kernel for the plain one.
            its_k, its_v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (its_k, its_v))
        out = F.scaled_dot_product_attention(
            its_q,
            its_k,
            its_v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=its_q.shape[1] != its_k.shape[1],
        )
        outs.append(_tokens(out))
    return torch.cat(outs)[every_q.argsort()]


def _index(where: slice | torch.Tensor, device: torch.device) -> torch.Tensor:
    if isinstance(where, slice):
        return torch.arange(where.start, where.stop, device=device)
    return where.flatten().to(device)


def _split(tokens: torch.Tensor, calls: list[slice | torch.Tensor]) -> list[torch.Tensor]:
    """(Σ n · L, H, D) → for each call (n, H, L, D)."""
    shapes = [(1, where.stop - where.start) if isinstance(where, slice) else tuple(where.shape) for where in calls]
    parts = tokens.split([pieces * length for pieces, length in shapes])
    return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]
