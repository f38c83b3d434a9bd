"""A small base with random weights: the architecture, head size, RoPE and type of weights of an open one."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Recipe
from shridhar_ft.plan.models import config_of
from shridhar_ft.rehearse.shrink import VOCABULARY
from shridhar_ft.rehearse.sizes import K_ROW, ROW, small_config
from shridhar_ft.tokenizer import byte_level_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPARE = 64  # rows without a token, where the real base has such
TYPES = ("float32", "bfloat16", "float16")


def build_base(recipe: Recipe, divisor: int, texts: Iterable[str], folder: Path, row: int = ROW) -> dict[str, Any]:
    """Build one.

    Args:
        recipe: The real recipe, whose `model.base` is meant.
        divisor: What lengths in tokens are divided by.
        texts: What a tokenizer is trained on where the base's own is not here.
        folder: Where it goes.
        row: What widths are multiples of.

    Returns:
        `config` (where the sizes are from), `tokenizer` (whether it is the base's own).

    Raises:
        UserError: The base's config is not known here.
    """
    import torch
    from transformers import CONFIG_MAPPING

    from shridhar_ft.model.build import build_model

    found = config_of(recipe.model)
    given = dict(found.config)
    stored = str(given.pop("dtype", None) or given.pop("torch_dtype", None) or "bfloat16")
    tokenizer = own_tokenizer(str(recipe.model.base))
    is_own = tokenizer is not None
    tokenizer = tokenizer or train_plain_tokenizer(texts)
    small = small_config(given, divisor, row=row)
    for key in ("torch_dtype", "transformers_version", "architectures", "_name_or_path"):
        small.pop(key, None)
    if not is_own:
        small |= dict.fromkeys(("bos_token_id", "pad_token_id"))
        small |= {"vocab_size": len(tokenizer) + (SPARE if found.spare_rows else 0)}
        small |= {"eos_token_id": tokenizer.eos_token_id}
    config = CONFIG_MAPPING[small.pop("model_type")](**small)
    model = build_model(config, recipe.seed, "sdpa").to(getattr(torch, stored if stored in TYPES else "bfloat16"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"config": found.source, "tokenizer": is_own}


def row_of(recipe: Recipe) -> int:
    """What widths of the small model must be multiples of, for the GGUFs that the recipe asks for."""
    return K_ROW if any(kind.endswith(("_k", "_k_m")) for kind in recipe.export.gguf_kinds) else ROW


def own_tokenizer(base: str) -> "PreTrainedTokenizerBase | None":
    """The base's own tokenizer, where it is on this disk."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError):  # not here; nothing is downloaded
        return None


def train_plain_tokenizer(texts: Iterable[str]) -> "PreTrainedTokenizerBase":
    """A small byte-level BPE with an end of text and none of our tokens, as a base's is before it is extended."""
    from transformers import PreTrainedTokenizerFast

    bpe = byte_level_bpe(texts, VOCABULARY, ["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", clean_up_tokenization_spaces=False)
