"""What other programs import: load or build a model, extend its context, attach an adapter, merge, certify.

    import shridhar_ft

    model = shridhar_ft.load("HuggingFaceTB/SmolLM2-135M", context=32_768, rope={"type": "yarn"})
    model = shridhar_ft.attach(model, method="lora", rank=16, train_norms=True, train_embeddings=True)
    ...                                                    # train it, with any trainer
    shridhar_ft.save_adapter(model, "adapter")
    model = shridhar_ft.load_adapter("adapter")            # on its own base, under its own RoPE, both checked
    whole = shridhar_ft.merge(model)

Every function checks what it made and raises instead of warning: `UserError` for what the caller can mend,
`CheckFailed` for a receipt that does not hold. Models are transformers' and peft's own, and train under any loop.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach as attach_fresh
from shridhar_ft.adapters import load_adapter as load_onto
from shridhar_ft.adapters import merged
from shridhar_ft.config import Model
from shridhar_ft.config_rope import Rope
from shridhar_ft.config_training import OF_ADAPTERS, OF_QLORA, Tuning
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.export.certificate import TOLERANCES, compare, holds, logits_at, places
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import (
    base_config,
    build_model,
    cast_weights,
    grow_vocabulary,
    load_model,
    parameters_hash,
    weights_hash,
)
from shridhar_ft.model.quantized import Quantization, plain_parameters, quantize, quantized_layers
from shridhar_ft.model.rope import StageRope, apply_rope, copied, original_context
from shridhar_ft.model.rope_receipt import need_rope
from shridhar_ft.tokenizer import brings_tokens
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")
SETTINGS = ("method", *OF_ADAPTERS)
"""Those of `attach`."""

ORIGIN = "_shridhar_ft_origin"
"""Attribute of a model that `load` or `load_adapter` read: its `Origin`."""


@dataclass(frozen=True)
class Origin:
    """Which files a live model was read from, so that an adapter on it can say which base it belongs to."""

    weights: Weights
    hash: str
    """`weights_hash` as stored."""
    live: str
    """`weights_hash` of what is not quantised, as it was handed out: cast, its vocabulary grown."""
    quantization: Quantization | None
    grown: bool
    """Whether the tokenizer brought new tokens."""


def load(
    source: str | Path | dict[str, Any],
    *,
    context: int | None = None,
    rope: dict[str, Any] | None = None,
    revision: str | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    attention: str = "auto",
    dtype: str = "float32",
    quantization: str | None = None,
    device: "str | torch.device" = "cpu",
    seed: int = 108,
) -> "PreTrainedModel":
    """A causal language model with the RoPE that is asked for, in the config before its first weight exists.

    Weights are read from safetensors alone, and no code that lies beside them is run.

    Args:
        source: Folder or Hub id of a base; or, for random weights, a dict of `model_type` and config keys (sizes in
            units: hidden_size, num_hidden_layers, …).
        context: Positions that it shall reach, in tokens, 8 or more (default: the base's own).
        rope: A recipe's `rope` section, e.g. `{"type": "yarn"}`; the factor is computed from the base's own length.
            Types: linear, dynamic, yarn, longrope, llama3, theta, none. Without it the RoPE stays as the base has it,
            even where `context` is longer.
        revision: Commit of the base on the Hub.
        tokenizer: Tokens that it has beyond the base get rows of their own, the mean of the others; `attach` trains
            them.
        attention: auto, flash, flex or sdpa (model/attention.py).
        dtype: Type of the weights: float32, bfloat16, float16.
        quantization: nf4 (scales quantised once more) or int8: linear layers of the frozen base in 4 or 8 bits, for
            `attach(method="qlora")`. Embeddings, norms and the output head keep `dtype`.
        device: Where the model lies, as torch names it: cpu, cuda, cuda:1, mps.
        seed: Of random weights.

    Returns:
        transformers' own model: `input_ids` (B, T) give logits (B, T, V).

    Raises:
        UserError: No such base, key, type or device; weights in a pickle; or the RoPE cannot reach the context.
        CheckFailed: The live module does not compute the RoPE that was asked for.

    Sources:
        RoPE: Su et al. 2021, arXiv 2104.09864; linear: Chen et al. 2023, arXiv 2306.15595; YaRN: Peng et al. 2023,
        arXiv 2309.00071; LongRoPE: Ding et al. 2024, arXiv 2402.13753. NF4: Dettmers et al. 2023 (QLoRA), arXiv
        2305.14314; int8: Dettmers et al. 2022, arXiv 2208.07339. Mean rows: Hewitt 2021, "Initializing New Word
        Embeddings".
    """
    random = source if isinstance(source, dict) else None
    how, place = _quantization(quantization), _place("load", dtype, device)
    asked = _model_section(source, revision, attention)
    rows = (len(tokenizer) if tokenizer is not None else None) if random is not None else None
    config = base_config(asked, rows)
    wanted = _wanted("load", config, context, rope)
    apply_rope(config, wanted)
    claimed = copied(config)
    kernel = choose_attention(asked, config, place, half=dtype != "float32").implementation
    if random is not None:
        model = _placed(build_model(config, seed, kernel), how, dtype, place)
    else:
        model = load_model(str(source), config, kernel, "auto", revision)
        base_hash, grown = weights_hash(model), False
        if tokenizer is not None:
            grown = brings_tokens(tokenizer, model.get_input_embeddings().weight.shape[0])
            grow_vocabulary(model, tokenizer)
        model = _placed(model, how, dtype, place)
        setattr(model, ORIGIN, Origin(Weights(str(source), revision), base_hash, _live_hash(model), how, grown))
    need_rope(model, claimed, wanted.context)
    return model


def extend(model: "PreTrainedModel", context: int, rope: dict[str, Any]) -> "PreTrainedModel":
    """The same weights under another RoPE; the model that was given keeps its own.

    A live model's RoPE cannot be edited (its config is read once, when it is built), so a new module is made on the
    meta device and takes the very parameters over: no memory is copied, and training one of the two trains both.

    Args:
        model: Without an adapter, not quantised.
        context: Positions that it shall reach, in tokens, 8 or more.
        rope: A recipe's `rope` section, as for `load`; the factor is computed from the length that the frequencies of
            this model were first trained at.

    Returns:
        A model of the same class on the same device, in the same mode.

    Raises:
        UserError: The model has an adapter or is quantised, or the RoPE cannot reach the context from where it stands.
        CheckFailed: The live module does not compute what was asked for.

    Sources:
        Those of `load`.
    """
    from accelerate import init_empty_weights

    if _has_adapter(model):
        raise UserError("extend: an adapter is attached, and was made for the RoPE beneath it; merge it first")
    if quantized_layers(model):
        raise UserError("extend: a quantised model keeps its layers; extend it first, or give context and rope to load")
    config = copied(model.config)
    config._attn_implementation = model.config._attn_implementation
    wanted = _wanted("extend", config, context, rope)
    apply_rope(config, wanted)
    claimed = copied(config)
    with init_empty_weights(include_buffers=False):  # RoPE's frequencies are buffers, and in no state dict
        extended: Any = type(model)(config)
    extended.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    extended.to(model.device)
    if hasattr(model, ORIGIN):
        setattr(extended, ORIGIN, getattr(model, ORIGIN))
    extended.train(model.training)
    need_rope(extended, claimed, wanted.context)
    return extended


def attach(
    model: "PreTrainedModel",
    *,
    grown: bool | None = None,
    **settings: Any,  # noqa: ANN401 - Tuning's
) -> "PeftModel":
    """A fresh adapter on a model; only the adapter, and what is trained whole beside it, takes gradients.

    Each adapted layer W (out, in) computes W·x + scale · B·(A·x) with A (rank, in) and B (out, rank); B begins at zero,
    so a fresh adapter changes no answer.

    Args:
        model: From `load`, `extend` or `merge`; its linear layers quantised for method qlora, and for no other.
        grown: Whether the tokenizer brought new tokens, whose rows have to be trained (default: as `load` found it).
        **settings: Those of a recipe's `train` section that are of adapters:
            method: lora (default) or qlora.
            rank: Rows of A and columns of B (16).
            alpha: The scale is alpha / rank, or alpha / √rank with rslora (32).
            dropout: Probability that an input of A is zeroed in training (0).
            targets: Names of linear layers, or the last parts of them (q_proj, layers.0.self_attn.q_proj);
                all-linear (default) is every one but the output head.
            rslora: Scale that lets high ranks learn (false).
            dora: A trained magnitude for each row of W beside the low-rank direction (false).
            train_embeddings: Embeddings, and an untied head, trained whole; auto (default) where the vocabulary grew.
            train_norms: Norms trained whole (false).

    Returns:
        peft's own model around the one that was given, which it changes.

    Raises:
        UserError: A setting that is unknown or not of adapters; a target that is not there, is the output head, or is
            trained whole; an adapter on an adapter; qlora on a base that is not quantised, lora on one that is; weights
            that are no longer those that were read (trained or cast since), so that no file holds the base.

    Sources:
        LoRA: Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732; DoRA: Liu et al. 2024,
        arXiv 2402.09353; QLoRA: Dettmers et al. 2023, arXiv 2305.14314; embeddings and norms: Chen et al. 2023
        (LongLoRA), arXiv 2309.12307.
    """
    for key in settings:
        _check_setting(key)
    with _one_sentence("attach"):
        tuning = Tuning(**{"method": "lora", **settings})
    if _has_adapter(model):
        raise UserError("attach: the model has an adapter already; merge it first, or train that one on")
    if tuning.method == "full":
        raise UserError("attach: method full trains all weights and has no adapter; train the model as it is")
    if (tuning.method == "qlora") != bool(quantized_layers(model)):
        raise UserError(
            "attach: method qlora is for a quantised base, and lora for one that is not; give `quantization` to load"
        )
    origin: Origin | None = getattr(model, ORIGIN, None)
    if origin is not None and _live_hash(model) != origin.live:
        raise UserError(
            "attach: the base's weights are no longer those that were read (trained or cast since), so no file holds "
            "what the adapter would belong to; save_pretrained it, load it from there, and attach to that"
        )
    if grown is None:
        grown = origin is not None and origin.grown
    return attach_fresh(model, tuning, grown)


def save_adapter(model: "PeftModel", folder: str | Path) -> Path:
    """Write an adapter, and beside it which base it belongs to: id, revision, hash, type, quantisation, RoPE.

    Args:
        model: From `attach` or `load_adapter`, on a base that `load` or `load_adapter` read.
        folder: Made if need be. It gets adapter_config.json and adapter_model.safetensors (peft's), and base.json. The
            tokenizer is not among them: save_pretrained it there too if it is not the base's own.

    Returns:
        The folder.

    Raises:
        UserError: There is no adapter; or the base has no files of its own (random weights, or an adapter merged since
            it was read): save it and load it first.
    """
    if not _has_adapter(model):
        raise UserError("save_adapter: no adapter is attached; attach one first, or save_pretrained the whole model")
    base: Any = model.get_base_model()
    origin: Origin | None = getattr(base, ORIGIN, None)
    if origin is None:
        raise UserError(
            "save_adapter: the base was made from random numbers or by a merge, and lies nowhere; save_pretrained it, "
            "load it from there, and attach the adapter to that"
        )
    model.save_pretrained(str(folder))
    AdapterBase.of(origin.weights, origin.hash, (), origin.quantization, base.config).write(Path(folder))
    return Path(folder)


def load_adapter(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    attention: str = "auto",
    dtype: str = "float32",
    device: "str | torch.device" = "cpu",
    trainable: bool = False,
) -> "PeftModel":
    """An adapter on the base that it was trained on, under the RoPE and in the quantisation that it was trained with.

    Args:
        folder: Written by `save_adapter`, or the `adapter` folder of a run's first adapter.
        base: Where the base lies now (default: where it lay).
        attention: auto, flash, flex or sdpa.
        dtype: Type of the weights that are not quantised: float32, bfloat16, float16.
        device: Where the model lies, as torch names it.
        trainable: Whether it is trained on.

    Returns:
        peft's own model: `input_ids` (B, T) give logits (B, T, V).

    Raises:
        UserError: It does not say which base it belongs to, that base is another one by its hash, other adapters lie
            beneath it, or there is no such type or device.
        CheckFailed: A tensor is missing, or the live module does not compute the recorded RoPE.

    Sources:
        Those of `load` and `attach`.
    """
    place = _place("load_adapter", dtype, device)
    own = AdapterBase.read(folder)
    if own is None:
        raise UserError(f"{folder}: no base.json, so nothing says which base this adapter belongs to; load it by peft")
    asked = _model_section(base or own.base, own.revision if base is None else None, attention)
    config = own.put_rope(base_config(asked))
    claimed = copied(config)
    kernel = choose_attention(asked, config, place, half=dtype != "float32").implementation
    model: Any = load_model(asked.base or "", config, kernel, "auto", asked.revision)
    base_hash = weights_hash(model)
    own.check(folder, base_hash, ())
    if own.vocab_size > model.config.vocab_size:
        model.resize_token_embeddings(own.vocab_size, mean_resizing=False)  # the adapter brings the numbers
    model = _placed(model, own.quantization, dtype, place)
    weights = Weights(asked.base or "", asked.revision)
    setattr(model, ORIGIN, Origin(weights, base_hash, _live_hash(model), own.quantization, grown=False))
    need_rope(model, claimed, own.context)
    return load_onto(model, str(folder), trainable)


def merge(model: "PeftModel") -> "PreTrainedModel":
    """The base with the adapter's update added; a quantised base is dequantised first, so nothing is rounded.

    Args:
        model: From `attach` or `load_adapter`; it is taken apart, and is not to be used again.

    Returns:
        The base itself, its weights W + scale · B·A, all trainable, those that were quantised in float32. No file holds
        it: before an adapter on it can be saved by `save_adapter`, it has to be saved itself, and loaded from there.

    Raises:
        UserError: No adapter is attached.
        ValueError: The update is not finite (peft).

    Sources:
        LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1. DoRA: Liu et al. 2024, arXiv 2402.09353.
    """
    if not _has_adapter(model):
        raise UserError("merge: no adapter is attached, so there is nothing to merge; attach or load one first")
    base = merged(model)
    if hasattr(base, ORIGIN):  # what it was read from holds it no more
        delattr(base, ORIGIN)
    return base


def certify(
    reference: "torch.nn.Module",
    other: "torch.nn.Module",
    ids: "np.ndarray",
    original_context: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Logits of one text through two models, near its start, at the original context and at its end.

    Args:
        reference: E.g. base + adapter. Both are left in evaluation mode.
        other: E.g. the merged model, reloaded.
        ids: Token ids of one text, (T,), whole numbers; RoPE is relative, so T should be the full context.
        original_context: Length that the unscaled RoPE was trained at, in tokens.
        dtype: Type that `other` is stored in; it sets the tolerance (export/certificate.py).

    Returns:
        `largest_logit_difference` (logits), `largest_difference_in_deviations` (in standard deviations of the
        reference's logits) and `mean_kl_nats` (KL divergence, nats a position), by place and overall; `tolerances`; and
        `ok`, whether the last two are within them.

    Raises:
        UserError: No tolerance is known for the type; the ids are no text of these models; they differ in vocabulary.

    Sources:
        KL divergence: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694.
    """
    import numpy as np

    if dtype not in TOLERANCES:
        raise UserError(f"certify: no tolerance is known for {dtype}; take one of {', '.join(TOLERANCES)}")
    read = np.asarray(ids)
    if read.ndim != 1 or not len(read) or read.dtype.kind not in "iu":
        raise UserError(
            f"certify: ids have the shape {list(read.shape)} and the type {read.dtype}; give the token ids of one "
            "text, whole numbers, (T,)"
        )
    rows = [model.get_input_embeddings().weight.shape[0] for model in (reference, other)]  # type: ignore[operator]
    if rows[0] != rows[1]:
        raise UserError(
            f"certify: the models have vocabularies of {rows[0]} and {rows[1]} tokens; compare like with like"
        )
    if read.min() < 0 or read.max() >= rows[0]:
        raise UserError(
            f"certify: ids go from {read.min()} to {read.max()}, and the models know 0 to {rows[0] - 1}; take the ids "
            "of their own tokenizer"
        )
    where = places(len(read), original_context)
    found = compare(logits_at(reference, read, where.all), logits_at(other, read, where.all), where)
    return {**found, "tolerances": TOLERANCES[dtype], "ok": holds(found, dtype)}


# -------------------------------------------------------------------------------------------------- pieces


@contextmanager
def _one_sentence(of: str) -> Iterator[None]:
    """Turn what pydantic finds wrong with settings into a sentence that begins with what they are of."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(": ".join([of, *(str(place) for place in first["loc"]), first["msg"]])) from error


def _model_section(source: str | Path | dict[str, Any], revision: str | None, attention: str) -> Model:
    given = {"from_config": source} if isinstance(source, dict) else {"base": str(source), "revision": revision}
    with _one_sentence("load"):
        return Model(**given, attention=attention)  # type: ignore[arg-type]  # checked right here


def _wanted(of: str, config: "PreTrainedConfig", context: int | None, rope: dict[str, Any] | None) -> StageRope:
    if context is not None and (not isinstance(context, int) or isinstance(context, bool) or context < 8):
        raise UserError(f"{of}: context {context!r} is no length; give tokens, a whole number of 8 or more")
    if rope is not None and not isinstance(rope, dict):
        raise UserError(f'{of}: rope {rope!r} is no section; give a dict, e.g. {{"type": "yarn"}}')
    with _one_sentence("rope"):
        asked = Rope(**(rope or {}))
    original = asked.original_context or original_context(config)
    return StageRope(asked, context or original_context(config), original)


def _place(of: str, dtype: str, device: "str | torch.device") -> "torch.device":
    """The device, once it and the type are known to be there."""
    import torch

    if dtype not in DTYPES:
        raise UserError(f"{of}: dtype {dtype!r} is no type of weights here; take one of {', '.join(DTYPES)}")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"{of}: device {str(device)!r} is not to be had here ({first_line(error)}); take cpu"
        ) from error
    return place


def _check_setting(key: str) -> None:
    """Refuse what `attach` would leave without effect."""
    if key in SETTINGS:
        return
    if key in OF_QLORA:
        mend = "the base is quantised when it is read: give quantization to load"
    elif key in Tuning.model_fields:
        mend = "it is the training's: give it to your trainer"
    else:
        near = difflib.get_close_matches(key, SETTINGS, n=1)
        mend = f"did you mean '{near[0]}'?" if near else f"take one of {', '.join(SETTINGS)}"
    raise UserError(f"attach: {key} is no setting of an adapter; {mend}")


def _has_adapter(model: "torch.nn.Module") -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _live_hash(model: "torch.nn.Module") -> str:
    """`weights_hash` of what is not quantised: layers in 4 or 8 bits take no gradient."""
    return parameters_hash(plain_parameters(model))


def _quantization(kind: str | None) -> Quantization | None:
    if kind is None:
        return None
    if kind == "nf4":
        return Quantization("nf4", double=True)
    if kind == "int8":
        return Quantization("int8", double=False)
    raise UserError(f"load: quantization '{kind}' is not known; take nf4 or int8")


def _placed(
    model: "PreTrainedModel", how: Quantization | None, dtype: str, device: "torch.device"
) -> "PreTrainedModel":
    """The model on its device, quantised from its stored type; what is not quantised in the type that is wanted."""
    import torch

    if how is not None:
        model = quantize(model, how, device)
    return cast_weights(model, getattr(torch, dtype)).to(device)
