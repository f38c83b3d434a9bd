"""Measures this machine for a minute: matrix products by width, attention, memory, the cost of a layer; with torch.

    shridhar-ft plan --calibrate

Forward and backward, in memory as a training process has it, and the median of what was timed: the best of many is a
rate that a step never sees (a tenth to a fifth above it on two cores of a shared machine).
"""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shridhar_ft.cores import cores
from shridhar_ft.plan.machines import calibration_file
from shridhar_ft.plan.work import ATTENTION_BACKWARD, IN_PLACE, pairs
from shridhar_ft.runfolder import write_json

if TYPE_CHECKING:
    import torch

WIDTHS = (128, 256, 512, 1024, 2048)
TOKENS = 1024
LENGTHS = (512, 1024, 4096)  # of documents
HEADS, DIM = 8, 64
ROWS = (1024, 2048, 4096, 8192, 16_384)  # of WIDTH numbers: 2 to 32 MiB, around what a CPU's allocator takes afresh
WIDTH = 512
NUMBERS = 1 << 25  # of float32: 128 MiB, beyond any cache
DEEP = 4  # norms, each added to what it read
PASSES = 36  # times that one of them touches a number, forward and backward
EACH = 1.5  # seconds a measurement takes
FEWEST = 3  # repetitions of what takes longer: other work on the machine makes single ones ten times as slow
SLOWEST = 1.5  # seconds that a larger size may take to be measured


def calibrate(say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, keep it in the user's cache, and return it.

    Args:
        say: Told what was measured.

    Returns:
        kind, chip, devices, memory (bytes), at, and rates as machines.Rates holds them.
    """
    import psutil

    from shridhar_ft.allocator import keep_memory_low

    keep_memory_low()
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None, "an accelerator is available"
    say(f"plan: measuring {device.type} for about a minute; other work on it spoils the figures")
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    matmul = {name: _matmul(device, dtype) for name, dtype in kinds.items()}
    attention = {name: _attention(device, dtype) for name, dtype in kinds.items()}
    memory, layer = _memory(device), _layer(device)
    cuda = device.type == "cuda"
    found = {
        "kind": device.type,
        "chip": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "devices": torch.cuda.device_count() if cuda else 1,
        "cores": cores(),
        "memory": torch.cuda.mem_get_info(device)[1] if cuda else psutil.virtual_memory().total,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rates": {
            "matmul": {name: _texts(rates) for name, rates in matmul.items()},
            "attention": {name: _texts(rates) for name, rates in attention.items()},
            "memory": _texts(memory),
            "layer": layer,
            "link": max(memory.values()) / 4 if not cuda else 2e10,  # not measured: it takes two processes
        },
    }
    write_json(calibration_file(), found)
    for name in kinds:
        products, reading = (
            ", ".join(f"{rate / 1e9:,.0f} at {size}" for size, rate in rates[name].items())
            for rates in (matmul, attention)
        )
        say(f"plan: matrix products in {name}: {products} GFLOP/s by width; attention {reading} tokens")
    moving = ", ".join(
        f"{rate / 1e9:,.0f} {'in place' if size == IN_PLACE else f'at {size >> 20} MiB'}"
        for size, rate in memory.items()
    )
    say(f"plan: elementwise work {moving} GB/s by tensor; a pass over a layer takes at least {layer * 1e3:.2f} ms")
    say(f"plan: kept in {calibration_file()}")
    return found


def _texts(rates: dict[int, float]) -> dict[str, float]:
    """As JSON has it."""
    return {str(size): rate for size, rate in rates.items()}


def _typical(device: "torch.device", work: Callable[[], Any]) -> float:
    """Seconds of the median of as many repetitions as there is time for, after one that sets it up."""
    import torch

    def once() -> float:
        begun = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - begun

    once()
    until, found = time.perf_counter() + EACH, [once()]
    while len(found) < FEWEST or time.perf_counter() < until:
        found.append(once())
    return statistics.median(found)


def _rates(device: "torch.device", works: dict[int, tuple[float, Callable[[], Any]]]) -> dict[int, float]:
    """Rates by size.

    Args:
        device: Where.
        works: Size, from the smallest on → what is counted of it, and what does it.
    """
    found: dict[int, float] = {}
    for size, (counted, work) in works.items():
        last = next(reversed(found.values()), None)
        # Emulated, or a slow machine: another minute would say about the same.
        found[size] = last if last and counted / last > SLOWEST else counted / _typical(device, work)
    return found


def _matmul(device: "torch.device", dtype: "torch.dtype") -> dict[int, float]:
    """Width → operations a second, of products as a layer makes them, forward and backward."""
    import torch

    def product(width: int) -> tuple[float, Callable[[], Any]]:
        tokens = torch.randn(TOKENS, width, dtype=dtype, device=device, requires_grad=True)
        weight = torch.randn(3 * width, width, dtype=dtype, device=device, requires_grad=True)
        above = torch.randn(TOKENS, 3 * width, dtype=dtype, device=device)

        def both() -> None:
            tokens.grad = weight.grad = None
            torch.nn.functional.linear(tokens, weight).backward(above)

        return 18 * TOKENS * width**2, both

    return _rates(device, {width: product(width) for width in WIDTHS})


def _attention(device: "torch.device", dtype: "torch.dtype") -> dict[int, float]:
    """Tokens → operations a second of causal attention, forward and backward."""
    import torch

    def attend(length: int) -> tuple[float, Callable[[], Any]]:
        shape = (1, HEADS, length, DIM)
        query, key, value = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

        def both() -> None:
            query.grad = key.grad = value.grad = None
            torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()

        return 4 * HEADS * DIM * pairs(length) * (1 + ATTENTION_BACKWARD), both

    # Where torch has no fused kernel it makes all scores at once: gigabytes at the longest.
    lengths = LENGTHS[:2] if device.type == "mps" else LENGTHS
    return _rates(device, {length: attend(length) for length in lengths})


def _memory(device: "torch.device") -> dict[int, float]:
    """Bytes of a tensor → bytes a second of elementwise work: norms and residuals, whose activations live on.

    A GPU's allocator keeps what was freed: there one size stands for all, and it is beyond its caches.
    """
    import torch

    sizes = ROWS if device.type == "cpu" else (NUMBERS // WIDTH,)
    works = {rows: norms(rows, device) for rows in sizes}
    found = {4 * WIDTH * rows: rate for rows, rate in _rates(device, works).items()}
    left, right, out = (torch.ones(NUMBERS, device=device) for _ in range(3))
    return {**found, IN_PLACE: 12 * NUMBERS / _typical(device, lambda: torch.add(left, right, out=out))}


def norms(rows: int, device: "torch.device") -> tuple[float, Callable[[], Any]]:
    """Bytes that a chain of norms and residuals moves, forward and backward, and what runs it."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(WIDTH).to(device)
    hidden, above = torch.randn(2, 1, rows, WIDTH, device=device)
    hidden.requires_grad_()

    def both() -> None:
        carried = hidden
        hidden.grad = norm.weight.grad = None
        for _ in range(DEEP):
            carried = carried + norm(carried)
        carried.backward(above)

    return DEEP * PASSES * 4 * hidden.numel(), both


def _layer(device: "torch.device") -> float:
    """Seconds of one pass over one layer with next to nothing in it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers = 8
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).to(device)
    ids = torch.zeros(1, 8, dtype=torch.long, device=device)

    def both() -> None:
        model(input_ids=ids, use_cache=False).logits.sum().backward()

    return _typical(device, both) / (3 * layers)
