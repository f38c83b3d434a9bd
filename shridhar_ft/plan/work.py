"""What a training step computes: operations by term, bytes that elementwise work moves, and the seconds they take.

a product of m × k and k × n counts 2mkn operations; attention counts each pair of tokens that see one another
forward 1, backward 2 (full weights) or 1 (frozen: only the gradient of what came in), recomputation as levers say
"""

from collections import defaultdict
from dataclasses import dataclass

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.machines import Machine
from shridhar_ft.plan.memory import TILE
from shridhar_ft.plan.shapes import Shape
from shridhar_ft.plan.sizes import Sizes

ATTENTION_BACKWARD = 2.5  # products of attention's backward pass to those of its forward: five to two
# Times that eager kernels read or write a number of one token, forward and backward, as torch's dispatcher counts them
# in llama's layer (tests/test_plan_work.py): norms; residuals; RoPE, of queries and keys; the MLP's gate; an
# adapter, of what its layer puts out.
NORMS, RESIDUALS, ROPE, GATE, ADAPTER = (14, 55), (6, 6), (10, 16), (5, 9), (5, 4)
IN_MLP = ("gate_proj", "up_proj", "down_proj")
LOGITS = 4  # the same of a logit, in the fused loss
UPDATE = 40  # bytes read and written a trained parameter in an update: clip, AdamW, clearing
IN_PLACE = 1 << 40  # stands for the size of tensors that stay, and are larger than any cache
OVERLAPPED = 0.5  # share of the exchange that hides behind the backward pass
STEP_SECONDS = 0.02  # around a step, whatever it computes: data, guards, log


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one optimizer step on one device."""

    linear: float
    """Operations of the decoder layers' matrix products, adapters included."""
    head: float
    """Operations of the output head and its loss."""
    attention: float
    """Operations of attention."""
    document: float
    """Tokens of a document; what attention's rate goes by."""
    moved: dict[int, float]
    """Bytes of a tensor → bytes that elementwise work on such tensors moves, and the update."""
    exchanged: float
    """Bytes that go to other devices."""
    passes: float
    """Passes over a layer."""

    @property
    def operations(self) -> float:
        return self.linear + self.head + self.attention


def pairs(length: float, window: int = 0) -> float:
    """Pairs of tokens of one document of which the later one sees the earlier, itself included.

    Args:
        length: Tokens of the document.
        window: Tokens that a token sees at most; 0 is all before it.
    """
    if not window or length <= window:
        return length * (length + 1) / 2
    return window * (window + 1) / 2 + (length - window) * window


def pairs_of_window(shape: Shape, window: int, document: float) -> list[float]:
    """Pairs in one window, for each layer.

    Args:
        shape: The model's, with what each layer sees.
        window: Tokens of the window.
        document: Mean length of what stands by itself in it, in tokens.
    """
    document = min(max(document, 1.0), window)
    return [window / document * pairs(document, sees) for sees in shape.windows]


def forward_work(size: Sizes, window: int, document: float) -> tuple[float, float, float]:
    """Operations of one forward pass over a window: layers, head, attention."""
    shape = size.shape
    attention = sum(4 * shape.queries * count for count in pairs_of_window(shape, window, document))
    return 2 * shape.linear * window, 2 * shape.head * window, attention


def step_work(
    size: Sizes,
    tuning: Tuning,
    window: int,
    document: float,
    levers: tuple[Lever, ...],
    device: str,
    bf16: bool,
    layout: Layout,
) -> Work:
    """What one device does in one optimizer step.

    Args:
        size: The model as it is trained.
        tuning: Method, batch size and accumulation.
        window: Tokens of a window.
        document: Mean length of what stands by itself in a window, in tokens.
        levers: Those that are on.
        device: Type of the device.
        bf16: Whether matrix products run in bf16.
        layout: Processes and what they share.
    """
    shape, full = size.shape, tuning.method == "full"
    layers, head, attention = forward_work(size, window, document)
    again = "checkpointing" in levers
    linear = layers * (3 if full else 2) + layers * again
    if "tiled_mlp" in levers and not again:
        mlp = 3 * shape.hidden * shape.intermediate * shape.layers
        linear += 2 * mlp * window
    adapters = 0 if full else max(0, size.trained - (shape.head if size.head_trained else 0))
    linear += 6 * adapters * window
    head *= (3 if size.head_trained else 2) + (device == "cuda")  # TRL's head computes the logits once more
    recomputed = again and ("recompute_attention" in levers)
    attention *= 1 + ATTENTION_BACKWARD + recomputed
    windows = tuning.batch_size * tuning.gradient_accumulation / layout.sequence
    return Work(
        linear=linear * windows,
        head=head * windows,
        attention=attention * windows,
        document=min(document, window),
        moved=_moved(size, tuning, window, levers, bf16, layout),
        exchanged=_exchanged(size, tuning, layout, bf16),
        passes=shape.layers * (3 + again) * tuning.batch_size * tuning.gradient_accumulation,
    )


def _moved(
    size: Sizes, tuning: Tuning, window: int, levers: tuple[Lever, ...], bf16: bool, layout: Layout
) -> dict[int, float]:
    """Bytes that elementwise work moves in a step, by the size of the tensors that it works on."""
    shape, made = size.shape, 2 if bf16 else 4
    again, tiled = "checkpointing" in levers, "tiled_mlp" in levers
    together = tuning.batch_size * window / layout.sequence  # tokens of a forward pass
    tile = min(together, TILE) if tiled else together
    layers = shape.layers
    kinds = [  # passes, numbers of a token, bytes of one, tokens of a tensor, forward passes, layers
        (NORMS, shape.hidden, 4, tile, 1 + again + tiled, layers),
        (RESIDUALS, shape.hidden, made, together, 1 + again, layers),
        (ROPE, shape.queries, made, together, 1 + again, layers),
        (ROPE, shape.keys, made, together, 1 + again, layers),
        (GATE, shape.intermediate, made, tile, 1 + (again or tiled), layers),
    ]
    if tuning.method != "full":
        kinds += [
            (ADAPTER, outputs, made, tile if name in IN_MLP else together, 1 + again, 1)
            for name, outputs in shape.adapted(tuning.targets)
        ]
    found: dict[int, float] = defaultdict(float)
    for (forward, backward), width, of_number, tokens, times, layered in kinds:
        moved = (forward * times + backward) * width * of_number * together * layered
        found[int(width * of_number * tokens)] += moved * tuning.gradient_accumulation
    found[IN_PLACE] += LOGITS * made * shape.vocabulary * together * tuning.gradient_accumulation
    found[IN_PLACE] += UPDATE * size.trained / (1 if layout.offload_optimizer else layout.shards)
    return dict(found)


def _exchanged(size: Sizes, tuning: Tuning, layout: Layout, bf16: bool) -> float:
    """Bytes that one device sends in a step: gradients, and with ZeRO-3 and FSDP weights for both passes."""
    if layout.processes == 1:
        return 0.0
    stored = 2 if bf16 and layout.deepspeed else 4
    of_gradients = 2 * stored * size.trained  # all-reduce, or reduce-scatter and a gather of the updated weights
    of_weights = 2 * stored * size.total * tuning.gradient_accumulation if layout.sharding in ("zero3", "fsdp") else 0
    return (of_gradients + of_weights) * (layout.processes - 1) / layout.processes


def step_seconds(
    work: Work, size: Sizes, machine: Machine, bf16: bool, processes_a_device: int = 1
) -> dict[str, float]:
    """Seconds of a step by term.

    Args:
        work: Of one device.
        size: The model as it is trained.
        machine: Whose rates.
        bf16: Whether matrix products run in bf16.
        processes_a_device: Processes that share a device: on a CPU all of them.
    """
    rates, dtype = machine.rates, "bf16" if bf16 else "fp32"
    rate = rates.matmul_at(dtype, size.shape.hidden)
    shared = processes_a_device
    terms = {
        "layers": work.linear / rate * shared,
        "head": work.head / rate * shared,
        "attention": work.attention / rates.attention_at(dtype, work.document) * shared,
        "memory": sum(moved / rates.memory_at(tensor) for tensor, moved in work.moved.items()) * shared,
        "exchange": work.exchanged / rates.link * (1 - OVERLAPPED),
    }
    # A GPU is handed its kernels while it computes: only what the computing does not hide counts.
    launching = work.passes * rates.layer
    hidden = sum(terms.values()) if machine.kind != "cpu" else 0.0
    terms["launching"] = max(0.0, launching - hidden)
    terms["around"] = STEP_SECONDS
    return terms
