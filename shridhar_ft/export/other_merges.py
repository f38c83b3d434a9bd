"""What the other ways to merge a QLoRA adapter would cost, measured on the run's own text, for the certificate.

The export merges onto the dequantised base, which is what was trained on. Merging onto the base as its author stored it
brings weights that the adapter never saw; merging into four bits rounds the sum and with it part of the update.
"""

from typing import TYPE_CHECKING, Any

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import load_adapter, load_weights, merged
from shridhar_ft.export.certificate import Places, compare, logits_at
from shridhar_ft.model.quantized import quantize
from shridhar_ft.model.rope import copied
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def merged_into_bits(
    weights: Weights,
    whole: "PreTrainedModel",
    text: "np.ndarray",
    trained: "torch.Tensor",
    where: Places,
) -> dict[str, dict[str, Any]]:
    """How far the answers of a merge into the quantised base lie off; {} where the last adapter is of a plain base.

    Args:
        weights: The run's, the last adapter included.
        whole: The merged model in float32; its layers are quantised here.
        text: Token ids, (T,).
        trained: Logits of base + adapter at `where`, (P, V).
        where: Positions.
    """
    own = AdapterBase.read(weights.adapters[-1])
    if own is None or own.quantization is None:
        return {}
    rounded = quantize(whole, own.quantization, next(whole.parameters()).device)
    return {f"merged into {own.quantization.type}": compare(trained, logits_at(rounded, text, where.all), where)}


def merged_onto_unquantised(
    weights: Weights,
    config: "PreTrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    text: "np.ndarray",
    trained: "torch.Tensor",
    where: Places,
    device: "torch.device",
    kernel: str,
) -> dict[str, dict[str, Any]]:
    """How far the answers of a merge onto the base as its author stored it lie off.

    Args:
        weights: The run's, the last adapter included.
        config: With the RoPE that was trained.
        tokenizer: The run's.
        text: Token ids, (T,).
        trained: Logits of base + adapter at `where`, (P, V).
        where: Positions.
        device: Where it computes.
        kernel: Attention, as the trained model's.
    """
    import torch

    beneath = Weights(weights.base, weights.revision, weights.adapters[:-1])
    base: Any = load_weights(beneath, copied(config), tokenizer, kernel, torch.float32)[0]
    plain = merged(load_adapter(base.to(device), weights.adapters[-1], trainable=False))
    return {"merged onto the unquantised base": compare(trained, logits_at(plain, text, where.all), where)}
