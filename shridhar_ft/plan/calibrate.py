"""Measures this machine for a minute: matrix products by width, attention, memory, the cost of a layer; with torch.

shridhar-ft plan --calibrate
"""

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from shridhar_ft.plan.machines import calibration_file
from shridhar_ft.plan.work import ATTENTION_BACKWARD, pairs
from shridhar_ft.runfolder import write_json

if TYPE_CHECKING:
    import torch

WIDTHS = (128, 256, 512, 1024, 2048)
TOKENS = 1024
LENGTH, HEADS, DIM = 2048, 8, 64
NUMBERS = 1 << 25  # of float32: 128 MiB, beyond any cache
EACH = 1.5  # seconds a measurement takes
FEWEST = 3  # repetitions of what takes longer: other work on the machine makes single ones ten times as slow
SLOWEST = 0.5  # seconds of one product above which a type is taken for emulated, and wider ones are not measured


def calibrate(say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, keep it in the user's cache, and return it.

    Args:
        say: Told what was measured.

    Returns:
        kind, chip, devices, memory (bytes), at, and rates as machines.Rates holds them.
    """
    import psutil
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
        "memory": torch.cuda.mem_get_info(device)[1] if cuda else psutil.virtual_memory().total,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rates": {
            "matmul": {name: {str(width): rate for width, rate in widths.items()} for name, widths in matmul.items()},
            "attention": attention,
            "memory": memory,
            "layer": layer,
            "link": memory / 4 if not cuda else 2e10,  # not measured: it takes two processes
        },
    }
    write_json(calibration_file(), found)
    for name, widths in matmul.items():
        fast = ", ".join(f"{rate / 1e9:,.0f} at {width}" for width, rate in widths.items())
        say(f"plan: matrix products in {name}: {fast} GFLOP/s by width; attention {attention[name] / 1e9:,.0f}")
    say(f"plan: memory {memory / 1e9:,.1f} GB/s; a pass over a layer takes at least {layer * 1e3:.2f} ms")
    say(f"plan: kept in {calibration_file()}")
    return found


def _best(device: "torch.device", work: Callable[[], Any]) -> float:
    """Seconds of the fastest of as many repetitions as there is time for, after one that sets it up."""
    import torch

    def once() -> float:
        begun = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - begun

    first = once()
    until, best = time.perf_counter() + EACH, first
    for number in count():
        if number >= FEWEST and time.perf_counter() > until:
            return best
        best = min(best, once())
    raise AssertionError("count() does not end")


def _matmul(device: "torch.device", dtype: "torch.dtype") -> dict[int, float]:
    """Width → operations a second, of products as a layer makes them."""
    import torch

    found: dict[int, float] = {}
    for width in WIDTHS:
        tokens = torch.ones(TOKENS, width, dtype=dtype, device=device)
        weight = torch.ones(3 * width, width, dtype=dtype, device=device)
        if found and (slowest := min(found.values())) and 6 * TOKENS * width**2 / slowest > SLOWEST:
            found[width] = slowest  # emulated: another minute would say the same
            continue
        seconds = _best(device, partial(torch.nn.functional.linear, tokens, weight))
        found[width] = 6 * TOKENS * width**2 / seconds
    return found


def _attention(device: "torch.device", dtype: "torch.dtype") -> float:
    """Operations a second of causal attention, forward and backward."""
    import torch

    shape = (1, HEADS, LENGTH, DIM)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

    def both() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()

    operations = 4 * HEADS * DIM * pairs(LENGTH) * (1 + ATTENTION_BACKWARD)
    return operations / _best(device, both)


def _memory(device: "torch.device") -> float:
    """Bytes a second of elementwise work: two numbers read, one written."""
    import torch

    left, right, out = (torch.ones(NUMBERS, device=device) for _ in range(3))
    return 12 * NUMBERS / _best(device, lambda: torch.add(left, right, out=out))


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

    return _best(device, both) / (3 * layers)
