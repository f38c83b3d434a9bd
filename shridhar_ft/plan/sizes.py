"""A model as a method trains it: what is trained, what lies in 4 or 8 bits, what the optimizer keeps."""

from dataclasses import dataclass

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.shapes import Shape

QUANTIZED_MOMENTS = 2.1  # bytes a parameter: two moments of one byte, and a scale for each block
BITS = {"nf4": 4.0, "int8": 8.0}
SCALE_BITS = {("nf4", True): 8 / 64 + 32 / (64 * 256), ("nf4", False): 32 / 64, ("int8", False): 0.05}


@dataclass(frozen=True)
class Sizes:
    """A model as a method trains it."""

    shape: Shape
    total: int
    """Parameters, adapters included."""
    trained: int
    """Parameters that are trained."""
    quantized: int
    """Weights that lie in 4 or 8 bits."""
    head_trained: bool


def sizes_of(shape: Shape, tuning: Tuning, grown: bool = False, trainable: int | None = None) -> Sizes:
    """What a method makes of a shape.

    Args:
        shape: The model's.
        tuning: Method, rank, targets, what is trained whole.
        grown: Whether the tokenizer brings new tokens, whose rows `train_embeddings: auto` trains.
        trainable: Trained parameters, where they are known.
    """
    if tuning.method == "full":
        return Sizes(shape, shape.total, trainable or shape.total, 0, True)
    whole = grown if tuning.train_embeddings == "auto" else tuning.train_embeddings
    if trainable is None:
        trainable = shape.adapters(tuning.rank, tuning.targets, tuning.dora)
        trainable += shape.head * (1 if shape.tied else 2) if whole else 0
        trainable += shape.norms if tuning.train_norms else 0
    quantized = shape.linear if tuning.method == "qlora" else 0
    return Sizes(shape, shape.total + trainable, trainable, quantized, whole)


def quantized_bits(tuning: Tuning) -> float:
    """Bits of one weight of a quantised base, its share of the scales included."""
    double = tuning.quantization == "nf4" and tuning.double_quantization
    return BITS[tuning.quantization] + SCALE_BITS[(tuning.quantization, double)]


def optimizer_bytes(size: Sizes, tuning: Tuning, levers: tuple[Lever, ...], of_trained: int) -> int:
    """Bytes of the optimizer's state, whole.

    Args:
        size: The model's.
        tuning: Which optimizer.
        levers: Those that make it smaller.
        of_trained: Bytes of a trained weight, whose type its moments have.
    """
    if tuning.optimizer == "adafactor" or "paged_adamw_8bit" in levers:  # rows and columns only; in host memory
        return 0
    if "adamw_8bit" not in levers:
        return 2 * of_trained * size.trained
    whole = min(size.shape.head, size.trained) if size.head_trained else 0  # embeddings keep float32 moments
    return int(8 * whole + QUANTIZED_MOMENTS * (size.trained - whole))
