"""Peak memory of a training step, by formula: a decoder's shape, the window, the levers and the layout, term by term.

    peak = what is there all the time (process, weights, optimizer, buffers) + the most of four instants:
        loss      what all layers keep, the buffer of logits
        last      what all layers keep, what one layer works on (the last, on the way back)
        first     every gradient, what one layer works on
        update    every gradient
    and with each of them the weights that autocast keeps in bf16, the holes in a CPU's heap, a GPU's fragments

What a layer keeps and works on is counted from transformers' llama in eager mode, with what other decoders norm beside
it. On a CPU it holds with the allocator set as allocator.py sets it: glibc's own habits add up to
a half.
"""

from dataclasses import dataclass

from shridhar_ft.allocator import LARGE
from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.shapes import Shape
from shridhar_ft.plan.sizes import QUANTIZED_MOMENTS, Sizes, optimizer_bytes, quantized_bits

MIB, GIB = 1 << 20, 1 << 30
PROCESS = 620 * MIB  # of a process that trains by TRL, model and tensors aside; 600 before the first step
UNPACKING = 100 * MIB  # what bitsandbytes loads beside it on a CPU, at the first product of quantised weights
CONTEXT = 600 * MIB  # of a GPU: CUDA's context and kernels, cuBLAS, NCCL
FRAGMENTED = 0.05  # of what comes and goes on a GPU: blocks that the allocator cannot reuse
HOLES = {"full": 0.4, "adapters": 0.9}
"""Share of what lies in glibc's heap (tensors under `LARGE` bytes) that it keeps in holes between them, on a CPU; small
outputs of adapters, which live as long as the layers', pin more of them. With every tensor mapped by itself 30 million
parameters by LoRA at 1,024 tokens peaked at 1.03 GiB, as the other terms say, and at 1.15 as they run."""
TILE = 1024  # tokens of an MLP's tile; matrix products run at full rate, and a tile stays in a CPU's cache
LOGITS_BYTES = 256 * MIB
"""Size of the one buffer of logits (bytes). Every chunk of tokens that fills it costs a pass over the gradient of the
weight: with a quarter of this a step is a fifth slower on AVX2 in fp32, with half of it no slower; where bf16 has units
of its own the pass weighs more against its products."""
SAVED = ("norms", "attention", "kv", "mlp")  # terms of a layer that last from its forward pass to its backward


@dataclass(frozen=True)
class Footprint:
    """What a step takes on one device, and what one process takes of its host beside that."""

    device: dict[str, int]
    """Term → bytes at the peak; on a CPU that is the process."""
    host: dict[str, int]
    """Term → bytes in the memory of the host, where the device has its own."""
    instant: str
    """When the peak is: loss, last, first or update."""

    @property
    def peak(self) -> int:
        return sum(self.device.values())

    @property
    def of_host(self) -> int:
        return sum(self.host.values())


def kept_bytes(size: Sizes, tokens: int, levers: tuple[Lever, ...], bf16: bool, device: str) -> dict[str, int]:
    """What all layers keep between the passes under checkpointing: their inputs, attention's outputs and log-sums."""
    shape = size.shape
    carried = 2 if bf16 else 4
    inputs = carried * shape.hidden
    attention = 0 if "recompute_attention" in levers else (2 if bf16 else 4) * shape.queries + 4 * shape.heads
    if "offload_host" in levers or "offload_disk" in levers:
        inputs = 0
        attention = attention if device == "cuda" else 0  # there the selective policy leaves it where it was made
    return {"checkpoints": shape.layers * tokens * inputs, "kept attention": shape.layers * tokens * attention}


def footprint(
    size: Sizes,
    tuning: Tuning,
    tokens: int,
    levers: tuple[Lever, ...],
    bf16: bool,
    device: str = "cpu",
    layout: Layout | None = None,
) -> Footprint:
    """Peak of a step.

    Args:
        size: The model's.
        tuning: Method and optimizer.
        tokens: Tokens of one forward pass of one replica (windows × batch_size).
        levers: Those that are on.
        bf16: Whether matrix products run in bf16.
        device: Type of the device.
        layout: Processes and what they share; None is one process.
    """
    layout = layout or Layout()
    shape, full, own = size.shape, tuning.method == "full", layout.deepspeed and bf16
    tokens = -(-tokens // layout.sequence)
    stored = 2 if "bf16_weights" in levers or own else 4  # bytes of a weight
    of_trained = stored if full or own else 4
    made = 2 if bf16 else 4  # bytes of what a matrix product makes
    carried = made  # bytes of the residual stream
    read = 2 if bf16 and stored == 2 else 4  # bytes of what the head reads
    static, host = _static(size, tuning, levers, layout, stored, of_trained, device, bf16)

    gradients = size.trained * of_trained
    head = 4 * shape.head if size.head_trained else 0  # its gradient is made with the loss, in float32
    worked = _layer(shape, full, tokens, levers, made, carried, of_trained)
    at_attention = _at_attention(shape, tokens, worked, made, carried, device)
    most = max(worked, at_attention, key=lambda terms: sum(terms.values()))
    if layout.sharding in ("zero2", "zero3", "fsdp"):  # a gradient goes to its owner as soon as it is made
        gradients = gradients // layout.shards
    casts = _cast(size, full, levers, tokens) if bf16 and stored == 4 and layout.sharding != "fsdp" else (0, 0, 0)
    if "checkpointing" in levers:
        kept = others = kept_bytes(size, tokens, levers, bf16, device)
    else:
        saved = {name: worked[name] for name in SAVED}
        kept = {f"{name} of all layers": shape.layers * count for name, count in saved.items()}
        others = {f"{name} of other layers": (shape.layers - 1) * count for name, count in saved.items()}
    loss = {
        "hidden states": tokens * shape.hidden * (2 * read + made + 4),
        "logits": min(LOGITS_BYTES, tokens * made * shape.vocabulary),
        "head's gradient": head,
        "head in bf16": made * shape.head if made != stored else 0,
    }
    instants = {
        "loss": kept | loss | {"layers in bf16": casts[0]},
        "last": others | most | {"layers in bf16": casts[1], "head's gradient": head},
        "first": most | {"layers in bf16": casts[2], "gradients": gradients, "head's gradient": head},
        "update": {"gradients": gradients},
    }
    if device == "cpu":
        share = HOLES["full" if full else "adapters"]
        for terms in instants.values():
            terms["holes in the heap"] = int(share * _in_heap(shape, terms, tokens, made, carried))
    instant = max(instants, key=lambda name: sum(instants[name].values()))
    comes = instants[instant]
    terms = {**static, **comes}
    if device == "cuda":
        moving = sum(bytes_ for name, bytes_ in comes.items() if name != "gradients")
        terms["fragmentation"] = int(FRAGMENTED * moving)
        offloaded = kept_bytes(size, tokens, tuple(n for n in levers if n != "offload_host"), bf16, device)
        host["checkpoints"] = offloaded["checkpoints"] if "offload_host" in levers else 0
    return Footprint({k: v for k, v in terms.items() if v}, {k: v for k, v in host.items() if v}, instant)


def _layer(
    shape: Shape, full: bool, tokens: int, levers: tuple[Lever, ...], made: int, carried: int, of_trained: int
) -> dict[str, int]:
    """What one layer saves and works on in its backward pass, by term."""
    hidden, tiled = shape.hidden, "tiled_mlp" in levers
    # Saved a token. A norm: its input, the scaled input, its output as each of its readers casts it.
    readers = 3 if made == 2 and carried == 4 else 1
    norm = hidden * (carried + (0 if tiled else 4) + readers * made)
    others = (shape.normed - 2 * hidden) * (made + 4)  # of queries and keys, and of what goes back: nothing casts those
    if shape.whole_norms:  # what is multiplied by the weight is kept in float32
        others += (shape.normed - (2 * hidden if tiled else 0)) * (4 - made)
    # Beside it in the backward pass: the gradients on their way, and the MLP's, or a tile's.
    weight = 3 * hidden * shape.intermediate
    if tiled:
        inside = min(tokens, TILE) * 6 * made * shape.intermediate + (2 * 4 * weight if full else 0)
    else:
        inside = tokens * 2 * made * shape.intermediate + (of_trained * weight if full else 0)
    return {
        "norms": tokens * (2 * norm + others),
        "attention": tokens * (made * 2 * shape.queries + 4 * shape.heads),
        "kv": tokens * made * 2 * shape.keys,
        "mlp": 0 if tiled else tokens * 4 * made * shape.intermediate,  # gate, its activation, up, their product
        "on the way back": tokens * 2 * carried * hidden + inside,
    }


def _at_attention(
    shape: Shape, tokens: int, worked: dict[str, int], made: int, carried: int, device: str
) -> dict[str, int]:
    """The same while attention's own backward pass works, the MLP's tensors being gone."""
    gradients = made * (2 * shape.queries + 2 * shape.keys)
    if device == "cuda":
        # FlashAttention sums queries' gradient in float32, and makes keys' and values' for every head before adding.
        gradients += 4 * shape.queries + (2 * made * shape.queries if shape.keys < shape.queries else 0)
    return {
        "norms": worked["norms"] // 2,
        "attention": worked["attention"],
        "kv": worked["kv"],
        "attention on the way back": tokens * gradients,
        "on the way back": tokens * 2 * carried * shape.hidden,
    }


def _cast(size: Sizes, full: bool, levers: tuple[Lever, ...], tokens: int) -> tuple[int, int, int]:
    """Bytes of the layers' weights that autocast has made in bf16 of float32, at the loss, in the last and the first.

    Its cache holds those of trained weights until the forward pass ends; a graph holds those that its backward pass
    needs, and neither checkpointed layers nor an MLP in tiles have one.
    """
    shape = size.shape
    if size.quantized:
        return 0, 0, 0
    whole, layer = 2 * shape.linear, 2 * shape.linear // shape.layers
    mlps = 2 * 3 * shape.hidden * shape.intermediate * shape.layers if "tiled_mlp" in levers and tokens > TILE else 0
    in_graph = layer if "checkpointing" in levers else max(layer, whole - mlps)
    return (whole if full else in_graph), in_graph, layer


def _in_heap(shape: Shape, comes: dict[str, int], tokens: int, made: int, carried: int) -> int:
    """Bytes of a layer's activations whose tensors lie in the heap.

    The term ends where a tensor outgrows the heap, as the holes do: a window a little longer can peak lower.
    """
    widest = {  # bytes of a token, in the largest tensors of a term
        "norms": 4 * shape.hidden,
        "checkpoints": carried * shape.hidden,
        "kept attention": made * shape.queries,
        "attention": made * shape.queries,
        "kv": made * shape.keys,
        "mlp": made * shape.intermediate,
    }
    small = tuple(name for name, width in widest.items() if tokens * width < LARGE)
    return sum(bytes_ for term, bytes_ in comes.items() if term.startswith(small))


def _static(
    size: Sizes,
    tuning: Tuning,
    levers: tuple[Lever, ...],
    layout: Layout,
    stored: int,
    of_trained: int,
    device: str,
    bf16: bool,
) -> tuple[dict[str, int], dict[str, int]]:
    """What is there all the time, on the device and on the host."""
    shards, frozen = layout.shards, size.total - size.trained - size.quantized
    whole = frozen * stored + size.trained * of_trained
    cut = layout.sharding in ("zero3", "fsdp")
    weights = whole // shards if cut else whole
    quantized = int(size.quantized * quantized_bits(tuning) / 8)
    moments = optimizer_bytes(size, tuning, levers, 4 if layout.deepspeed else of_trained) // shards
    masters = 4 * size.trained // shards if layout.deepspeed else 0  # DeepSpeed keeps a float32 copy of its part
    device_terms = {
        "process": CONTEXT if device == "cuda" else PROCESS + (UNPACKING if size.quantized else 0),
        "weights": 0 if layout.offload_weights else weights,
        "quantised weights": quantized,
        "optimizer": 0 if layout.offload_optimizer else moments + masters,
        "gathered weights": _gathered(size, layout, stored, bf16),
        "buffers": _buffers(size, layout, of_trained, device),
    }
    host_terms = {
        "process": PROCESS if device == "cuda" else 0,
        "weights": weights if layout.offload_weights else 0,
        "optimizer": moments + masters + 4 * size.trained // shards if layout.offload_optimizer else 0,
    }
    if "paged_adamw_8bit" in levers:
        host_terms["optimizer"] = int(QUANTIZED_MOMENTS * size.trained)
    if device != "cuda":  # one memory: what is offloaded lies in the process all the same
        device_terms["weights"] += host_terms.pop("weights")
        device_terms["optimizer"] += host_terms.pop("optimizer")
    return device_terms, host_terms


def _gathered(size: Sizes, layout: Layout, stored: int, bf16: bool) -> int:
    """Weights that are put together for the layers at work."""
    shape = size.shape
    if layout.sharding == "zero3":  # what is used again within `live` numbers stays: a small model as a whole
        return min(size.total, layout.live) * stored
    if layout.sharding == "fsdp":  # the layer at work, the next one on its way, and the root: embedding, head
        return (2 * shape.linear // shape.layers + shape.head * (1 if shape.tied else 2)) * (2 if bf16 else stored)
    return 0


def _buffers(size: Sizes, layout: Layout, of_trained: int, device: str) -> int:
    """Gradients on their way between processes."""
    if layout.sharding == "ddp":  # the buckets hold every gradient once more
        return size.trained * of_trained
    if layout.deepspeed:
        three = layout.sharding == "zero3"  # its `overlap_comm` is a stream, and no second buffer
        numbers = layout.bucket * (2 if layout.overlap and not three else 1)
        # A GPU's are made whole; a CPU's memory is taken page by page, as they fill.
        filled = numbers if device == "cuda" else min(numbers, size.trained)
        if three:  # a bucket is put in its owners' order in a copy; gloo reduces in one more
            filled += min(layout.bucket, size.trained) * (1 if device == "cuda" else 2)
        return of_trained * filled
    return 0
