"""The one chunked per-position log-probability of a text: measures of stages, evaluation and certificate read it.

Logits are never whole: at 108,000 tokens and a vocabulary of 50,000 they alone would be 21.6 GB. TRL's fused head
multiplies them tile by tile and keeps one number a position.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn


def positions(lengths: Sequence[int]) -> np.ndarray:
    """Position ids of the pieces that share a window, each from 0: int64, shape (sum of lengths,)."""
    return np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])


def log_probs(
    model: "nn.Module", input_ids: "torch.Tensor", labels: "torch.Tensor", position_ids: "torch.Tensor"
) -> "torch.Tensor":
    """Log-probability of each label given what stands before it in its piece.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft.
        input_ids: Token ids, (B, T).
        labels: The same ids with −100 where nothing is asked, (B, T).
        position_ids: Positions, from 0 in each piece, (B, T); they alone keep the pieces apart.

    Returns:
        float32 (B, T − 1): entry t is log p(labels[t + 1] | …), 0 where the label is −100.
    """
    import torch
    from trl.trainer.utils import add_fused_lm_head

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(inner, "_scores_tokens", False):
        add_fused_lm_head(inner, outputs=("log_probs",))
        inner._scores_tokens = True
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model(input_ids=input_ids, position_ids=position_ids, labels=labels, fused_lm_head=True)
    model.train(was_training)
    return output.log_probs.float()


@dataclass
class Loss:
    """A sum of negative log-likelihoods and over how many tokens, so that parts add up exactly."""

    nats: float = 0.0
    tokens: int = 0

    @property
    def mean(self) -> float:
        return self.nats / self.tokens if self.tokens else float("nan")


def loss_on_windows(model: "nn.Module", windows: Iterable[dict[str, Any]], most: int | None = None) -> Loss:
    """Loss over packed windows (rows of `data/windows.py`), one window in memory at a time.

    Args:
        model: As in `log_probs`.
        windows: A sized collection of rows.
        most: Measure at most so many, spread evenly; None measures all.
    """
    import torch

    device = next(model.parameters()).device
    total = Loss()
    for row in evenly(windows, most):
        ids, labels, places = (
            torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)[None]
            for values in (row["input_ids"], row["labels"], positions(row["lengths"]))
        )
        total.nats -= float(log_probs(model, ids, labels, places).double().sum())
        total.tokens += int((labels[:, 1:] != -100).sum())
    return total


def text_windows(ids: np.ndarray, context: int) -> list[dict[str, Any]]:
    """Non-overlapping windows of exactly `context` tokens of one long text; its last, shorter rest is left out."""
    whole = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    return [{"input_ids": part, "labels": part, "lengths": [len(part)]} for part in whole]


def evenly(items: Any, most: int | None) -> list[Any]:  # noqa: ANN401 - any sized, indexable collection
    """At most `most` items, spread evenly over the collection, the first one among them."""
    if most is None or len(items) <= most:
        return [items[index] for index in range(len(items))]
    return [items[index * len(items) // most] for index in range(most)]
