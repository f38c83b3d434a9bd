"""Peak memory of a training step, by formula: what a decoder's sizes, the window and the levers make of it.

    peak = process + weights + moments + max over the step's moments of (kept + gradients so far + what is worked on)

The moments: the loss is computed (every layer's kept tensors, the logits' buffer); the last layer goes backward (the
same, and one layer's tensors); the first layer goes backward (every gradient, one layer's tensors); the update. Letters
follow transformers' llama in eager mode; other decoders differ by a norm or two.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.model.loss import LOGITS_BYTES
from shridhar_ft.model.tiled_mlp import TILE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROCESS = 560 << 20  # bytes of a process that has imported torch, transformers and trl, before any tensor
CUDA_CONTEXT = 0  # of the GPU's memory, what a context takes is not free before and after
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


def sizes(tuning: Tuning, config: "PreTrainedConfig", trainable: int | None = None) -> Sizes:
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
    if trainable is None and tuning.method == "lora":
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
        intermediate=config.intermediate_size,
        head_trained=tuning.method == "full" or tuning.train_embeddings is True,
    )


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
    stored, lora = (2 if "bf16_weights" in levers else 4), tuning.method == "lora"
    of_trained = 4 if lora else stored
    weights = (size.total - size.trained) * stored + size.trained * of_trained
    gradients = size.trained * of_trained
    if tuning.optimizer == "adafactor":
        moments = 0.0  # rows and columns only
    elif "adamw_8bit" in levers:
        moments = QUANTIZED_MOMENTS * size.trained
    elif "paged_adamw_8bit" in levers:
        moments = 0.0
    else:
        moments = 2 * of_trained * size.trained

    made = 2 if bf16 else 4  # bytes of what a matrix product makes
    carried = 2 if bf16 and stored == 2 else 4  # bytes of the residual stream
    hidden, tiled = size.hidden, "tiled_mlp" in levers
    # What a norm and the layers that read it save, a token: its input, the scaled input, its output for each reader.
    copies = 3 if bf16 and carried == 4 else 1
    norm = hidden * (carried + (0 if tiled else 4) + copies * made)
    attended = made * size.queries + 4 * size.heads
    attention = made * (size.queries + 2 * size.keys) + attended
    mlp = 0 if tiled else 4 * made * size.intermediate
    layer = tokens * (2 * norm + attention + mlp)
    backward = 2 * carried * hidden + (0 if tiled else 3 * made * size.intermediate)
    tile = min(tokens, TILE) * size.intermediate * made * 7 + 4 * 3 * hidden * size.intermediate * 2 if tiled else 0
    working = tokens * backward + tile

    if "checkpointing" in levers:
        held = 0 if "recompute_attention" in levers else attended
        own = tokens * (carried * hidden + held)
        elsewhere = "offload_host" in levers or "offload_disk" in levers
        on_gpu = tokens * held if device == "cuda" else 0  # the selective policy keeps attention where it was made
        kept = on_gpu if elsewhere else own
        at_last = size.layers * kept + layer
        at_first = layer
    else:
        kept = layer
        at_last = size.layers * layer
        at_first = layer
    head_gradient = 4 * size.head if size.head_trained else 0
    logits = min(LOGITS_BYTES, tokens * made * (size.head // hidden))
    cast = made * size.head if made != stored else 0
    loss = size.layers * kept + tokens * hidden * (2 * carried + made + 4) + logits + head_gradient + cast
    turns = (
        loss,
        at_last + working + head_gradient,
        at_first + working + gradients + (head_gradient if size.head_trained else 0),
        gradients,
    )
    return int((PROCESS if device != "cuda" else CUDA_CONTEXT) + weights + moments + max(turns))
