"""The work of a long-context measurement: which model, which documents, and what a step needs in FLOPs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft import config
from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.model.build import base_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

SEED = 108
MODELS: dict[str, dict[str, Any]] = {
    "plan": {
        "vocab_size": 50_000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
    },
}
MODELS["small"] = MODELS["plan"] | {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


@dataclass(frozen=True)
class Work:
    """What every side is given."""

    model: dict[str, Any]
    """Keys of the recipe's `model` section."""
    method: str
    """full or lora."""
    documents: tuple[int, ...]
    """Tokens of each document of the one window."""

    @property
    def length(self) -> int:
        return sum(self.documents)

    def model_config(self) -> "PreTrainedConfig":
        """The model's config, as long as the window, without RoPE scaling."""
        return base_config(self.section(), self.model["from_config"]["vocab_size"])

    def section(self) -> config.Model:
        """The recipe's `model` section."""
        return config.Model(**self.model)

    def ids(self) -> list[np.ndarray]:
        """The documents' token ids, drawn evenly from the vocabulary."""
        draw = np.random.default_rng(SEED)
        return [draw.integers(4, self.model["from_config"]["vocab_size"], length) for length in self.documents]


def documents_of(length: int, document: int | None) -> tuple[int, ...]:
    """A window's documents, all of one size; what remains is part of the last one."""
    if document is None or document >= length:
        return (length,)
    number = length // document
    return (*[document] * (number - 1), length - document * (number - 1))


# ---------------------------------------------------------------------------------------------------- FLOPs


@dataclass(frozen=True)
class Flops:
    """What one step needs when nothing is computed twice: forward, backward, no recomputation."""

    matmul: float
    attention_forward: float
    attention_backward: float

    @property
    def all(self) -> float:
        return self.matmul + self.attention_forward + self.attention_backward

    def seconds(self, rates: dict[str, float]) -> float:
        """Least time at a machine's own kernel rates (FLOP/s by kernel), the rest of the step being free."""
        return (
            self.matmul / rates["matmul"]
            + self.attention_forward / rates["attention_forward"]
            + self.attention_backward / rates["attention_backward"]
        )


def step_flops(work: Work) -> Flops:
    """FLOPs of one step by formula.

    A linear layer of n weights costs 2n a token forward, 2n for the gradient of its input and, where it is trained, 2n
    for its own; the head is one of them. Attention costs 4 · width a pair of tokens that see each other forward (QKᵀ
    and PV), and two and a half times that backward (FlashAttention's five products of two).
    """
    import torch
    from transformers import AutoModelForCausalLM

    model_config = work.model_config()
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(model_config)
        if work.method == "lora":
            model = attach(model, Tuning(method="lora"), grown=False)
    linear = sum(
        (6 if module.weight.requires_grad else 4) * module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    )
    heads = model_config.num_attention_heads
    head_dim = getattr(model_config, "head_dim", None) or model_config.hidden_size // heads
    kinds = getattr(model_config, "layer_types", None) or ["full_attention"] * model_config.num_hidden_layers
    seen = sum(
        pairs(length, model_config.sliding_window if kind == "sliding_attention" else length)
        for kind in kinds
        for length in work.documents
    )
    forward = 4.0 * seen * heads * head_dim
    return Flops(float(linear * work.length), forward, 2.5 * forward)


def pairs(length: int, window: int) -> int:
    """Pairs (token, token seen, itself included) of a causal document whose tokens see `window` tokens."""
    window = min(window, length)
    return window * (window + 1) // 2 + (length - window) * window


# ---------------------------------------------------------------------------------------------------- rates


def machine_rates(
    model_config: "PreTrainedConfig", names: list[str], device: "torch.device"
) -> dict[str, dict[str, float]]:
    """FLOP/s of this machine's own kernels by dtype: a matrix product of the model's size, causal SDPA both ways."""
    import torch

    tokens, heads = 2048, model_config.num_attention_heads
    head_dim = getattr(model_config, "head_dim", None) or model_config.hidden_size // heads
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
    found = {}
    for name in names:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
        left = torch.randn(tokens, model_config.hidden_size, dtype=dtype, device=device)
        right = torch.randn(model_config.hidden_size, model_config.intermediate_size, dtype=dtype, device=device)
        shape = (1, heads, 2 * tokens, head_dim)
        query, key, value = (torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
        out = attend(query, key, value)
        back = partial(torch.autograd.grad, out, (query, key, value), torch.randn_like(out), retain_graph=True)
        forward = 4.0 * pairs(2 * tokens, 2 * tokens) * heads * head_dim
        found[name] = {
            "matmul": 2.0 * left.numel() * right.shape[1] / least_seconds(partial(torch.matmul, left, right), device),
            "attention_forward": forward / least_seconds(partial(attend, query, key, value), device),
            "attention_backward": 2.5 * forward / least_seconds(back, device),
        }
    return found


def least_seconds(do: Callable[[], object], device: "torch.device", within: float = 2.0) -> float:
    """The shortest of a few runs, the first one not counted where there is time: other work only ever adds."""
    import torch

    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 5 and time.perf_counter() - begun < within:
        started = time.perf_counter()
        do()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:] or seconds)
