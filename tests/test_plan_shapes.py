"""plan/shapes.py: parameters by formula against the model on the meta device, one by one."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from shridhar_ft.config import load_recipe
from shridhar_ft.model.build import base_config
from shridhar_ft.plan.meta import shape_on_meta
from shridhar_ft.plan.models import config_of
from shridhar_ft.plan.shapes import FAMILIES, shape_of
from shridhar_ft.shipped import recipe_names

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOKENS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
VARIANTS = (
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False, "num_key_value_heads": 4},
    {"head_dim": 24},
    {"attention_bias": True},
    {"mlp_bias": True},
)


def meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_counted(family: str, variant: dict) -> None:
    config = CONFIG_MAPPING[family](**SMALL | TOKENS | variant)
    model = meta(config)
    shape = shape_of({"model_type": family, **SMALL, **variant})
    assert shape is not None
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    groups = {"linear": 0, "biases": 0, "norms": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        kind = "heads" if parameter is head or parameter is embedding else "norms"
        if kind == "norms" and "norm" not in name:
            kind = "biases" if name.endswith("bias") else "linear"
        groups[kind] += parameter.numel()
    counted = {
        "linear": shape.linear,
        "biases": shape.biases,
        "norms": shape.norms,
        "heads": shape.head * (1 if shape.tied else 2),
    }
    assert counted == groups
    assert shape.total == sum(p.numel() for p in model.parameters())
    assert shape.tied == (head is embedding)
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.0"))
    linears = {
        n.split(".")[-1]: (m.in_features, m.out_features)
        for n, m in layer.named_modules()
        if isinstance(m, torch.nn.Linear)
    }
    assert shape.linears == linears


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_config_leaves_out_is_as_its_class_fills_it_in(family: str) -> None:
    config = CONFIG_MAPPING[family]()
    shape = shape_of({"model_type": family})
    assert shape is not None
    assert shape.total == sum(p.numel() for p in meta(config).parameters())
    assert shape.positions == config.max_position_embeddings
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    assert shape.windows == tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


@pytest.mark.parametrize("family", ["llama", "olmo3", "gemma3_text", "qwen3"])
def test_the_meta_device_and_the_formula_say_the_same(family: str) -> None:
    config = CONFIG_MAPPING[family](**SMALL | TOKENS)
    counted, formula = shape_on_meta(config), shape_of({"model_type": family, **SMALL})
    assert formula is not None
    for name in (
        "total",
        "linear",
        "head",
        "linears",
        "queries",
        "keys",
        "tied",
        "windows",
        "positions",
        "tiles",
        "normed",
    ):
        assert getattr(counted, name) == getattr(formula, name), name


def test_another_architecture_is_counted_whole() -> None:
    config = CONFIG_MAPPING["phi3"](**SMALL | TOKENS)
    assert shape_of({"model_type": "phi3", **SMALL}) is None
    assert shape_on_meta(config).total == sum(p.numel() for p in meta(config).parameters())
    experts = CONFIG_MAPPING["mixtral"](**SMALL | TOKENS, num_local_experts=4)
    assert not shape_on_meta(experts).tiles


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).model.from_config])
def test_models_of_the_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name)
    vocabulary = recipe.tokenizer.train.vocab_size
    shape = shape_of(config_of(recipe.model).config, vocabulary)
    assert shape is not None
    assert shape.total == sum(p.numel() for p in meta(base_config(recipe.model, vocabulary)).parameters())


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["down_proj"]], ids=str)
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_counted_as_peft_makes_them(targets, dora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    config = CONFIG_MAPPING["qwen2"](**SMALL | TOKENS)
    model = get_peft_model(meta(config), LoraConfig(r=4, target_modules=targets, use_dora=False, task_type="CAUSAL_LM"))
    shape = shape_of({"model_type": "qwen2", **SMALL})
    assert shape is not None
    rows = sum(out for name, (_, out) in shape.linears.items() if targets == "all-linear" or name in targets)
    made = sum(p.numel() for p in model.parameters() if p.requires_grad) + (shape.layers * rows if dora else 0)
    assert shape.adapters(4, targets, dora) == made


@pytest.mark.parametrize("targets", [["self_attn.q_proj", "mlp.down_proj"], ["layers.0.self_attn.q_proj", "up_proj"]])
def test_targets_named_by_more_than_their_last_part_are_counted_too(targets: list[str]) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        meta(CONFIG_MAPPING["qwen2"](**SMALL | TOKENS)), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    )
    shape = shape_of({"model_type": "qwen2", **SMALL})
    assert shape is not None
    assert shape.adapters(4, targets) == sum(p.numel() for p in model.parameters() if p.requires_grad)
