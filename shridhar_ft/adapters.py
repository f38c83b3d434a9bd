"""Adapters: attach LoRA or QLoRA, load them on the base they belong to, merge them.

from shridhar_ft.adapters import load_weights, merged
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from shridhar_ft.adapter_base import AdapterBase, copies
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import CheckFailed, UserError, first_line
from shridhar_ft.model.build import (
    cast_weights,
    end_names,
    grow_vocabulary,
    load_model,
    safetensors_hash,
    update_hash,
    weights_hash,
)
from shridhar_ft.model.norms import is_norm
from shridhar_ft.model.quantized import Quantization, dequantize, quantize, quantized_layers
from shridhar_ft.tokenizer import brings_tokens
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def attach(model: "PreTrainedModel", tuning: Tuning, grown: bool) -> "PeftModel":
    """Put fresh LoRA adapters on a model whose vocabulary is already that of the tokenizer.

    Args:
        model: The base, resized if the tokenizer grew.
        tuning: Rank, alpha, dropout, targets, rsLoRA, DoRA.
        grown: Whether the tokenizer brought new tokens: their rows have to be trained.

    Raises:
        UserError: A target is the output head, is trained whole already, or no module has that name.
    """
    from peft import LoraConfig, get_peft_model

    names = dict(model.named_modules())
    embeddings, head = end_names(model)
    tied = bool(model.config.tie_word_embeddings)
    whole = grown if tuning.train_embeddings == "auto" else tuning.train_embeddings
    if isinstance(tuning.targets, list):
        why = "train_embeddings" if tuning.train_embeddings is True else "the tokenizer brought new tokens"
        _check_targets(tuning.targets, names, embeddings, head, tied, why if whole else None)
    norms = sorted({_last(name) for name, m in names.items() if is_norm(m)})
    ends = [_last(embeddings)] if tied else [_last(embeddings), _last(head)]
    saved = [*(ends if whole else []), *(norms if tuning.train_norms else [])]
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        use_rslora=tuning.rslora,
        use_dora=tuning.dora,
        target_modules=tuning.targets,
        modules_to_save=saved or None,
        ensure_weight_tying=bool(whole and tied),
        task_type="CAUSAL_LM",
    )
    try:
        return _each_tensor_once(get_peft_model(model, config))
    except ValueError as error:  # a norm, say, or no target at all
        raise UserError(f"targets: {first_line(error)}; name linear layers, or all-linear") from error


def _check_targets(
    targets: list[str],
    names: dict[str, "torch.nn.Module"],
    embeddings: str,
    head: str,
    tied: bool,
    whole: str | None,
) -> None:
    """Refuse what an adapter would be useless or wrong on, and what is not there, by the name that was given.

    Args:
        targets: Of the recipe.
        names: All modules.
        embeddings: Whole name of the embeddings.
        head: Of the output head.
        tied: Whether these two share one weight.
        whole: Why the embeddings are trained whole; None where they are not.
    """
    from torch.nn import Linear

    for target in targets:
        meant = _meant(target, names)
        if head in meant:
            raise UserError(
                f"targets: '{target}' is the output head, and the loss is computed from its weight directly, so an "
                "adapter on it would never be trained; take it out (train_embeddings trains an untied head whole)"
            )
        if embeddings in meant and tied:
            raise UserError(
                f"targets: '{target}' is tied to the output head, and merging an adapter on it would change the "
                "head too; take it out (train_embeddings trains both whole)"
            )
        if embeddings in meant and whole:  # peft would train the copy, and the adapter on it never
            raise UserError(
                f"targets: '{target}' would get an adapter, and is trained whole already ({whole}); take it out, or "
                "set train_embeddings to false"
            )
        if not meant:
            linear = sorted({_last(name) for name, m in names.items() if isinstance(m, Linear)} - {_last(head)})
            raise UserError(f"targets: no module is called '{target}'; linear ones here: {', '.join(linear)}")


def _meant(target: str, names: dict[str, "torch.nn.Module"]) -> set[str]:
    """The modules that a target names as peft takes it: by the whole name, or by its last parts."""
    return {name for name in names if name and (name == target or name.endswith(f".{target}"))}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def load_adapter(model: "PreTrainedModel", folder: str, trainable: bool) -> "PeftModel":
    """Load an adapter onto its base; a tensor that is missing or left over is an error, not a warning.

    Raises:
        UserError: There is no adapter in the folder.
        CheckFailed: Its tensors are not those that its config promises.
    """
    from peft import PeftModel
    from safetensors import SafetensorError, safe_open

    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise UserError(
            f"{folder}: no adapter there (adapter_model.safetensors is missing); name a folder that holds one"
        )
    # Around weights that take no memory, peft makes the adapter's so too, and would fill them with nothing.
    nowhere = any(parameter.is_meta for parameter in model.parameters())
    try:
        wrapped = PeftModel.from_pretrained(model, folder, is_trainable=trainable, low_cpu_mem_usage=nowhere)
    except (SafetensorError, RuntimeError, KeyError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        reason = str(error).strip().splitlines()[-1].strip()
        if isinstance(error, KeyError):  # so peft says that a tensor of `modules_to_save` is not there
            reason = f"{reason} is missing"
        raise CheckFailed(f"{file}: {reason}; the adapter is damaged or belongs to another base") from error
    wanted = set(adapter_state(wrapped))
    with safe_open(file, framework="pt") as tensors:
        stored = set(tensors.keys()) - copies(tensors.keys())
    if wanted != stored:
        missing, extra = sorted(wanted - stored), sorted(stored - wanted)
        raise CheckFailed(
            f"{file}: {len(missing)} tensors are missing and {len(extra)} do not belong, "
            f"first {(missing or extra)[0]}; the adapter is damaged or belongs to another base"
        )
    return _each_tensor_once(wrapped)


def load_weights(
    weights: Weights,
    config: "PreTrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    attention: str,
    dtype: "torch.dtype | str",
    keep_last: bool = False,
    quantization: Quantization | None = None,
    device: "torch.device | None" = None,
    as_trained: bool = False,
) -> tuple["PreTrainedModel | PeftModel", bool, str]:
    """Load a base and merge its adapters in order, each onto the base that it was trained on.

    An adapter that was trained on a quantised base is merged onto that base's rounded weights: the ones before the
    rounding are others, by 1e-3 nats a token in the best case, and merging into four bits rounds the update away.

    Args:
        weights: What to load.
        config: With the RoPE that is wanted; the vocabulary follows the stored weights.
        tokenizer: Tokens that it has beyond the base get rows of their own.
        attention: Attention implementation.
        dtype: Type of the weights in memory, quantised ones aside.
        keep_last: Leave the last adapter attached and trainable instead of merging it.
        quantization: Quantise the result, for a fresh adapter on it.
        device: Where layers are quantised (default: the CPU); the model stays on the CPU unless one is.
        as_trained: Whether the config has to have the RoPE that the last adapter was trained with: so wherever the
            model answers, while a stage that goes on from it gives it another.

    Returns:
        The model, whether the tokenizer brought new tokens, and the hash of the base as it was before any adapter.

    Raises:
        UserError: An adapter belongs to another base, or was trained with another RoPE.
    """
    import torch
    from transformers import AutoConfig

    last = AdapterBase.read(weights.adapters[-1]) if as_trained and weights.adapters else None
    if last is not None:
        last.check_rope(weights.adapters[-1], config)

    device = device or torch.device("cpu")
    stored = AutoConfig.from_pretrained(weights.base, revision=weights.revision).get_text_config()
    config.vocab_size = stored.vocab_size
    model: Any = load_model(weights.base, config, attention, "auto", weights.revision)
    base_hash = weights_hash(model)  # as stored: the part before may have ended with another type than is wanted here
    # A base padded to round rows has room for new tokens, and knows no more of them.
    grown = brings_tokens(tokenizer, model.get_input_embeddings().weight.shape[0])
    grow_vocabulary(model, tokenizer)
    plain = torch.float32 if dtype == "auto" else dtype
    beneath: tuple[str, ...] = ()
    for index, folder in enumerate(weights.adapters):
        kept = keep_last and index == len(weights.adapters) - 1
        own = AdapterBase.read(folder)
        if own is not None:
            own.check(folder, base_hash, beneath)
        if own is not None and own.quantization is not None:
            # Before the cast below: a base in fp32 would take twice the memory for the same four bits.
            model = quantize(model, own.quantization, device)
            if not kept:
                model = dequantize(model, plain)
        if dtype != "auto":
            model = cast_weights(model, dtype)
        model = load_adapter(model, folder, trainable=kept)
        if not kept:
            model = merged(model)
            beneath = (*beneath, safetensors_hash(Path(folder)))
    if quantization is not None:
        model = quantize(model, quantization, device)
    if dtype != "auto":
        model = cast_weights(model, dtype)
    return model, grown, base_hash


def merged(model: "PeftModel") -> "PreTrainedModel":
    """The base with the adapter's update added to its weights, all trainable again; refuses a non-finite update.

    A quantised base is dequantised first, in float32: the sum is of the weights that were trained, and is not rounded.
    """
    import torch
    from peft.tuners import lora

    if quantized_layers(model):
        wrapped = [layer for layer in model.modules() if isinstance(layer, (lora.Linear4bit, lora.Linear8bitLt))]
        dequantize(model.get_base_model(), torch.float32)
        for layer in wrapped:  # the same state around a plain layer; their own merge would round the sum
            layer.__class__ = lora.Linear
            layer.is_target_conv_1d_layer = False
    return model.merge_and_unload(safe_merge=True).requires_grad_(True)  # peft leaves the base frozen


def adapter_state(model: "PeftModel", state: "dict[str, torch.Tensor] | None" = None) -> "dict[str, torch.Tensor]":
    """An adapter's tensors by the names that its file gives them.

    Args:
        model: With its adapter.
        state: Tensors of the whole model by name (default: the live ones).
    """
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, state, save_embedding_layers=_embedding_layers(model))


def _embedding_layers(model: "PeftModel") -> bool | str:
    """peft's `save_embedding_layers`: no where they are trained whole, and the adapter has them anyway.

    By itself peft looks whether the vocabulary is still that of the base's folder, if it finds one, and then adds all
    that lies under the embeddings: the untrained ones too, and each trained one a second time.
    """
    from peft.utils import ModulesToSaveWrapper

    return False if isinstance(model.get_input_embeddings(), ModulesToSaveWrapper) else "auto"


def _each_tensor_once(model: "PeftModel") -> "PeftModel":
    """The same model, whose `save_pretrained`, which transformers calls at a checkpoint, writes `adapter_state`."""
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=_embedding_layers(model))
    return model


def adapter_hash(model: "PeftModel") -> str:
    """xxh3 over the adapter's tensors of a live model, in the order of their names."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(adapter_state(model).items()):
        update_hash(digest, name, tensor)
    return digest.hexdigest()
