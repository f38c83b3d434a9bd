"""RoPE: our formulas against transformers' own, and a receipt that sees every way to get it wrong."""

import copy
import math

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shridhar_ft.config import Recipe, load_recipe
from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import build_model, stage_config
from shridhar_ft.model.rope import StageRope, apply_rope, check_rope, expected_frequencies, original_context, stage_rope

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 13.18359375, "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0, "beta_slow": 2.0},
    {**LLAMA3, "original_max_position_embeddings": 8192},
]


def config(**changes: object) -> LlamaConfig:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LlamaConfig(**{**sizes, "max_position_embeddings": 8192, **changes})


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s['rope_type']}-{s['factor']:g}")
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_formulas_agree_with_transformers(scaling: dict, theta: float, heads: int) -> None:
    made = config(
        num_attention_heads=heads, rope_parameters={**scaling, "rope_theta": theta}, max_position_embeddings=108_000
    )
    theirs, attention = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](made, torch.device("cpu"))
    ours, our_attention = expected_frequencies(made.rope_parameters, 64 // heads)
    assert torch.allclose(torch.from_numpy(ours), theirs.double(), rtol=1e-5)
    assert our_attention == pytest.approx(attention)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s['rope_type']}-{s['factor']:g}")
def test_a_bases_own_scaling_is_kept_by_type_none_and_checked(scaling: dict) -> None:
    base = config(rope_parameters={**scaling, "rope_theta": 500_000.0}, max_position_embeddings=108_000)
    claimed = apply_rope(copy.deepcopy(base), stage("none"))
    assert claimed.rope_parameters == base.rope_parameters
    assert check_rope(build_model(copy.deepcopy(claimed), 0, "sdpa"), claimed, 108_000)[2]
    plain = build_model(config(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}), 0, "sdpa")
    assert not check_rope(plain, claimed, 108_000)[2], "the unscaled model is told apart"


def stage(kind: str, context: int = 108_000, original: int = 8192, **keys: object) -> StageRope:
    return StageRope(Rope(type=kind, **keys), context, original)


@pytest.mark.parametrize(
    "wanted",
    [
        stage("none"),
        stage("linear"),
        stage("yarn"),
        stage("theta"),
        stage("yarn", theta=5e5),
        stage("theta", theta=7e6),
    ],
    ids=["none", "linear", "yarn", "theta", "yarn + theta", "theta given"],
)
def test_the_receipt_holds_up_to_108000_positions(wanted: StageRope) -> None:
    claimed = apply_rope(config(), wanted)
    model = build_model(copy.deepcopy(claimed), 0, "sdpa")
    _, measured, ok = check_rope(model, claimed, 108_000)
    assert ok, measured
    assert measured["positions"] == [0, 107_999]


def test_the_plans_factors() -> None:
    scaled = apply_rope(config(), stage("yarn")).rope_parameters
    assert scaled["factor"] == pytest.approx(13.18359375)
    assert scaled["original_max_position_embeddings"] == 8192
    theta = apply_rope(config(), stage("theta", context=32_768)).rope_parameters["rope_theta"]
    assert theta == pytest.approx(10_000 * 4 ** (32 / 30))  # head of 32 dimensions: the NTK rule
    assert apply_rope(config(), stage("yarn")).max_position_embeddings == 108_000


def test_an_edit_of_the_config_after_the_build_is_refused() -> None:
    plain = config()
    model = build_model(copy.deepcopy(plain), 0, "sdpa")
    claimed = apply_rope(config(), stage("yarn"))
    model.config.rope_parameters = claimed.rope_parameters  # what scripts of the field do, to no effect
    assert not check_rope(model, claimed, 108_000)[2]


def test_every_wrong_number_in_the_live_module_is_refused() -> None:
    claimed = apply_rope(config(), stage("yarn"))
    model = build_model(copy.deepcopy(claimed), 0, "sdpa")
    rotary = model.model.rotary_emb
    assert check_rope(model, claimed, 108_000)[2]
    rotary.inv_freq[3] *= 1.001
    assert not check_rope(model, claimed, 108_000)[2]
    rotary.inv_freq[3] /= 1.001
    rotary.attention_scaling = 1.0
    assert not check_rope(model, claimed, 108_000)[2]
    other = config(rope_parameters={"rope_type": "default", "rope_theta": 20_000.0})
    assert not check_rope(build_model(other, 0, "sdpa"), config(), 108_000)[2]


@pytest.mark.parametrize("index", [0, 5, 15])
def test_a_number_that_is_none_is_refused(index: int) -> None:
    # Every comparison with NaN is false, and max(0.0, nan) is 0.0: a careless check lets it pass.
    claimed = apply_rope(config(), stage("yarn"))
    model = build_model(copy.deepcopy(claimed), 0, "sdpa")
    model.model.rotary_emb.inv_freq[index] = float("nan")
    assert not check_rope(model, claimed, 108_000)[2]


def test_an_attention_factor_that_is_no_number_is_refused() -> None:
    model = build_model(config(), 0, "sdpa")
    model.model.rotary_emb.attention_scaling = float("nan")
    assert not check_rope(model, config(), 8192)[2]


def test_a_model_without_rotary_modules_does_not_pass() -> None:
    model = build_model(config(), 0, "sdpa")
    model.model.rotary_emb = torch.nn.Identity()
    assert not check_rope(model, config(), 8192)[2]


def test_a_head_of_another_size_does_not_pass() -> None:
    assert not check_rope(build_model(config(num_attention_heads=4), 0, "sdpa"), config(), 8192)[2]


def test_the_original_context_is_that_under_a_bases_scaling() -> None:
    assert original_context(config()) == 8192
    scaled = {**LLAMA3, "original_max_position_embeddings": 8192, "rope_theta": 5e5}
    assert original_context(config(rope_parameters=scaled, max_position_embeddings=131_072)) == 8192


def test_the_plan_at_its_own_size_has_its_rope() -> None:
    # 64 dimensions a head, 108,000 positions: the rotary module alone, the weights are never made.
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    recipe = load_recipe("shridhar-gpt")
    claimed, _ = stage_config(recipe, -1, 50_000)
    holder = torch.nn.Module()
    holder.rotary_emb = LlamaRotaryEmbedding(copy.deepcopy(claimed))
    _, measured, ok = check_rope(holder, claimed, 108_000)
    assert ok, measured
    assert measured["frequencies"]["number"] == 32
    assert measured["attention_factor"] == pytest.approx(0.1 * math.log(108_000 / 8192) + 1)


def test_gemmas_sliding_layers_keep_their_own() -> None:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
    }
    gemma = Gemma3TextConfig(
        **sizes, num_key_value_heads=1, head_dim=32, sliding_window=16, max_position_embeddings=256
    )
    before = copy.deepcopy(gemma.rope_parameters)
    claimed = apply_rope(gemma, stage("yarn", context=1024, original=original_context(gemma)))
    assert claimed.rope_parameters["sliding_attention"] == before["sliding_attention"]
    assert claimed.rope_parameters["full_attention"]["factor"] == 4.0
    _, measured, ok = check_rope(build_model(copy.deepcopy(claimed), 0, "sdpa"), claimed, 1024)
    assert ok, measured
    assert measured["rotary_modules"] == 2


def test_a_factor_that_does_not_reach_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="less than the context"):
        apply_rope(config(), stage("yarn", factor=2.0))
    with pytest.raises(UserError, match="nothing to extend"):
        apply_rope(config(), stage("yarn", context=4096))


def test_a_scaling_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UserError, match="'longrope'"):
        expected_frequencies({"rope_type": "longrope", "rope_theta": 1e4}, 32)


def test_a_stage_without_rope_keeps_that_of_the_stage_before() -> None:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": {"books": {"paths": "b"}},
            "tokenizer": {"train": {"vocab_size": 400}},
            "model": {"from_config": {"model_type": "llama"}},
            "stages": [
                {"name": "a", "context": 64},
                {"name": "b", "context": 128, "rope": {"type": "yarn"}},
                {"name": "c", "context": 128},
            ],
        }
    )
    assert stage_rope(recipe, 0, 64).rope.type == "none"
    assert stage_rope(recipe, 2, 64) == stage_rope(recipe, 1, 64)
