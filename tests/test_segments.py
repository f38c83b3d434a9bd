"""Attention by document is that of one SDPA with the explicit mask: values, gradients, in every kernel."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from shridhar_ft.model import blockwise, cpu_flash
from shridhar_ft.model.blockwise import Blockwise
from shridhar_ft.model.boundaries import boundaries, pieces_of
from shridhar_ft.model.cpu_flash import CpuFlash
from shridhar_ft.model.kept_attention import KeptAttention, kept_attention
from shridhar_ft.model.segments import SHORT, attend, attend_by_torch, plan_calls

KERNELS = ("flash", "blockwise", "torch")


def run(kernel: str, q, k, v, pieces, window: int | None = None) -> torch.Tensor:
    """Attention of all pieces, (N, H, D)."""
    calls = plan_calls(pieces, window, block=window if kernel == "torch" else None)
    if kernel == "torch":
        return attend_by_torch(q, k, v, calls, None, 0.0)
    return attend(q, k, v, calls, CpuFlash(None) if kernel == "flash" else Blockwise(q.shape[2] ** -0.5))


def seen(pieces, window: int | None) -> torch.Tensor:
    """The mask that nobody should have to make: (N, N), True where a query sees a key."""
    tokens = pieces[-1][1]
    document = torch.repeat_interleave(
        torch.arange(len(pieces)), torch.tensor([stop - start for start, stop in pieces])
    )
    place = torch.arange(tokens)
    mask = (document[:, None] == document) & (place[:, None] >= place)
    return mask if window is None else mask & (place[:, None] - place < window)


def reference(q, k, v, pieces, window: int | None = None) -> torch.Tensor:
    """One SDPA over everything, with the mask, keys and values repeated."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = (
        part.transpose(0, 1)[None] for part in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
    )
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen(pieces, window))[0].transpose(0, 1)


def inputs(tokens: int, heads: int, kv: int, size: int, dtype=torch.float32, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((tokens, heads, size), (tokens, kv, size), (tokens, kv, size))
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]


def with_gradients(out: torch.Tensor, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), parts)]


def as_pieces(lengths) -> list[tuple[int, int]]:
    return list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))


def assert_same(found, wanted, tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one.float() - other.float()).abs().max() <= tolerance * (1 + other.float().abs().max())


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 3, 5, 5, 17, 64, 65, 200]), min_size=1, max_size=6),
    window=st.sampled_from([None, 1, 2, 7, 64, 100]),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    size=st.sampled_from([4, 16, 33]),
)
def test_every_kernel_is_exact_attention_of_each_document(kernel, lengths, window, heads, size) -> None:
    pieces = as_pieces(lengths)
    parts = inputs(pieces[-1][1], *heads, size)
    found = with_gradients(run(kernel, *parts, pieces, window), parts)
    assert_same(found, with_gradients(reference(*parts, pieces, window), parts), 1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 300])
def test_documents_longer_than_a_block_are_exact(kernel: str, window: int | None, monkeypatch) -> None:
    monkeypatch.setattr(blockwise, "SCORES", 4 * 64 * 1000)  # so that the plain kernel has several blocks too
    pieces = as_pieces([SHORT + 1, 7, 1003, 7, SHORT])
    parts = inputs(pieces[-1][1], 4, 2, 16)
    found = with_gradients(run(kernel, *parts, pieces, window), parts)
    assert_same(found, with_gradients(reference(*parts, pieces, window), parts), 1e-5)


@pytest.mark.parametrize(
    ("kernel", "slow"), [("flash", False), ("flash", True), ("blockwise", False), ("torch", False)]
)
@pytest.mark.parametrize("window", [None, 40])
def test_bfloat16_is_near_float32(kernel: str, slow: bool, window: int | None, monkeypatch) -> None:
    monkeypatch.setattr(cpu_flash, "_backward_is_slow_in_bfloat16", lambda: slow)
    pieces = as_pieces([130, 7, 7, 300])
    half = inputs(pieces[-1][1], 4, 2, 16, torch.bfloat16)
    whole = [part.detach().float().requires_grad_() for part in half]
    found = with_gradients(run(kernel, *half, pieces, window), half)
    assert all(part.dtype == torch.bfloat16 for part in found)
    assert_same(found, with_gradients(reference(*whole, pieces, window), whole), 2e-2)


def test_the_backward_pass_of_bfloat16_is_measured_once() -> None:
    assert cpu_flash._backward_is_slow_in_bfloat16() is cpu_flash._backward_is_slow_in_bfloat16()


def test_many_short_documents_are_few_calls() -> None:
    assert len(plan_calls(as_pieces([4] * 2000), None)) == 1
    lengths = [length % 40 + 1 for length in range(2000)]
    calls = plan_calls(as_pieces(lengths), 1024)
    assert len(calls) == 40
    assert sorted(i for call in calls for i in call.queries.flatten().tolist()) == list(range(sum(lengths)))


def test_a_sliding_window_costs_tokens_times_window() -> None:
    def scores(tokens: int) -> int:
        calls = plan_calls([(0, tokens)], 1024)
        return sum((c.queries.stop - c.queries.start) * (c.keys.stop - c.keys.start) for c in calls)

    assert scores(64 * 1024) / (64 * 1024 * 1024) < 1.3
    assert scores(64 * 1024) / scores(32 * 1024) == pytest.approx(2, rel=0.01)


def test_dropout_drops_the_same_again_in_the_backward_pass(monkeypatch) -> None:
    monkeypatch.setattr(blockwise, "SCORES", 2 * 40 * 100)
    pieces, kernel = as_pieces([100, 30]), Blockwise(0.25, dropout=0.3, seed=5)
    parts = [part.detach().double().requires_grad_() for part in inputs(130, 2, 1, 4)]

    def attention(*parts: torch.Tensor) -> torch.Tensor:
        return attend(*parts, plan_calls(pieces, None), kernel)

    assert torch.equal(attention(*parts), attention(*parts))
    assert torch.autograd.gradcheck(attention, parts, fast_mode=True)
    assert not torch.equal(attention(*parts), attend(*parts, plan_calls(pieces, None), Blockwise(0.25)))


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    tokens = 4000
    q = torch.zeros(tokens, 1, 4)
    ones = torch.ones(tokens, 1, 4)
    kernel = Blockwise(0.5, dropout=0.25)
    out = attend(q, q, ones, plan_calls([(0, tokens)], None), kernel)[1000:]  # means of thousands of kept weights
    assert out.mean().item() == pytest.approx(1, abs=0.003)
    single = attend(q[:1], q[:1], ones[:1], plan_calls([(0, 1)], None), kernel)
    assert single[0, 0, 0].item() in (0.0, pytest.approx(1 / 0.75))


@pytest.mark.parametrize("window", [None, 20])
def test_soft_capped_scores_are_exact(window: int | None) -> None:
    pieces = as_pieces([50, 9, 80])
    parts = inputs(pieces[-1][1], 4, 2, 8)
    q, k, v = parts
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(2, 1)) * 0.7
    scores = (3 * torch.tanh(scores / 3)).masked_fill(~seen(pieces, window), float("-inf"))
    wanted = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v.repeat_interleave(2, 1))
    found = attend(q, k, v, plan_calls(pieces, window), Blockwise(0.7, softcap=3.0))
    assert_same(with_gradients(found, parts), with_gradients(wanted, parts), 1e-5)


# ----------------------------------------------------------------------------------------------- boundaries


@given(rows=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=3))
def test_boundaries_come_back_as_pieces(rows: list[list[int]]) -> None:
    tokens = max(map(sum, rows))
    rows = [[*row, tokens - sum(row)] for row in rows]  # padding, of no length where the row is full
    told = boundaries(rows)
    pieces = pieces_of((len(rows), tokens), told["cu_seq_lens_q"], None)
    assert [stop - start for start, stop in pieces] == [length for row in rows for length in row if length]
    assert told["max_length_q"] == told["max_length_k"] == max(map(max, rows))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])
    assert pieces_of((len(rows), tokens), None, positions) == pieces


def test_a_jump_forward_is_no_boundary_without_them() -> None:
    assert pieces_of((1, 6), None, torch.tensor([[0, 1, 50, 51, 0, 1]])) == [(0, 4), (4, 6)]
    assert pieces_of((2, 3), None, torch.tensor([[0, 1, 2]])) == [(0, 3), (3, 6)]
    assert pieces_of((2, 3), None, None) == [(0, 3), (3, 6)]


@pytest.mark.parametrize("ends", [[0, 4, 8], [0, 5], [1, 4, 10], [0, 4, 4, 5, 10], [0, 7, 10]])
def test_boundaries_of_another_batch_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        pieces_of((2, 5), torch.tensor(ends), None)


# ------------------------------------------------------------------------------------------- kept attention


class Counting(CpuFlash):
    """Counts the calls of its forward pass."""

    def __init__(self) -> None:
        super().__init__(None)
        self.calls = 0

    def forward(self, *given):
        self.calls += 1
        return super().forward(*given)


def test_a_recomputation_takes_what_was_kept_and_attends_no_second_time() -> None:
    kernel, kept = Counting(), []
    pieces = as_pieces([30, 30, 41])
    parts = inputs(101, 4, 2, 8)

    def layer(q, k, v):
        once = attend(q * 1.5, k, v, plan_calls(pieces, None), kernel)
        return attend(once.sin(), k, v, plan_calls(pieces, 16), kernel)

    wanted = with_gradients(layer(*parts), parts)
    calls = kernel.calls

    def contexts():
        kept.append(KeptAttention(pack=lambda tensor: tensor.numpy().copy(), unpack=torch.from_numpy))
        return kept[-1].first(), kept[-1].again()

    found = with_gradients(checkpoint(layer, *parts, use_reentrant=False, context_fn=contexts), parts)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    assert kernel.calls == 2 * calls, "the recomputation attended again"
    assert not kept[0].calls, "what was taken is let go"
    assert kept_attention() is None


def test_what_is_kept_does_not_hold_the_graph() -> None:
    kept, parts = KeptAttention(), inputs(5, 1, 1, 4)
    with kept.first():
        attend(*parts, plan_calls([(0, 5)], None), CpuFlash(None))
    assert all(not tensor.requires_grad for tensor in kept.calls[0])


# -------------------------------------------------------------------------------------------------- memory

PEAK = """
import json, resource, sys, torch
from shridhar_ft.model.blockwise import Blockwise
from shridhar_ft.model.cpu_flash import CpuFlash
from shridhar_ft.model.segments import attend, plan_calls
torch.set_num_threads(1)
kernel = CpuFlash(None) if sys.argv[1] == "flash" else Blockwise(0.25)
window = int(sys.argv[2]) or None
def step(tokens):
    q, k, v = (torch.randn(tokens, 1, 16, requires_grad=True) for _ in range(3))
    length = tokens // int(sys.argv[3])
    calls = plan_calls([(start, start + length) for start in range(0, tokens, length)], window)
    attend(q, k, v, calls, kernel).sum().backward()
step(2048)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(32768)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(("kernel", "window", "documents"), [("flash", 0, 4), ("blockwise", 0, 16), ("flash", 512, 1)])
def test_memory_is_linear_at_32768_tokens(kernel: str, window: int, documents: int) -> None:
    command = [sys.executable, "-c", PEAK, kernel, str(window), str(documents)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    # One T × T mask of booleans alone is 1 GiB, the scores 4 GiB; q, k, v, output and their gradients are 16 MiB.
    assert json.loads(done.stdout) < 400 * 2**20
