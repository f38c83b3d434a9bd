"""The merge certificate: the same text through base + adapter, merged and reloaded models, their logits side by side.

RoPE is relative, so shifted position ids prove nothing: one real text as long as the whole context is read, and
logits are compared near its start, at the original context and at its very end.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

AROUND = 8  # positions compared at each place
# What rounding weights to the type explains: the largest difference of a logit, as a share of the logits' own standard
# deviation (a small model's logits are small), and the mean KL divergence in nats a position. llama.cpp rounds the
# activations to the weights' type as well, so its kinds are given more: about twice what SmolLM2-135M has on random
# tokens, which are harder than any text (q8_0 0.016 nats, q4_k_m 0.37).
TOLERANCES = {
    "float32": (5e-4, 1e-6),
    "float16": (3e-2, 1e-4),
    "bfloat16": (3e-1, 1e-2),
    "gguf f32": (5e-4, 1e-6),
    "gguf f16": (5e-2, 2e-4),
    "gguf bf16": (4e-1, 1e-2),
    "gguf q8_0": (1.0, 3e-2),
    "gguf q6_k": (1.5, 8e-2),
    "gguf q5_k_m": (3.0, 0.25),
    "gguf q4_k_m": (5.0, 0.6),
    "gguf q3_k_m": (8.0, 1.2),
}


@dataclass(frozen=True)
class Places:
    """Positions whose logits are compared, by the name of their place."""

    start: list[int]
    original_context: list[int]
    full_context: list[int]

    @property
    def all(self) -> list[int]:
        return [*self.start, *self.original_context, *self.full_context]


def places(length: int, original_context: int) -> Places:
    """Where to compare in a text of this many tokens."""
    near = min(AROUND, length)
    original = range(original_context - near, original_context) if near < original_context < length else ()
    return Places(list(range(near)), list(original), list(range(length - near, length)))


def logits_at(
    model: "nn.Module", ids: np.ndarray, where: list[int], device: "torch.device | None" = None
) -> "torch.Tensor":
    """Logits of a text at these positions only.

    Args:
        model: A causal language model, plain or with an adapter.
        ids: Token ids, (T,).
        where: Positions P.
        device: Where the model computes; None: where its weights lie.

    Returns:
        float32 (P, V) on the CPU.
    """
    import torch

    device = device or next(model.parameters()).device
    tokens = torch.as_tensor(ids, dtype=torch.long, device=device)[None]
    keep = torch.as_tensor(where, dtype=torch.long, device=device)
    model.eval()
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False, logits_to_keep=keep).logits[0].float().cpu()


def compare(reference: "torch.Tensor", other: "torch.Tensor", where: Places) -> dict[str, Any]:
    """Largest logit difference and mean KL divergence (nats), overall and by place."""
    import torch

    found: dict[str, Any] = {}
    begin = 0
    for name in ("start", "original_context", "full_context"):
        count = len(getattr(where, name))
        if count:
            a, b = reference[begin : begin + count], other[begin : begin + count]
            divergence = torch.nn.functional.kl_div(
                b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none"
            )
            found[name] = {
                "positions": [getattr(where, name)[0], getattr(where, name)[-1]],
                "largest_logit_difference": float((a - b).abs().max()),
                "mean_kl_nats": float(divergence.sum(-1).mean()),
            }
        begin += count
    at_places = list(found.values())
    # np.max and not max(): max(0.0, nan) is 0.0, and a NaN at the far end would be certified.
    found["largest_logit_difference"] = float(np.max([place["largest_logit_difference"] for place in at_places]))
    found["largest_difference_in_deviations"] = found["largest_logit_difference"] / float(reference.std())
    found["mean_kl_nats"] = float(np.max([place["mean_kl_nats"] for place in at_places]))
    return found


def holds(found: dict[str, Any], dtype: str) -> bool:
    """Whether a comparison is within what rounding to this type explains."""
    deviations, divergence = TOLERANCES[dtype]
    # A NaN compares false, so it fails here.
    near = found["largest_difference_in_deviations"] <= deviations and found["mean_kl_nats"] <= divergence
    same = all(read["ok"] for read in found.get("tokens", {}).values())  # what a GGUF adds: its tokens and its RoPE
    return near and same and found.get("rope", {"ok": True})["ok"]
