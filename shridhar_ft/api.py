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

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach as attach_fresh
from shridhar_ft.adapters import load_adapter as load_onto
from shridhar_ft.adapters import merged
from shridhar_ft.config import Model
from shridhar_ft.config_rope import Rope
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.export.certificate import TOLERANCES, compare, holds, logits_at, places
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import base_config, build_model, grow_vocabulary, load_model, weights_hash
from shridhar_ft.model.quantized import Quantization, quantize
from shridhar_ft.model.rope import StageRope, apply_rope, original_context
from shridhar_ft.model.rope_receipt import need_rope
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ORIGIN = "_shridhar_ft_origin"  # attribute of a model that `load` made: (Weights, base_hash, Quantization | None)


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

    Args:
        source: Folder or Hub id of a base; or, for random weights, a dict of `model_type` and config keys.
        context: Positions that it shall reach, in tokens (default: the base's own).
        rope: A recipe's `rope` section, e.g. `{"type": "yarn"}`; the factor is computed from the base's own length.
        revision: Commit of the base on the Hub.
        tokenizer: Tokens that it has beyond the base get rows of their own, the mean of the others.
        attention: auto, flash, flex or sdpa (model/attention.py).
        dtype: Type of the weights: float32, bfloat16, float16.
        quantization: nf4 or int8: linear layers of the frozen base in 4 or 8 bits, for `attach(method="qlora")`.
        device: Where the model lies.
        seed: Of random weights.

    Raises:
        UserError: No such base, key or type; or the RoPE cannot reach the context.
        CheckFailed: The live module does not compute the RoPE that was asked for.
    """
    import torch

    random = source if isinstance(source, dict) else None
    asked = _model_section(source, revision, attention)
    rows = (len(tokenizer) if tokenizer is not None else None) if random is not None else None
    config = base_config(asked, rows)
    wanted = _wanted(config, context, rope)
    apply_rope(config, wanted)
    claimed = type(config)(**config.to_dict())
    place = torch.device(device)
    kernel = choose_attention(asked, config, place, half=dtype != "float32").implementation
    if random is not None:
        model = build_model(config, seed, kernel)
        origin = None
    else:
        model = load_model(str(source), config, kernel, "auto", revision)
        origin = Weights(str(source), revision), weights_hash(model)
        if tokenizer is not None:
            grow_vocabulary(model, tokenizer)
    how = _quantization(quantization)
    model = _placed(model, how, dtype, place)
    if origin is not None:
        setattr(model, ORIGIN, (*origin, how))
    need_rope(model, claimed, wanted.context)
    return model


def extend(model: "PreTrainedModel", context: int, rope: dict[str, Any]) -> "PreTrainedModel":
    """The same weights under another RoPE; the model that was given keeps its own.

    A live model's RoPE cannot be edited (its config is read once, when it is built), so a new module is made on the
    meta device and takes the very parameters over: no memory is copied.

    Args:
        model: Without an adapter, not quantised.
        context: Positions that it shall reach, in tokens.
        rope: A recipe's `rope` section.

    Raises:
        UserError: The RoPE cannot reach the context from where this model stands.
        CheckFailed: The live module does not compute what was asked for.
    """
    from accelerate import init_empty_weights

    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        raise UserError("extend: a quantised model keeps its layers; extend it first, or give context and rope to load")
    config = type(model.config)(**model.config.to_dict())
    config._attn_implementation = model.config._attn_implementation
    wanted = _wanted(config, context, rope)
    apply_rope(config, wanted)
    claimed = type(config)(**config.to_dict())
    with init_empty_weights(include_buffers=False):  # RoPE's frequencies are buffers, and in no state dict
        extended: Any = type(model)(config)
    extended.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    extended.to(model.device)
    if hasattr(model, ORIGIN):
        setattr(extended, ORIGIN, getattr(model, ORIGIN))
    extended.train(model.training)
    need_rope(extended, claimed, wanted.context)
    return extended


def attach(model: "PreTrainedModel", *, grown: bool = False, **settings: Any) -> "PeftModel":  # noqa: ANN401 - Tuning's
    """A fresh adapter on a model.

    Args:
        model: From `load` or `extend`; quantised for method qlora.
        grown: Whether the tokenizer brought new tokens, whose rows have to be trained.
        **settings: Those of a recipe's `train` section: method (lora), rank, alpha, dropout, targets, rslora, dora,
            train_embeddings, train_norms.

    Raises:
        UserError: An unknown setting, a target that is not there or is the output head, qlora on a base that is not
            quantised.
    """
    with _one_sentence("attach"):
        tuning = Tuning(**{"method": "lora", **settings})
    how = getattr(model, ORIGIN, (None, None, None))[2]
    if tuning.method == "full":
        raise UserError("attach: method full trains all weights and has no adapter; train the model as it is")
    if (tuning.method == "qlora") != (how is not None):
        raise UserError(
            "attach: method qlora is for a quantised base, and lora for one that is not; give `quantization` to load"
        )
    return attach_fresh(model, tuning, grown)


def save_adapter(model: "PeftModel", folder: str | Path) -> Path:
    """Write an adapter, and beside it which base it belongs to: id, revision, hash, quantisation, RoPE.

    Args:
        model: From `attach` or `load_adapter`, on a base that `load` read.
        folder: Made if need be.

    Raises:
        UserError: The base has no files of its own (random weights): save it and load it first.
    """
    base: Any = model.get_base_model()
    if not hasattr(base, ORIGIN):
        raise UserError(
            "save_adapter: the base was made from random numbers and lies nowhere; save_pretrained it, load it from "
            "there, and attach the adapter to that"
        )
    weights, base_hash, how = getattr(base, ORIGIN)
    model.save_pretrained(str(folder))
    AdapterBase.of(weights, base_hash, (), how, base.config).write(Path(folder))
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
        dtype: Type of the weights that are not quantised.
        device: Where the model lies.
        trainable: Whether it is trained on.

    Raises:
        UserError: It does not say which base it belongs to, that base is another one by its hash, or other adapters
            lie beneath it.
        CheckFailed: A tensor is missing, or the live module does not compute the recorded RoPE.
    """
    import torch

    own = AdapterBase.read(folder)
    if own is None:
        raise UserError(f"{folder}: no base.json, so nothing says which base this adapter belongs to; load it by peft")
    asked = _model_section(base or own.base, own.revision if base is None else None, attention)
    config = base_config(asked)
    config.rope_parameters, config.max_position_embeddings = dict(own.rope), own.context
    claimed = type(config)(**config.to_dict())
    place = torch.device(device)
    kernel = choose_attention(asked, config, place, half=dtype != "float32").implementation
    model: Any = load_model(asked.base or "", config, kernel, "auto", asked.revision)
    base_hash = weights_hash(model)
    own.check(folder, base_hash, ())
    if own.vocab_size > model.config.vocab_size:
        model.resize_token_embeddings(own.vocab_size, mean_resizing=False)  # the adapter brings the numbers
    model = _placed(model, own.quantization, dtype, place)
    setattr(model, ORIGIN, (Weights(asked.base or "", asked.revision), base_hash, own.quantization))
    need_rope(model, claimed, own.context)
    return load_onto(model, str(folder), trainable)


def merge(model: "PeftModel") -> "PreTrainedModel":
    """The base with the adapter's update added; a quantised base is dequantised first, so nothing is rounded.

    Raises:
        ValueError: The update is not finite (peft).
    """
    return merged(model)


def certify(
    reference: "torch.nn.Module",
    other: "torch.nn.Module",
    ids: "np.ndarray",
    original_context: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Logits of one text through two models, near its start, at the original context and at its end.

    Args:
        reference: E.g. base + adapter.
        other: E.g. the merged model, reloaded.
        ids: Token ids, (T,); RoPE is relative, so T should be the full context.
        original_context: Length that the unscaled RoPE was trained at, in tokens.
        dtype: Type that `other` is stored in; it sets the tolerance (export/certificate.py).

    Returns:
        Largest difference and mean KL divergence (nats a position) by place and overall, the tolerances, and `ok`.

    Raises:
        UserError: No tolerance is known for the type.
    """
    if dtype not in TOLERANCES:
        raise UserError(f"certify: no tolerance is known for {dtype}; take one of {', '.join(TOLERANCES)}")
    where = places(len(ids), original_context)
    found = compare(logits_at(reference, ids, where.all), logits_at(other, ids, where.all), where)
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


def _wanted(config: "PreTrainedConfig", context: int | None, rope: dict[str, Any] | None) -> StageRope:
    with _one_sentence("rope"):
        asked = Rope(**(rope or {}))
    original = asked.original_context or original_context(config)
    return StageRope(asked, context or original_context(config), original)


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
    # Parameters alone: `model.to(dtype)` rounds RoPE's frequencies too, and at position 108,000 that is another angle.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.to(device)
