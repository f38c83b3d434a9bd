"""What the trained and the written model answer, for the certificate: read whole, or from the disk layer by layer.

The first way checks more: peft merges for itself, and of a QLoRA adapter the merges that were not made are measured.
The second needs little more memory than one layer, and is taken where the model does not fit.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.adapters import load_weights, merged
from shridhar_ft.export.certificate import Places, compare, logits_at
from shridhar_ft.export.from_disk import model_on_disk
from shridhar_ft.export.memory import room, whole_bytes
from shridhar_ft.export.merge_stream import Plan
from shridhar_ft.export.other_merges import merged_into_bits, merged_onto_unquantised
from shridhar_ft.export.tensors import Stored
from shridhar_ft.model.build import load_model
from shridhar_ft.model.rope import copied
from shridhar_ft.model.rope_receipt import check_rope

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shridhar_ft.weights import Weights


@dataclass(frozen=True)
class Question:
    """What is read, and where the answers are compared."""

    text: "np.ndarray"
    """Token ids, (T,)."""
    where: Places
    kernel: str
    """Attention that it is read with, by transformers' name: one for all artefacts."""


@dataclass
class Answers:
    """Logits of what was trained, and of what was merged in memory beside it."""

    trained: "torch.Tensor"
    """At the question's places, float32 (P, V)."""
    comparisons: dict[str, dict[str, Any]]
    """Name of an artefact → how its logits differ."""
    others: dict[str, dict[str, Any]]
    """The same of merges that were not made."""
    not_computed: list[str]
    """What wants the whole model in memory, and was left out."""


def too_large(config: "PreTrainedConfig", tokens: int, say: Callable[[str], None]) -> bool:
    """Whether a model does not fit into the memory while it reads a text; says so.

    Args:
        config: The model's.
        tokens: Of the text.
        say: Told a line.
    """
    needed, free = whole_bytes(config, tokens), room(device())
    if needed <= free:
        return False
    say(
        f"export: the certificate of the whole model would take {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB may be "
        "filled: its weights are read from the disk, layer by layer"
    )
    return True


def trained_answers(
    weights: "Weights", config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", question: Question
) -> Answers:
    """Answers of base + adapter, or of trained weights, in memory; of peft's merge, and of the merges not made."""
    import torch

    keep = bool(weights.adapters)
    model, _, _ = load_weights(
        weights, copied(config), tokenizer, question.kernel, torch.float32, keep_last=keep, as_trained=True
    )
    model = model.to(device())
    text, where = question.text, question.where
    trained = logits_at(model, text, where.all)
    if not keep:
        return Answers(trained, {}, {}, [])
    model = merged(model)
    found = {"merged": compare(trained, logits_at(model, text, where.all), where)}
    others = merged_into_bits(weights, model, text, trained, where)
    del model  # before another base is loaded beside it
    free_memory()
    if others:
        others |= merged_onto_unquantised(weights, config, tokenizer, text, trained, where, device(), question.kernel)
    return Answers(trained, found, others, [])


def trained_answers_from_disk(plan: Plan, config: "PreTrainedConfig", question: Question) -> Answers:
    """The same, with one layer in memory; peft's own merge is left out."""
    adapter = str(plan.adapters[-1].folder) if plan.adapters else None
    sized = copied(config, vocab_size=plan.vocab_size)
    model = model_on_disk(sized, plan.beneath, device(), question.kernel, adapter)
    trained = logits_at(model, question.text, question.where.all, device())
    quantised = bool(plan.adapters) and plan.adapters[-1].own is not None and plan.adapters[-1].own.quantization
    return Answers(trained, {}, {}, (["merged"] if adapter else []) + (["other_merges"] if quantised else []))


def reloaded_answers(
    folder: Path, claimed: "PreTrainedConfig", question: Question, disk: bool
) -> tuple["torch.Tensor", dict[str, Any], bool]:
    """Logits of the written model, and whether it computes with the RoPE that was claimed.

    Args:
        folder: The written model.
        claimed: The config that was asked for.
        question: What is read.
        disk: Whether its weights are read layer by layer.
    """
    import torch
    from accelerate.hooks import remove_hook_from_submodules
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    # In float32 arithmetic, whatever the stored type: what is compared are the weights, not how a kernel rounds.
    if disk:
        stored = Stored(folder, "model*.safetensors")
        tensors = {name: partial(stored.read, name) for name in stored.names()}
        model = model_on_disk(config, tensors, device(), question.kernel)
    else:
        model = load_model(folder, config, question.kernel, torch.float32).to(device())
    logits = logits_at(model, question.text, question.where.all, device())
    if disk:  # a copy of its rotary module is asked next, and a hook would lead it to the module itself
        remove_hook_from_submodules(model)
    _, measured, ok = check_rope(model, claimed, len(question.text))
    return logits, measured, ok


def free_memory() -> None:
    """Give back what models held that nobody has a name for any more: hooks and wrappers point at one another."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device() -> "torch.device":
    """Where the certificate is computed."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
