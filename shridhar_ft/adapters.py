"""Adapters: attach LoRA, load it on the base it belongs to, merge it; and where a run's weights lie.

from shridhar_ft.adapters import Weights, load_weights, merged
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import CheckFailed, UserError, first_line
from shridhar_ft.model.build import grow_vocabulary, load_model, update_hash, weights_hash

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Weights:
    """Where weights lie: a base, and the adapters that are merged onto it in this order."""

    base: str
    """Folder or Hub id."""
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    """Folders with adapter_config.json, the oldest first."""

    def as_dict(self, root: Path) -> dict[str, Any]:
        """For part.json: paths inside the run folder relative to it, so that the folder can be moved."""
        return {
            "base": _relative(self.base, root),
            "revision": self.revision,
            "adapters": [_relative(a, root) for a in self.adapters],
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any], root: Path) -> "Weights":
        return cls(
            _absolute(stored["base"], root), stored["revision"], tuple(_absolute(a, root) for a in stored["adapters"])
        )


INSIDE = "run:"  # marks a path relative to the run folder


def _relative(path: str, root: Path) -> str:
    resolved = Path(path).resolve()
    return f"{INSIDE}{resolved.relative_to(root.resolve())}" if resolved.is_relative_to(root.resolve()) else path


def _absolute(path: str, root: Path) -> str:
    return str(root / path.removeprefix(INSIDE)) if path.startswith(INSIDE) else path


# --------------------------------------------------------------------------------------------- attach, load


def attach(model: "PreTrainedModel", tuning: Tuning, grown: bool) -> "PeftModel":
    """Put fresh LoRA adapters on a model whose vocabulary is already that of the tokenizer.

    Args:
        model: The base, resized if the tokenizer grew.
        tuning: Rank, alpha, dropout, targets.
        grown: Whether the tokenizer brought new tokens: their rows have to be trained.

    Raises:
        UserError: A target is the output head, or no module has that name.
    """
    from peft import LoraConfig, get_peft_model

    names = dict(model.named_modules())
    embeddings = _name_of(model.get_input_embeddings(), names)
    head = _name_of(model.get_output_embeddings(), names)
    if isinstance(tuning.targets, list):
        for target in tuning.targets:
            if target == head:
                raise UserError(
                    f"targets: '{target}' is the output head, and the loss is computed from its weight directly, so an "
                    "adapter on it would never be trained; take it out (train_embeddings trains an untied head whole)"
                )
            if target == embeddings and model.config.tie_word_embeddings:
                raise UserError(
                    f"targets: '{target}' is tied to the output head, and merging an adapter on it would change the "
                    "head too; take it out (train_embeddings trains both whole)"
                )
            if not any(name.split(".")[-1] == target for name in names):
                linear = sorted({n.split(".")[-1] for n, m in names.items() if type(m).__name__ == "Linear"} - {head})
                raise UserError(f"targets: no module is called '{target}'; linear ones here: {', '.join(linear)}")
    whole = grown if tuning.train_embeddings == "auto" else tuning.train_embeddings
    tied = bool(model.config.tie_word_embeddings)
    norms = sorted({name.split(".")[-1] for name, m in names.items() if type(m).__name__.endswith("Norm")})
    saved = [*(([embeddings] if tied else [embeddings, head]) if whole else []), *(norms if tuning.train_norms else [])]
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=tuning.targets,
        modules_to_save=saved or None,
        ensure_weight_tying=bool(whole and tied),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # a norm, say, or no target at all
        raise UserError(f"targets: {first_line(error)}; name linear layers, or all-linear") from error


def _name_of(module: "torch.nn.Module", names: dict[str, "torch.nn.Module"]) -> str:
    return next(name for name, found in names.items() if found is module).split(".")[-1]


def load_adapter(model: "PreTrainedModel", folder: str, trainable: bool) -> "PeftModel":
    """Load an adapter onto its base; a tensor that is missing or left over is an error, not a warning.

    Raises:
        UserError: There is no adapter in the folder.
        CheckFailed: Its tensors are not those that its config promises.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise UserError(
            f"{folder}: no adapter there (adapter_model.safetensors is missing); name a folder that holds one"
        )
    try:
        wrapped = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckFailed(f"{file}: {reason}; the adapter is damaged or belongs to another base") from error
    wanted = set(get_peft_model_state_dict(wrapped))
    with safe_open(file, framework="pt") as tensors:
        stored = set(tensors.keys())
    if wanted != stored:
        missing, extra = sorted(wanted - stored), sorted(stored - wanted)
        raise CheckFailed(
            f"{file}: {len(missing)} tensors are missing and {len(extra)} do not belong, "
            f"first {(missing or extra)[0]}; the adapter is damaged or belongs to another base"
        )
    return wrapped


def load_weights(
    weights: Weights,
    config: "PreTrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    attention: str,
    dtype: "torch.dtype | str",
    keep_last: bool = False,
) -> tuple["PreTrainedModel | PeftModel", bool, str]:
    """Load a base and merge its adapters in order.

    Args:
        weights: What to load.
        config: With the RoPE that is wanted; the vocabulary follows the stored weights.
        tokenizer: Tokens that it has beyond the base get rows of their own.
        attention: Attention implementation.
        dtype: Type of the weights in memory.
        keep_last: Leave the last adapter attached and trainable instead of merging it.

    Returns:
        The model, whether the vocabulary grew, and the hash of the base as it was before any adapter.
    """
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(weights.base, revision=weights.revision).get_text_config()
    config.vocab_size = stored.vocab_size
    model: Any = load_model(weights.base, config, attention, "auto", weights.revision)
    base_hash = weights_hash(model)  # as stored: the part before may have ended with another type than is wanted here
    if dtype != "auto":
        model = model.to(dtype)
    grown = grow_vocabulary(model, tokenizer) > 0
    for index, folder in enumerate(weights.adapters):
        last = index == len(weights.adapters) - 1
        model = load_adapter(model, folder, trainable=last and keep_last)
        if not (last and keep_last):
            model = merged(model)
    return model, grown, base_hash


def merged(model: "PeftModel") -> "PreTrainedModel":
    """The base with the adapter's update added to its weights, all trainable again; refuses a non-finite update."""
    return model.merge_and_unload(safe_merge=True).requires_grad_(True)  # peft leaves the base frozen


def adapter_hash(model: "PeftModel") -> str:
    """xxh3 over the adapter's tensors of a live model, in the order of their names."""
    from peft import get_peft_model_state_dict

    digest = xxhash.xxh3_128()
    for name, tensor in sorted(get_peft_model_state_dict(model).items()):
        update_hash(digest, name, tensor)
    return digest.hexdigest()
