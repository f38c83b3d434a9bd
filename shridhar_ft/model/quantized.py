"""A frozen base in 4 or 8 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), and back.

Quantised here, in memory, and not at loading: the vocabulary may have grown and earlier adapters been merged by then,
and the hash of the base is that of its own weights. Works on the CPU too (bitsandbytes).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from shridhar_ft.config_training import Tuning


@dataclass(frozen=True)
class Quantization:
    """How the linear layers of a frozen base are stored."""

    type: Literal["nf4", "int8"]
    double: bool = True
    """nf4: whether the scales of the blocks are quantised once more (0.4 bits a weight less)."""

    @classmethod
    def of(cls, tuning: "Tuning") -> "Self | None":
        """What a part's settings ask for; None where its base stays as it is."""
        if tuning.method != "qlora":
            return None
        return cls(tuning.quantization, tuning.double_quantization and tuning.quantization == "nf4")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.type}, scales quantised too" if self.double else self.type


def quantize(model: "PreTrainedModel", how: Quantization, device: torch.device) -> "PreTrainedModel":
    """Put every linear layer but the output head into 4 or 8 bits, in place, and freeze it.

    Embeddings, norms and the head keep their type: they are what a loss is most sensitive to, and the head's weight
    is read by the loss itself.

    Args:
        model: Without adapters.
        how: Type, and whether scales are quantised too.
        device: Where each layer is quantised and then stays; the rest of the model is moved there too.
    """
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                setattr(parent, name, _quantized(layer, how, device))
    # peft, accelerate and TRL look for these; `quantization_method` stays unset, as no quantiser of transformers is
    # in charge and would have to be asked for every cast.
    model.is_loaded_in_4bit = how.type == "nf4"
    model.is_loaded_in_8bit = how.type == "int8"
    if device.type == "cpu":  # elsewhere the move itself copies
        _leave_the_file(model)
    return model.to(device)


def _leave_the_file(model: nn.Module) -> None:
    """Copy what is left of a mapped weight file out of it.

    transformers' tensors are views of the mapping: a single norm that stays keeps the whole file mapped, and every page
    of the weights that were read to be quantised resident, 790 MB for 256 million parameters in float32.
    """
    quantised = {id(layer.weight) for layer in quantized_layers(model)}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in quantised:
            tensor.data = tensor.data.clone()


def _quantized(layer: nn.Linear, how: Quantization, device: torch.device) -> nn.Linear:
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    with torch.device("meta"):  # their constructors would fill a whole weight with random numbers first
        made: Any = (
            Linear4bit(*shape, compress_statistics=how.double, quant_type="nf4")
            if how.type == "nf4"
            else Linear8bitLt(*shape, has_fp16_weights=False)
        )
    weight = layer.weight.detach()
    if how.type == "nf4":
        made.weight = Params4bit(
            weight, requires_grad=False, compress_statistics=how.double, quant_type="nf4", module=made
        )
        # Where a processor has AVX512-BF16, bitsandbytes repacks a layer at its first forward pass without gradients,
        # and a repacked layer gives none: the isolation probe would freeze the training.
        made.support_avx512bf16_for_cpu = False
    else:
        made.weight = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        made.forward = partial(_int8_linear, made)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return made.to(device)


def _int8_linear(layer: Any, hidden: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - a layer of bitsandbytes
    """The weight as it is in 8 bits, what it is multiplied with unrounded, in training as in evaluation.

    bitsandbytes rounds both on a GPU, and on a CPU only in evaluation: the model that is certified would not be the
    one that was trained.
    """
    from bitsandbytes.autograd._functions import MatMul8bitFp

    # DoRA looks at the weight in every pass, by which peft makes a new parameter of it, without scales: those that
    # the state has already are then the only ones.
    if layer.weight.CB is not None and layer.weight.SCB is not None:
        layer.init_8bit_state()
    bias = None if layer.bias is None else layer.bias.to(hidden.dtype)
    return MatMul8bitFp.apply(hidden, layer.weight, None, bias, layer.state)


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Let 4-bit layers compute in this type; left alone they take that of the first tensor that comes along."""
    for layer in quantized_layers(model):
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype, layer.compute_type_is_set = dtype, True
            layer.weight.quant_state.dtype = dtype  # of the weight that is unpacked for a product


@contextmanager
def unmarked(model: nn.Module) -> Iterator[None]:
    """Hide, inside the block, that a base is quantised: TRL rounds the adapters on such a base to bf16 otherwise.

    In bf16 small updates of AdamW are lost, and an adapter handed over would not be the one that was trained.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    marks = {name: getattr(base, name) for name in ("is_loaded_in_4bit", "is_loaded_in_8bit") if hasattr(base, name)}
    for name in marks:
        setattr(base, name, False)
    try:
        yield
    finally:
        for name, value in marks.items():
            setattr(base, name, value)


def quantized_layers(model: nn.Module) -> list[Any]:
    """The layers whose weights lie in 4 or 8 bits."""
    return [module for module in model.modules() if _is_quantized(module)]


def plain_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of all but these layers' weights."""
    kept = {id(layer.weight) for layer in quantized_layers(model)}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in kept]


def _is_quantized(module: nn.Module) -> bool:
    # Not module.weight: an adapter around a layer shows the layer's weight as its own.
    return type(module._parameters.get("weight")).__name__ in ("Params4bit", "Int8Params")


def dequantize(model: "PreTrainedModel", dtype: torch.dtype) -> "PreTrainedModel":
    """The reverse of `quantize`: plain linear layers with the rounded weights, which are those that were trained on."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if _is_quantized(layer):
                with torch.device("meta"):
                    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                plain.weight = nn.Parameter(dequantized_weight(layer).to(dtype))
                if layer.bias is not None:
                    plain.bias = nn.Parameter(layer.bias.detach().to(dtype))
                setattr(parent, name, plain)
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
    return model


def dequantized_weight(layer: Any) -> torch.Tensor:  # noqa: ANN401 - a layer of bitsandbytes
    """The weight of a quantised layer as numbers, float32 (out, in).

    What it was quantised from may have been bf16, and bitsandbytes would give that back: a rounding that a product in
    float32 never saw.
    """
    from peft.utils.integrations import dequantize_bnb_weight

    if (state := getattr(layer.weight, "quant_state", None)) is not None:
        was, state.dtype = state.dtype, torch.float32
        try:
            return dequantize_bnb_weight(layer.weight)
        finally:
            state.dtype = was
    return dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))


def rounded(weight: torch.Tensor, how: Quantization) -> torch.Tensor:
    """A weight as a quantised layer computes with it, into 4 or 8 bits and back: float32 (out, in)."""
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return dequantized_weight(_quantized(layer, how, weight.device))
