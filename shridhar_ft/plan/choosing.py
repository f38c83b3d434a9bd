"""Which levers a step needs to fit: the exact ones first, the cheapest first, those that save nothing left out."""

from dataclasses import dataclass

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import OPTIMIZERS, check_levers
from shridhar_ft.plan.memory import GIB, Footprint, footprint, kept_bytes
from shridhar_ft.plan.sizes import Sizes

FILLED = 0.9  # of what is free: the formula is right to about a seventh
WORTH = 0.01  # share of the peak that a lever must save to be turned on

# The cheapest first. On a CPU a layer takes seconds and its tensors' way to a disk a fraction of one; a GPU has a layer
# done before a disk has turned, but pinned host memory keeps up with it.
EXACT: dict[str, tuple[Lever, ...]] = {
    "cpu": ("tiled_mlp", "checkpointing", "offload_disk", "recompute_attention"),
    "mps": ("tiled_mlp", "checkpointing", "recompute_attention", "offload_disk"),
    "cuda": ("tiled_mlp", "checkpointing", "offload_host", "recompute_attention"),
}
COSTS: dict[Lever, str] = {
    "tiled_mlp": "the MLP's forward once more, or nothing where checkpointing computes it again anyway",
    "checkpointing": "each layer's forward once more, attention left out",
    "offload_host": "copies over the bus",
    "offload_disk": "each layer's input and attention written and read once",
    "recompute_attention": "attention's forward once more",
    "adamw_8bit": "a slower update, and other numbers: moments of one byte",
    "paged_adamw_8bit": "the same, and moments that come over the bus where the GPU is full",
    "bf16_weights": "other numbers: weights and moments of two bytes, updates rounded stochastically",
}


@dataclass(frozen=True)
class Step:
    """One optimizer step's forward and backward pass, as far as memory goes."""

    size: Sizes
    tuning: Tuning
    tokens: int
    """Of one forward pass of one replica."""
    bf16: bool
    device: str
    layout: Layout

    def footprint(self, levers: tuple[Lever, ...] = ()) -> Footprint:
        """What the step takes with these levers."""
        return footprint(self.size, self.tuning, self.tokens, levers, self.bf16, self.device, self.layout)

    def peak(self, levers: tuple[Lever, ...] = ()) -> int:
        """Bytes on the device at the peak."""
        return self.footprint(levers).peak

    def goes(self, levers: tuple[Lever, ...]) -> bool:
        """Whether these levers may be on together here."""
        if "tiled_mlp" in levers and not self.size.shape.tiles:
            return False
        try:
            check_levers(levers, self.tuning, self.device, self.layout.shards_name)
        except UserError:
            return False
        return True


def exact_levers(step: Step, host_bytes: int) -> tuple[Lever, ...]:
    """The levers that change no number, the cheapest first; a disk stands in for a host that is too small.

    Args:
        step: The step.
        host_bytes: What is free of the host's memory, for one device.
    """
    order = EXACT.get(step.device, EXACT["cpu"])
    kept = sum(kept_bytes(step.size, step.tokens, (), step.bf16, step.device).values())
    if step.device == "cuda" and kept > 0.5 * host_bytes:
        return tuple("offload_disk" if name == "offload_host" else name for name in order)
    return order


def as_needed(step: Step, limit: int, host_bytes: int) -> tuple[tuple[Lever, ...], list[str]]:
    """Turn on one lever after another until the step fits.

    Args:
        step: The step.
        limit: Bytes of the device that may be filled.
        host_bytes: What is free of the host's memory, for one device.

    Returns:
        The levers in the order in which they were turned on, and a sentence on each; they may not be enough.
    """
    names: tuple[Lever, ...] = ()
    sentences: dict[Lever, str] = {}
    paged: tuple[Lever, ...] = ("paged_adamw_8bit",) if step.device == "cuda" else ()
    inexact: tuple[Lever, ...] = ("adamw_8bit", *paged, "bf16_weights")
    if step.layout.shards_name is not None:  # it divides weights and moments itself
        inexact = ()
    for name in (*exact_levers(step, host_bytes), *inexact):
        with_it = (*names, name)
        if name in OPTIMIZERS and (name != "bf16_weights" or step.tuning.method == "full"):
            with_it = (*(other for other in names if other not in OPTIMIZERS), name)  # each brings its own AdamW
        if step.peak(names) <= limit:
            break
        if not step.goes(with_it):
            continue
        saved = step.peak(names) - step.peak(with_it)
        if saved > WORTH * step.peak(names):
            names = with_it
            sentences[name] = f"memory: {name} saves {saved / GIB:.1f} GiB; its cost: {COSTS[name]}"
    return names, [sentences[name] for name in names]
