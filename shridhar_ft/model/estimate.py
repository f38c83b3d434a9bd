"""Peak memory of a training step, by formula: what a decoder's sizes, the window and the levers make of it.

    peak = process + weights + optimizer's state + the most of four instants:
        the loss             what all layers keep, the buffer of logits
        the last layer back  what all layers keep, what one layer works on
        the first layer back every gradient, what one layer works on
        the update           every gradient

What a layer keeps and works on is counted from transformers' llama in eager mode; other decoders differ by a norm or
two. It holds with the allocator set as memory.use_huge_pages sets it: glibc's own habits add up to a half.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.model.loss import LOGITS_BYTES
from shridhar_ft.model.tiled_mlp import TILE, layer_without_mlp

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROCESS = 540 << 20  # bytes of a process that has imported torch, transformers and trl, before any tensor
QUANTIZED_MOMENTS = 2.1  # bytes a parameter: two moments of one byte, and a scale for each block


@dataclass(frozen=True)
class Sizes:
    """What of a model the estimate hangs on."""

    total: int
    """Parameters, adapters included."""
    trained: int
    """Parameters that are trained."""
    head: int
    """Parameters of the output head (tied or not)."""
    layers: int
    hidden: int
    queries: int
    """Heads × head dimension."""
    keys: int
    """Key/value heads × head dimension."""
    heads: int
    intermediate: int
    head_trained: bool
    tiles: bool
    """Whether every layer has an MLP that works token by token."""


def model_sizes(tuning: Tuning, config: "PreTrainedConfig", trainable: int | None = None) -> Sizes:
    """Count a model's parameters without making it.

    Args:
        tuning: Method, LoRA rank and targets.
        config: The model's.
        trainable: Trained parameters, where they are known; LoRA's are otherwise counted from rank and targets.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings()
    if trainable is None and tuning.method != "full":
        trainable = sum(
            tuning.rank * (module.in_features + module.out_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and module is not head
            and (tuning.targets == "all-linear" or name.split(".")[-1] in tuning.targets)
        ) + (head.weight.numel() if tuning.train_embeddings is True else 0)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Sizes(
        total=total if tuning.method == "full" else total + (trainable or 0),
        trained=total if trainable is None else trainable,
        head=head.weight.numel(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        queries=config.num_attention_heads * dim,
        keys=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * dim,
        heads=config.num_attention_heads,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        head_trained=tuning.method == "full" or tuning.train_embeddings is True,
        tiles=layer_without_mlp(model) is None,
    )


def kept_bytes(
    size: Sizes, tokens: int, bf16: bool, device: str, levers: tuple[Lever, ...] = ("checkpointing",)
) -> int:
    """What all layers keep between the passes under checkpointing: inputs, attention's outputs and log-sums."""
    carried = 2 if bf16 and "bf16_weights" in levers else 4
    inputs = carried * size.hidden
    attention = 0 if "recompute_attention" in levers else (2 if bf16 else 4) * size.queries + 4 * size.heads
    if "offload_host" in levers or "offload_disk" in levers:
        inputs = 0
        attention = attention if device == "cuda" else 0  # there the selective policy leaves it where it was made
    return size.layers * tokens * (inputs + attention)


def peak_bytes(
    size: Sizes, tuning: Tuning, tokens: int, levers: tuple[Lever, ...], bf16: bool, device: str = "cpu"
) -> int:
    """Peak of the process (on CUDA: of the GPU's memory), in bytes.

    Args:
        size: The model's.
        tuning: Method and optimizer.
        tokens: Tokens of one forward pass.
        levers: Those that are on.
        bf16: Whether matrix products run in bf16.
        device: Type of the device.
    """
    stored, full = 2 if "bf16_weights" in levers else 4, tuning.method == "full"
    of_trained = stored if full else 4
    weights = (size.total - size.trained) * stored + size.trained * of_trained
    gradients = size.trained * of_trained
    moments = _moments(size, tuning, levers, of_trained)

    made = 2 if bf16 else 4  # bytes of what a matrix product makes
    carried = 2 if bf16 and stored == 2 else 4  # bytes of the residual stream
    hidden, tiled = size.hidden, "tiled_mlp" in levers
    # Saved a token. A norm: its input, the scaled input, its output as each of its readers casts it.
    readers = 3 if bf16 and carried == 4 else 1
    norm = hidden * (carried + (0 if tiled else 4) + readers * made)
    attention = made * (2 * size.queries + 2 * size.keys) + 4 * size.heads
    mlp = 0 if tiled else 4 * made * size.intermediate  # gate, its activation, up, their product
    layer = tokens * (2 * norm + attention + mlp)
    # Beside it in the backward pass: the gradients on their way, and the MLP's, or a tile's.
    weight = 3 * hidden * size.intermediate
    if tiled:
        inside = min(tokens, TILE) * 6 * made * size.intermediate + (2 * 4 * weight if full else 0)
    else:
        inside = tokens * 2 * made * size.intermediate + (of_trained * weight if full else 0)
    worked_on = layer + tokens * 2 * carried * hidden + inside

    kept = kept_bytes(size, tokens, bf16, device, levers) if "checkpointing" in levers else (size.layers - 1) * layer
    head = 4 * size.head if size.head_trained else 0  # its gradient is made with the loss, in float32
    logits = min(LOGITS_BYTES, tokens * made * (size.head // hidden))
    cast = made * size.head if made != stored else 0
    loss = kept + tokens * hidden * (2 * carried + made + 4) + logits + head + cast
    last, first = kept + worked_on + head, worked_on + gradients + head
    return (PROCESS if device != "cuda" else 0) + weights + moments + max(loss, last, first, gradients)


def _moments(size: Sizes, tuning: Tuning, levers: tuple[Lever, ...], of_trained: int) -> int:
    """Bytes of the optimizer's state."""
    if tuning.optimizer == "adafactor" or "paged_adamw_8bit" in levers:  # rows and columns only; in host memory
        return 0
    if "adamw_8bit" not in levers:
        return 2 * of_trained * size.trained
    whole = min(size.head, size.trained) if size.head_trained else 0  # embeddings keep float32 moments
    return int(8 * whole + QUANTIZED_MOMENTS * (size.trained - whole))
