"""The levers that save memory: what each is, which go together, and which are on.

    checkpointing        keep each layer's input, compute the layer again in the backward pass; attention is kept
    tiled_mlp            the MLP over tiles of the sequence: its intermediates exist for one tile only
    recompute_attention  with checkpointing: attention is computed again too
    offload_host         with checkpointing, CUDA: each layer's input lies in pinned host memory
    offload_disk         with checkpointing: each layer's input lies in a file, on a CPU and MPS its attention too
    compile              torch.compile of MLPs and norms: fewer passes over memory, for speed; `auto` is about what fits
                         and leaves it out
    adamw_8bit           AdamW's moments in one byte each (bitsandbytes); changes numbers
    paged_adamw_8bit     the same, moved to host memory when the GPU is full; CUDA; changes numbers
    bf16_weights         weights, gradients and moments in bf16, updates rounded stochastically; changes numbers

Exact means: the numbers are those without the lever, up to the order of sums.
"""

from dataclasses import asdict, dataclass
from typing import Any

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.errors import UserError

NEED_CHECKPOINTING: tuple[Lever, ...] = ("recompute_attention", "offload_host", "offload_disk")
OPTIMIZERS: tuple[Lever, ...] = ("adamw_8bit", "paged_adamw_8bit", "bf16_weights")  # each brings an AdamW of its own
INEXACT = OPTIMIZERS


@dataclass(frozen=True)
class Levers:
    """The levers of a part, in the order in which they were turned on."""

    names: tuple[Lever, ...] = ()
    why: tuple[str, ...] = ()
    """Sentences for the log: one a lever, then one on what was estimated."""
    before: int = 0
    """Estimated peak of the process without any lever, in bytes (of the GPU on CUDA)."""
    after: int = 0
    """Estimated peak with these levers, in bytes."""
    limit: int = 0
    """What may be filled, in bytes."""

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it; a resumed part goes on with these and does not choose again."""
        return {**asdict(self), "names": list(self.names), "why": list(self.why)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Levers":
        """The reverse of `as_dict`."""
        return cls(**{**stored, "names": tuple(stored["names"]), "why": tuple(stored["why"])})


def check_levers(names: tuple[Lever, ...], tuning: Tuning, device: str, sharded: str | None = None) -> None:
    """Refuse levers that do not go together, or that would do nothing here.

    Args:
        names: Levers that are wanted.
        tuning: Method and optimizer of the part.
        device: Type of the device that it trains on: cpu, cuda or mps.
        sharded: What shards the optimizer, as `sharding` says it.

    Raises:
        UserError: The first that cannot be, by name.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"memory: {name} stands there twice; once is enough")
    for name in NEED_CHECKPOINTING:
        if name in names and "checkpointing" not in names:
            raise UserError(f"memory: {name} is about what checkpointing keeps; add checkpointing, or take it out")
    # With adapters only the frozen base becomes bf16, which leaves the optimizer as it is.
    both = [name for name in OPTIMIZERS if name in names and not (name == "bf16_weights" and tuning.method != "full")]
    if len(both) > 1:
        raise UserError(f"memory: {' and '.join(both)} each bring an AdamW of their own; keep one of them")
    if both and tuning.optimizer != "adamw":
        raise UserError(
            f"memory: {both[0]} is a kind of AdamW, and the optimizer is {tuning.optimizer}; drop one of them"
        )
    if "offload_host" in names and "offload_disk" in names:
        raise UserError("memory: offload_host and offload_disk put the same tensors in two places; keep one of them")
    if device != "cuda":
        if "offload_host" in names:
            raise UserError(f"memory: offload_host does nothing on {device}, it is host memory; take offload_disk")
        if "paged_adamw_8bit" in names:
            raise UserError("memory: paged_adamw_8bit needs CUDA (elsewhere it is not paged); take adamw_8bit")
    if device == "mps" and "adamw_8bit" in names:
        raise UserError("memory: adamw_8bit has no kernels for MPS (bitsandbytes); take bf16_weights")
    if sharded is not None:
        if "bf16_weights" in names:
            raise UserError(f"memory: bf16_weights under {sharded}, which keeps weights of its own; take it out")
        if both:
            raise UserError(f"memory: {both[0]} under {sharded}, which shards the optimizer itself; take it out")
        if "tiled_mlp" in names and sharded == "DeepSpeed ZeRO-3":
            raise UserError("memory: tiled_mlp under DeepSpeed ZeRO-3, whose parameters are not whole; take ZeRO-2")
