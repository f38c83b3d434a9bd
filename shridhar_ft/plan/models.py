"""The config of a recipe's model as plain keys, without transformers: from the recipe, a folder, or the Hub's cache.

What of the open bases is known here already is in bases.yaml, so that a plan needs neither network nor download.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shridhar_ft.config import Model, read_yaml
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.plan.shapes import layer_kinds

BASES = Path(__file__).with_name("bases.yaml")


@dataclass(frozen=True)
class ModelConfig:
    """A model's config, and where it was read."""

    config: dict[str, Any]
    source: str
    spare_rows: bool = False
    """Whether a base has more rows of embeddings than tokens, so that new tokens need none."""


def config_of(model: Model) -> ModelConfig:
    """The config of a recipe's model, as it is before any stage.

    Args:
        model: The recipe's `model` section.

    Raises:
        UserError: A base that is neither a folder, nor in the Hub's cache, nor one of bases.yaml.
    """
    if model.from_config is not None:
        config = dict(model.from_config)
        if model.attention == "sparse" and isinstance(config.get("num_hidden_layers"), int):
            kinds = layer_kinds(config["num_hidden_layers"], model.sparse.global_every)
            config = {"sliding_window": model.sparse.window, "layer_types": kinds, **config}
        return ModelConfig(config, "the recipe")
    assert model.base is not None, "a model has one of the two"
    file = Path(model.base) / "config.json"
    if not file.is_file():
        known = known_bases()
        if model.base in known:
            config = dict(known[model.base])
            return ModelConfig(config, "bases.yaml", spare_rows=config.pop("spare_rows", False))
        file = _in_cache(model.base, model.revision)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return ModelConfig(config.get("text_config") or config, str(file))
    except (ValueError, AttributeError) as error:
        raise UserError(f"model.base: {file} is no model's config ({first_line(error)}); fetch it again") from error


@cache
def known_bases() -> dict[str, dict[str, Any]]:
    """Hub id → config, of bases.yaml."""
    groups = read_yaml(BASES.read_text(encoding="utf-8"))
    return {name: group["config"] for group in groups for name in group["names"]}


def _in_cache(base: str, revision: str | None) -> Path:
    """config.json of a base in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if "/" in base and not Path(base).is_absolute():
        with suppress(ValueError):  # no name that the Hub could have
            found = try_to_load_from_cache(base, "config.json", revision=revision)
            if isinstance(found, str):
                return Path(found)
    raise UserError(
        f"model.base: no folder with config.json at '{base}', and no such model in the Hub's cache or among the "
        f"{len(known_bases())} whose sizes are known; give a folder, or download its config.json first"
    )
