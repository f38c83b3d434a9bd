"""Merges adapters into a base tensor by tensor: one tensor and its update in memory, whatever the model's size.

plan = plan_merge(weights, config, tokenizer)      # reads headers, checks that everything fits
plan.write(folder, "bfloat16", 4_000_000_000)      # reads, merges, casts and writes, one tensor at a time
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from shridhar_ft.errors import CheckFailed, UserError
from shridhar_ft.export.deltas import Adapter
from shridhar_ft.export.tensors import Planned, Stored, local_folder, write_shards
from shridhar_ft.model.build import end_names, update_hash
from shridhar_ft.model.rope import copied
from shridhar_ft.model.text_part import text_names
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass
class Plan:
    """What will be written, and from what."""

    tensors: list[Planned]
    adapters: list[Adapter]
    architecture: str
    """Name of the model's class, for config.json."""
    vocab_size: int
    """Rows of the embeddings, added ones included."""
    beneath: "Mapping[str, Callable[[], torch.Tensor]]"
    """What the last adapter was trained on, tensor by tensor: the ones before it merged, rounded as it was."""
    ignored: list[str] = field(default_factory=list)
    """Tensors of the base's files that the model has no use for."""
    unknown_base: list[Path] = field(default_factory=list)
    """Adapters that do not say by hash which base they belong to."""

    def bytes(self, dtype: str) -> int:
        """Bytes of all tensors in this type."""
        return sum(tensor.bytes(dtype) for tensor in self.tensors)

    def write(self, folder: Path, dtype: str, shard_bytes: int) -> list[Path]:
        """Merge and write the weights.

        Raises:
            CheckFailed: An adapter has tensors that fit nothing, or its update is not finite.
        """
        files = write_shards(folder, self.tensors, dtype, shard_bytes)
        for adapter in self.adapters:
            adapter.check_all_used()
        return files


def plan_merge(weights: Weights, config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> Plan | str:
    """Look at the headers of a base and its adapters, and check that they belong together.

    Args:
        weights: A base, and adapters in their order.
        config: With the RoPE that is wanted.
        tokenizer: Tokens that it has beyond the base get rows of their own.

    Returns:
        The plan, or the reason why these cannot be merged tensor by tensor.

    Raises:
        UserError: Base or adapter are not there, or do not belong together.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = local_folder(weights.base, weights.revision)
    adapters = [Adapter(Path(adapter)) for adapter in weights.adapters]
    for adapter in adapters:
        if features := adapter.other_features():
            return f"{adapter.folder} has {', '.join(features)}"
    base = _base(folder)
    stored = AutoConfig.from_pretrained(folder).get_text_config()
    wanted = copied(config, vocab_size=stored.vocab_size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(wanted, attn_implementation="sdpa")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}  # tied ones once
    if absent := [name for name in shapes if name not in base.files]:
        return f"the files of {weights.base} name their tensors otherwise than the model does (no {absent[0]})"
    for name, shape in shapes.items():
        if base.shape(name) != shape:
            raise UserError(
                f"{folder}: {name} has the shape {list(base.shape(name))}, and the config wants {list(shape)}; "
                "wrong folder?"
            )
    kept = _type_in_memory(stored, base)
    hashes = _check_bases(adapters, base, sorted(shapes), kept)
    embeddings, head = (f"{name}.weight" for name in end_names(model))
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and f"{name}.weight" != head
    }
    tied = head not in shapes
    if tied:
        _check_one_head(adapters, embeddings, head)
    rows = shapes[embeddings][0]
    added = max(len(tokenizer) - rows, 0)
    planned, beneath = [], {}
    for name in (name for name in base.names() if name in shapes):
        grows = added if name in (embeddings, head) else 0
        shape = (shapes[name][0] + grows, *shapes[name][1:])
        tensor = _Tensor(base, kept, adapters, name, grows, name in linear)
        planned.append(Planned(name, shape, tensor.merged))
        beneath[name] = tensor.beneath_last
    return Plan(
        planned,
        adapters,
        type(model).__name__,
        rows + added,
        beneath,
        ignored=[name for name in base.names() if name not in shapes and not (tied and name == head)],
        unknown_base=[adapter.folder for adapter in adapters if adapter.own is None] if not hashes else [],
    )


def _base(folder: Path) -> Stored:
    """The weights of a base; adapters that lie beside them are none of them."""
    # Of a base that sees images too, the text model alone, by its own names: as `load_model` loads it.
    return Stored(folder, "model*.safetensors", text_names(folder))


def _type_in_memory(stored: "PreTrainedConfig", base: Stored) -> "torch.dtype":
    """The type that transformers loads a base in when it is told `auto`: the config's, else the first tensor's."""
    import torch

    if stored.dtype is not None:
        return getattr(torch, str(stored.dtype).removeprefix("torch."))
    return base.read(base.names()[0]).dtype


@dataclass(frozen=True)
class _Tensor:
    """One tensor of a base, to be read and merged when it is asked for."""

    base: Stored
    kept: "torch.dtype"
    """The type that training had it in."""
    adapters: list[Adapter]
    name: str
    grows: int
    """Rows that it gets beyond the base's, the mean of those (as `grow_vocabulary` has it)."""
    linear: bool

    def merged(self) -> "torch.Tensor":
        """With its new rows and all updates."""
        return self._with(self.adapters)

    def beneath_last(self) -> "torch.Tensor":
        """As the last adapter found it; without adapters, as the base has it."""
        tensor = self._with(self.adapters[:-1])
        return self.adapters[-1].beneath(tensor, self.linear) if self.adapters else tensor

    def _with(self, adapters: list[Adapter]) -> "torch.Tensor":
        import torch

        tensor = self.base.read(self.name).to(self.kept)
        if self.grows:
            tensor = torch.cat([tensor, tensor.mean(dim=0, keepdim=True).expand(self.grows, -1)])
        for adapter in adapters:
            tensor = adapter.apply(self.name, tensor, self.linear)
        return tensor


def _check_bases(adapters: list[Adapter], base: Stored, names: list[str], kept: "torch.dtype") -> bool:
    """Refuse adapters of another base, by hash; whether every adapter could be checked."""
    from shridhar_ft.model.build import safetensors_hash

    if not any(adapter.own for adapter in adapters):
        return not adapters
    digest = xxhash.xxh3_128()
    for name in names:
        update_hash(digest, name, base.read(name).to(kept))
    beneath: tuple[str, ...] = ()
    for adapter in adapters:
        if adapter.own is not None:
            adapter.own.check(adapter.folder, digest.hexdigest(), beneath)
        beneath = (*beneath, safetensors_hash(adapter.folder))
    return all(adapter.own for adapter in adapters)


def _check_one_head(adapters: list[Adapter], embeddings: str, head: str) -> None:
    """A tied base has one matrix for both ends: an adapter that trained two of them cannot be merged into it."""
    import torch

    for adapter in adapters:
        top = adapter.whole(head)
        bottom: Any = adapter.whole(embeddings)
        if top is not None and (bottom is None or not torch.equal(top, bottom)):
            raise CheckFailed(
                f"{adapter.folder}: it trained an output head of its own, and the base ties head and embeddings; train "
                "with ensure_weight_tying (train_embeddings in our recipes)"
            )
