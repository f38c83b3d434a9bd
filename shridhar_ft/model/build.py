"""Builds a model from a config with random weights, or loads a base; RoPE is in the config before either."""

import difflib
import inspect
from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from shridhar_ft.config import Model, Recipe
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.model.rope import StageRope, apply_rope, forget_lengths, original_context, stage_rope
from shridhar_ft.model.sparse import with_sparse_layers
from shridhar_ft.model.text_part import as_text_model, text_names
from shridhar_ft.runfolder import file_hash, fingerprint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")

# ------------------------------------------------------------------------------------------------- configs


def base_config(model: Model, vocab_size: int | None = None) -> "PreTrainedConfig":
    """The model's config as it is before any stage: from the recipe, or from the base.

    Args:
        model: The recipe's `model` section.
        vocab_size: Tokens of the tokenizer, for a model from config.

    Raises:
        UserError: Unknown model type or key, a type without RoPE, a base that is not there.
    """
    config = _from_recipe(model, vocab_size) if model.from_config is not None else _from_base(model)
    where = "model.from_config.model_type" if model.from_config is not None else "model.base"
    if not getattr(config, "rope_parameters", None):
        raise UserError(
            f"{where}: {config.model_type} has no rotary position embedding (RoPE), so its context cannot be extended"
            f"{'; its learned positions end at n_positions' if config.model_type == 'gpt2' else ''}; "
            "take a model with RoPE, e.g. llama, qwen3 or gemma3_text"
        )
    return config


def _from_recipe(model: Model, vocab_size: int | None) -> "PreTrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    given: dict[str, Any] = dict(model.from_config or {})
    model_type = given.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
        raise UserError(
            f"model.from_config.model_type: transformers knows no '{model_type}'"
            + (f"; did you mean '{near[0]}'?" if near else "; llama is a good first choice")
        )
    config_class = CONFIG_MAPPING[model_type]
    # A config class swallows any keyword; a misspelt size would silently be its default.
    known = [*inspect.signature(config_class).parameters, "rope_theta", *getattr(config_class, "attribute_map", {})]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean '{near[0]}'?" if near else "take it away"
            raise UserError(f"model.from_config: {model_type} has no key '{key}'; {mend}")
    if vocab_size is not None and given.get("vocab_size", vocab_size) != vocab_size:
        raise UserError(
            f"model.from_config.vocab_size: {given['vocab_size']}, but the tokenizer has {vocab_size} tokens; "
            "leave it out, it follows the tokenizer"
        )
    if vocab_size is not None:
        given["vocab_size"] = vocab_size
    if model.attention == "sparse":
        given = with_sparse_layers(model_type, given, model)
    # A type's defaults are of another tokenizer, which gives its own later. And the row of pad_token_id never learns:
    # OLMo's default of 1 would freeze whatever token has that number here.
    given = {**dict.fromkeys(TOKEN_IDS), **given}
    try:
        config = config_class(**given)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:  # KeyError: in rope_parameters
        why = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ").strip('"').rstrip(".")
        raise UserError(f"model.from_config: {why}; mend the sizes, or rope_parameters") from error
    _check_rope_numbers(getattr(config, "rope_parameters", None) or {})
    return config


def _check_rope_numbers(parameters: dict[str, Any]) -> None:
    """Refuse words where numbers belong, which transformers takes and only computes with at the first forward pass."""
    for key, value in parameters.items():
        if isinstance(value, dict):  # a set for each kind of layer
            _check_rope_numbers(value)
        elif isinstance(value, str) and key not in ("rope_type", "type"):
            raise UserError(f"model.from_config.rope_parameters.{key}: '{value}' is no number; give one")


def _from_base(model: Model) -> "PreTrainedConfig":
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model.base, revision=model.revision)
    except (KeyError, TypeError) as error:
        raise UserError(f"model.base: the config.json of '{model.base}' has a bad key ({error}); mend it") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.base: no model at '{model.base}' ({first_line(error)}); "
            "give a folder with config.json and safetensors, or a Hub id while the network is there"
        ) from error
    return config.get_text_config()


def stage_config(recipe: Recipe, index: int, vocab_size: int) -> tuple["PreTrainedConfig", StageRope]:
    """The config that stage `index` trains with, RoPE applied, made from the recipe alone.

    Args:
        recipe: The whole recipe.
        index: Stage number from 0; −1 means the last one, as SFT has it (the base's own where there are no stages).
        vocab_size: Tokens of the tokenizer.

    Returns:
        The config, and the RoPE that was put into it.
    """
    config = base_config(recipe.model, vocab_size if recipe.model.base is None else None)
    if recipe.model.from_config is not None and "max_position_embeddings" not in recipe.model.from_config:
        config.max_position_embeddings = recipe.stages[0].context
    elif recipe.model.from_config is not None:
        # The recipe states the final length; the weights are first trained at the first stage's.
        config.max_position_embeddings = min(config.max_position_embeddings, recipe.stages[0].context)
    if not recipe.stages:
        wanted = stage_rope(recipe, -1, original_context(config))
    else:
        wanted = stage_rope(recipe, range(len(recipe.stages))[index], original_context(config))
    return apply_rope(config, wanted), wanted


# ------------------------------------------------------------------------------------------- build and load


def build_model(config: "PreTrainedConfig", seed: int, attention: str) -> "PreTrainedModel":
    """A causal language model with random weights in float32, the same for the same seed."""
    import torch
    from transformers import AutoModelForCausalLM

    import shridhar_ft.model.interface  # noqa: F401 - registers its functions

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
        except ValueError as error:  # e.g. a type without SDPA
            raise UserError(f"model: {first_line(error)}; take another model_type") from error
    forget_lengths(model)
    return model


def load_model(
    source: str | Path,
    config: "PreTrainedConfig",
    attention: str,
    dtype: "torch.dtype | str",
    revision: str | None = None,
) -> "PreTrainedModel":
    """Load weights under a config that already has its RoPE.

    Args:
        source: Folder or Hub id.
        config: From `stage_config`; its vocabulary is that of the weights until `grow_vocabulary`.
        attention: Name of the implementation, from `choose_attention`.
        dtype: Type of the weights in memory; "auto" keeps the stored one.
        revision: Commit on the Hub.

    Raises:
        UserError: The weights are not there or are pickled, or do not fit the config (a tensor missing, or of another
            shape).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import shridhar_ft.model.interface  # noqa: F401 - registers its functions

    refuse_pickles(source)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            key_mapping=(renamed := text_names(source, revision)),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are told below, by name, and not as a traceback
        )
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{source}: no weights there ({first_line(error)}); give a folder with whole safetensors, or a Hub id that "
            "has them"
        ) from error
    # transformers fills missing tensors with random numbers and only logs it.
    if absent := sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ())):
        raise UserError(f"{source}: {len(absent)} tensors do not fit or are missing, first {absent[0]}; wrong folder?")
    if renamed is not None:
        as_text_model(model)
    forget_lengths(model)
    return model


def cast_weights(model: "PreTrainedModel", dtype: "torch.dtype") -> "PreTrainedModel":
    """Weights in another type, in place, quantised ones aside; buffers keep theirs.

    `model.to(dtype)` rounds RoPE's frequencies too: in bf16, by a thousandth, far positions turn by whole radians.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def end_names(model: "PreTrainedModel") -> tuple[str, str]:
    """Names of the modules of the embeddings and of the output head."""
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(model.get_input_embeddings())], names[id(model.get_output_embeddings())]


def refuse_pickles(source: str | Path) -> None:
    """Refuse a folder whose weights are pickles alone: to open one is to run whatever it names.

    Raises:
        UserError: They are.
    """
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        raise UserError(
            f"{source}: its weights are pickled ({pickled[0]}), and opening a pickle runs whatever it names; take the "
            "base's safetensors, or, if you trust its maker, write them once by transformers' "
            "from_pretrained(FOLDER, use_safetensors=False).save_pretrained(OTHER) and name OTHER"
        )


def grow_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int:
    """Make room for tokens that were added to a base's tokenizer; returns how many rows were added.

    New rows are the mean of the old ones (Hewitt 2021, "Initializing New Word Embeddings"), which leaves the old
    tokens' probabilities nearly as they were and comes out the same at every load. A base may have more rows than its
    tokenizer has tokens (padded to a multiple); rows are never taken away.
    """
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[rows:] = layer.weight[:rows].mean(dim=0)
    model.config.pad_token_id = tokenizer.pad_token_id
    return max(len(tokenizer) - rows, 0)


# ------------------------------------------------------------------------------------------------- hashes


def base_contents(base: str | None) -> dict[str, str] | None:
    """Hashes of the files of a base that lies on this disk, so that another base under the same path is another one."""
    folder = Path(base or "")
    if base is None or not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    return {path.name: _hash_while_unchanged(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def model_fingerprint(folder: Path) -> str:
    """By which an evaluation knows the model in a folder: config, tokenizer and weights."""
    return fingerprint(base_contents(str(folder)))


@cache
def _hash_while_unchanged(path: Path, size: int, mtime_ns: int) -> str:
    """`file_hash`, once a process: every part's fingerprint asks for it, and a base has gigabytes."""
    return file_hash(path)


def weights_hash(model: "torch.nn.Module") -> str:
    """xxh3 over every parameter's name, type, shape and bytes, in the order of their names (tied ones once)."""
    return parameters_hash(model.named_parameters())


def parameters_hash(named: Iterable[tuple[str, "torch.Tensor"]]) -> str:
    """`weights_hash` of some of a model's parameters."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(named, key=itemgetter(0)):
        update_hash(digest, name, tensor)
    return digest.hexdigest()


def update_hash(digest: "xxhash.xxh3_128", name: str, tensor: "torch.Tensor") -> None:
    """Add one named tensor to a digest: name, type, shape, bytes."""
    import torch

    data = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {data.dtype} {list(data.shape)}".encode())
    digest.update(data.flatten().view(torch.uint8).numpy())


def safetensors_hash(folder: Path) -> str:
    """`weights_hash` of the safetensors files in a folder, one tensor in memory at a time."""
    from safetensors import safe_open

    where = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            where.update(dict.fromkeys(tensors.keys(), file))
    digest = xxhash.xxh3_128()
    for name, file in sorted(where.items()):
        with safe_open(file, framework="pt") as tensors:
            update_hash(digest, name, tensors.get_tensor(name))
    return digest.hexdigest()
