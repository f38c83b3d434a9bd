"""A run folder that was never trained, for tests of evaluation: the sample's data, a tokenizer, a tiny random model."""

from pathlib import Path

import yaml

from shridhar_ft.config import dump_recipe, load_recipe
from shridhar_ft.data import build
from shridhar_ft.progress import quiet
from shridhar_ft.runfolder import Run, record_recipe
from shridhar_ft.shipped import shipped
from shridhar_ft.tokenizer import ensure_tokenizer

SUITE = {
    "tasks": {
        "loss_by_position": {"windows": 2},
        "bits_per_byte": {"passages": 4, "characters": 300},
        "retention": {"kinds": ["single_key", "two_fact"], "lengths": [384, 768], "depths": 2, "seeds": 1},
    }
}


def make_run(folder: Path, **settings: str) -> Run:
    """A run in `folder` with data, tokenizer and a random model of 768 tokens as its export; work in `folder` then."""
    from transformers import LlamaConfig

    from shridhar_ft.model.build import build_model

    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    recipe = load_recipe(
        shipped("recipes/demo/recipe.yaml"), ["name=tiny", "tokenizer.train.vocab_size=600", *overrides]
    )
    run = Run(folder / "runs" / "tiny")
    build.ensure(recipe, run, quiet)
    tokenizer = ensure_tokenizer(recipe, run, quiet)
    record_recipe(run, dump_recipe(recipe), recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=768,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = build_model(config, 0, "sdpa")
    model.save_pretrained(run.export / "model")
    tokenizer.save_pretrained(run.export / "model")
    return run


def write_suite(file: Path, **tasks: dict) -> Path:
    """A suite of these tasks, or the small one."""
    file.write_text(yaml.safe_dump({"tasks": tasks} if tasks else SUITE), encoding="utf-8")
    return file
