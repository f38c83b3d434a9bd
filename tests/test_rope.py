"""RoPE of a stage: the parameters that each type gives, what an open base keeps of its own, and what is refused."""

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, MixtralConfig, Olmo3Config, Phi3Config

from shridhar_ft.config import Recipe
from shridhar_ft.config_rope import READ_BY, Rope
from shridhar_ft.errors import UserError
from shridhar_ft.model.rope import StageRope, apply_rope, describe_rope, original_context, stage_rope
from shridhar_ft.model.rope_formulas import expected_frequencies

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8192}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096}
LONGROPE |= {"short_factor": [1.0] * 16, "long_factor": [1.0 + i for i in range(16)]}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def config(**changes: object) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "max_position_embeddings": 8192, **changes})


def stage(kind: str, context: int = 108_000, original: int = 8192, **keys: object) -> StageRope:
    return StageRope(Rope(type=kind, **keys), context, original)


def on_base(base: LlamaConfig, kind: str, context: int, **keys: object) -> dict:
    """Parameters that a stage gets on an open base."""
    rope = Rope(type=kind, **keys)
    wanted = StageRope(rope, context, rope.original_context or original_context(base))
    return apply_rope(copy.deepcopy(base), wanted).rope_parameters


# ------------------------------------------------------------------------------------------- from the config


def test_the_plans_factors() -> None:
    scaled = apply_rope(config(), stage("yarn")).rope_parameters
    assert scaled == {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 13.18359375,
        "original_max_position_embeddings": 8192,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    at_32k = apply_rope(config(), stage("yarn", context=32_768))
    assert at_32k.rope_parameters["factor"] == 4
    assert expected_frequencies(at_32k.rope_parameters, 32)[1] == pytest.approx(1.1386294)
    theta = apply_rope(config(), stage("theta", context=32_768)).rope_parameters["rope_theta"]
    assert theta == pytest.approx(10_000 * 4 ** (32 / 30))  # head of 32 dimensions: the NTK rule
    longer_heads = config(head_dim=64)
    theta = apply_rope(longer_heads, stage("theta", context=32_768)).rope_parameters["rope_theta"]
    assert theta == pytest.approx(41_829.4, rel=1e-5)
    assert apply_rope(config(), stage("yarn")).max_position_embeddings == 108_000


def test_each_type_has_the_numbers_of_its_recipe() -> None:
    given = apply_rope(
        config(), stage("yarn", theta=5e5, beta_fast=16, beta_slow=2, attention_factor=1)
    ).rope_parameters
    assert (given["rope_theta"], given["beta_fast"], given["beta_slow"], given["attention_factor"]) == (5e5, 16, 2, 1)
    llama3 = apply_rope(config(), stage("llama3", low_freq_factor=2)).rope_parameters
    assert (llama3["low_freq_factor"], llama3["high_freq_factor"], llama3["factor"]) == (2.0, 4.0, 13.18359375)
    lists = {"short_factor": [1.5] * 16, "long_factor": [3.0] * 16}
    assert lists.items() <= apply_rope(config(), stage("longrope", **lists)).rope_parameters.items()
    assert apply_rope(config(), stage("theta", theta=7e6)).rope_parameters["rope_theta"] == 7e6
    assert apply_rope(config(), stage("theta", factor=20)).rope_parameters["rope_theta"] == pytest.approx(
        10_000 * 20 ** (32 / 30)
    )


@given(context=st.integers(8193, 300_000), theta=st.floats(1000, 1e8))
def test_longrope_begins_with_yarns_divisors(context: int, theta: float) -> None:
    longrope = apply_rope(config(), stage("longrope", context=context, theta=theta)).rope_parameters
    yarn = apply_rope(config(), stage("yarn", context=context, theta=theta)).rope_parameters
    assert longrope["short_factor"] == [1.0] * 16
    ours, attention = expected_frequencies(longrope, 32, context, context)
    theirs, _ = expected_frequencies(yarn, 32)
    assert ours == pytest.approx(theirs)
    assert attention == pytest.approx(math.sqrt(1 + math.log(context / 8192) / math.log(8192)))


def test_dynamic_keeps_the_original_length_in_the_config() -> None:
    # Its formula has max_position_embeddings for L₀: raised to the context, it would never scale.
    scaled = apply_rope(config(max_position_embeddings=108_000), stage("dynamic"))
    assert scaled.max_position_embeddings == 8192
    assert scaled.rope_parameters["factor"] == 13.18359375


def test_partial_rotation_is_kept() -> None:
    neox = GPTNeoXConfig(**SIZES, max_position_embeddings=8192)
    scaled = apply_rope(neox, stage("yarn")).rope_parameters
    assert scaled["partial_rotary_factor"] == 0.25
    assert len(apply_rope(GPTNeoXConfig(**SIZES), stage("longrope")).rope_parameters["long_factor"]) == 4


@pytest.mark.parametrize("made", [Gemma3TextConfig, Olmo3Config])
def test_sliding_layers_keep_their_own(made: type) -> None:
    base = made(**{**SIZES, "num_hidden_layers": 6}, sliding_window=16, max_position_embeddings=256)
    before = copy.deepcopy(base.rope_parameters)
    after = apply_rope(base, stage("yarn", context=1024, original=original_context(base))).rope_parameters
    assert after["sliding_attention"] == before["sliding_attention"]
    assert after["full_attention"]["factor"] == 4.0


def test_a_head_size_of_none_is_filled_in() -> None:
    # transformers' yarn, dynamic and longrope would multiply it.
    mixtral = MixtralConfig(**SIZES, max_position_embeddings=8192)
    assert mixtral.head_dim is None
    assert apply_rope(mixtral, stage("yarn")).head_dim == 32


# ------------------------------------------------------------------------------------------------ open bases


def test_the_original_context_is_that_under_a_bases_scaling() -> None:
    assert original_context(config()) == 8192
    assert original_context(config(rope_parameters=LLAMA3, max_position_embeddings=131_072)) == 8192
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}
    assert original_context(config(rope_parameters=linear, max_position_embeddings=16_384)) == 4096
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e5}
    assert original_context(config(rope_parameters=dynamic, max_position_embeddings=4096)) == 4096
    gemma = Gemma3TextConfig(**SIZES, max_position_embeddings=131_072)
    gemma.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    assert original_context(gemma) == 16_384


def test_type_none_keeps_a_bases_own() -> None:
    for own, longest in ((YARN, 32_768), (LLAMA3, 131_072), (LONGROPE | {"factor": 32.0}, 131_072)):
        base = config(rope_parameters=own, max_position_embeddings=longest)
        before = copy.deepcopy(base.rope_parameters)
        assert apply_rope(base, stage("none", 200_000, original_context(base))).rope_parameters == before


def test_a_factor_that_a_base_leaves_to_its_lengths_is_written_down_before_they_change() -> None:
    base = config(rope_parameters=LONGROPE, max_position_embeddings=131_072)
    kept = apply_rope(base, stage("none", 200_000, 4096))
    assert kept.max_position_embeddings == 200_000
    assert kept.rope_parameters["factor"] == 32


def test_the_same_type_keeps_a_bases_own_numbers_and_gets_the_new_factor() -> None:
    own = {**YARN, "beta_fast": 24.0, "truncate": False, "mscale": 1.0, "mscale_all_dim": 0.7, "extra": 1}
    base = config(rope_parameters=own, max_position_embeddings=32_768)
    assert on_base(base, "yarn", 65_536) == {**base.rope_parameters, "factor": 8.0, "beta_slow": 1.0}
    base = config(rope_parameters=LLAMA3, max_position_embeddings=131_072)
    assert on_base(base, "llama3", 262_144) == {**LLAMA3, "factor": 32.0}
    assert on_base(base, "llama3", 262_144, factor=16, high_freq_factor=8)["factor"] == 16
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}
    base = config(rope_parameters=linear, max_position_embeddings=16_384)
    assert on_base(base, "linear", 32_768) == {**linear, "factor": 8.0}


def test_an_attention_factor_that_is_the_formulas_follows_the_new_factor() -> None:
    derived = {**YARN, "attention_factor": 0.1 * math.log(4) + 1}
    base = config(rope_parameters=derived, max_position_embeddings=32_768)
    assert "attention_factor" not in on_base(base, "yarn", 65_536)
    base = config(rope_parameters={**YARN, "attention_factor": 1.0}, max_position_embeddings=32_768)
    assert on_base(base, "yarn", 65_536)["attention_factor"] == 1.0, "the base's own choice"
    assert on_base(base, "yarn", 65_536, attention_factor=1.2)["attention_factor"] == 1.2


def test_another_type_replaces_a_bases_own_and_says_so() -> None:
    base = config(rope_parameters=LLAMA3, max_position_embeddings=131_072)
    replaced = on_base(base, "yarn", 108_000)
    assert replaced["factor"] == 13.18359375 and "low_freq_factor" not in replaced
    told = describe_rope(base, stage("yarn"))
    assert told == (
        "yarn, 108,000 over 8,192 tokens, factor 13.18; it replaces the base's own llama3 scaling and starts from the "
        "unscaled frequencies"
    )
    assert describe_rope(config(), stage("none")) == "as the model has it (default)"
    assert "base from 10,000 to" in describe_rope(config(), stage("theta"))
    assert "the longest document of a batch decides" in describe_rope(config(), stage("longrope"))


def test_phi3s_own_place_for_the_original_length_is_set_too() -> None:
    phi = Phi3Config(**SIZES, max_position_embeddings=8192, pad_token_id=None)
    scaled = apply_rope(phi, stage("longrope"))
    again = Phi3Config(**scaled.to_dict())
    assert again.rope_parameters["original_max_position_embeddings"] == 8192


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("field", READ_BY)
@pytest.mark.parametrize("kind", ["none", "linear", "dynamic", "yarn", "longrope", "llama3", "theta"])
def test_a_field_without_effect_is_refused_by_name(field: str, kind: str) -> None:
    given = {"type": kind, field: [2.0] if field.endswith(("short_factor", "long_factor")) else 16}
    if kind in READ_BY[field]:
        assert getattr(Rope(**given), field) is not None
        return
    with pytest.raises(ValidationError, match=f"take {field} away" if kind == "none" else f"{field} has no effect"):
        Rope(**given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"type": "theta", "theta": 1e6, "factor": 2}, "keep one of them"),
        ({"type": "longrope", "long_factor": [1.0], "attention_factor": 1.1, "factor": 2}, "factor has no effect"),
        ({"type": "yarn", "beta_fast": 1, "beta_slow": 2}, "beta_slow: 2 is not less than beta_fast of 1"),
        ({"type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}, "low_freq_factor: 4 is not less"),
        ({"type": "longrope", "long_factor": []}, "long_factor"),
        ({"type": "longrope", "short_factor": [0.0]}, "short_factor"),
        ({"type": "yarn", "factor": 0.5}, "factor"),
        ({"type": "ntk"}, "type"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(given: dict, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Rope(**given)


def refusal(base: LlamaConfig, kind: str, context: int, **keys: object) -> str:
    with pytest.raises(UserError) as error:
        on_base(base, kind, context, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_factor_that_does_not_reach_the_context_is_refused() -> None:
    assert "less than the context" in refusal(config(), "yarn", 108_000, factor=2)
    assert "nothing to extend" in refusal(config(), "yarn", 4096)
    assert apply_rope(config(), stage("llama3", factor=8)).rope_parameters["factor"] == 8, "as Meta did"


def test_extending_within_a_bases_own_reach_is_refused() -> None:
    base = config(rope_parameters=LLAMA3, max_position_embeddings=131_072)
    assert "the base's own llama3 scaling reaches 131,072 tokens" in refusal(base, "llama3", 108_000)
    assert on_base(base, "llama3", 108_000, factor=9)["factor"] == 9


def test_longrope_lists_that_do_not_fit_are_refused() -> None:
    assert "rope.long_factor: 3 numbers for heads of 16 rotated pairs" in refusal(
        config(), "longrope", 108_000, long_factor=[1, 2, 3]
    )
    base = config(rope_parameters=LONGROPE, max_position_embeddings=65_536)
    assert "was searched for 65,536 tokens" in refusal(base, "longrope", 108_000)
    assert on_base(base, "longrope", 108_000, long_factor=[9.0] * 16)["short_factor"] == [1.0] * 16


def test_weights_that_never_saw_unscaled_frequencies_are_no_start_for_another_type() -> None:
    base = config(rope_parameters={**LONGROPE, "short_factor": [1.1] * 16}, max_position_embeddings=65_536)
    assert "never saw the unscaled frequencies that yarn starts from" in refusal(base, "yarn", 108_000)
    assert on_base(base, "longrope", 108_000, long_factor=[9.0] * 16)["short_factor"] == [1.1] * 16


def test_a_type_that_the_model_types_config_turns_into_another_is_refused() -> None:
    phi = Phi3Config(**SIZES, max_position_embeddings=4096, pad_token_id=None)
    for kind in ("linear", "dynamic", "yarn", "llama3"):
        assert f"phi3 does not take {kind} (" in refusal(phi, kind, 108_000)


def test_a_head_with_one_frequency_cannot_have_another_base() -> None:
    assert "no base" in refusal(config(head_dim=2), "theta", 108_000)
    assert "no base" in refusal(config(head_dim=2), "dynamic", 108_000)


def recipe(*stages: dict) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "data": {"books": {"paths": "b"}},
            "tokenizer": {"train": {"vocab_size": 400}},
            "model": {"from_config": {"model_type": "llama"}},
            "stages": list(stages),
        }
    )


def test_a_stage_without_rope_keeps_that_of_the_stage_before() -> None:
    made = recipe(
        {"name": "a", "context": 64},
        {"name": "b", "context": 128, "rope": {"type": "yarn"}},
        {"name": "c", "context": 128},
    )
    assert stage_rope(made, 0, 64).rope.type == "none"
    assert stage_rope(made, 2, 64) == stage_rope(made, 1, 64) == stage_rope(made, -1, 64)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "yarn"])
def test_skipped_positions_do_not_go_with_dynamic(kind: str) -> None:
    made = recipe(
        {"name": "a", "context": 64},
        {"name": "b", "context": 128, "rope": {"type": kind}},
        {"name": "c", "context": 128, "pose": {"window": 64}},
    )
    apply_rope(config(max_position_embeddings=64), stage_rope(made, 1, 64))
    skipping = stage_rope(made, 2, 64)
    assert skipping.skips
    if kind == "dynamic":
        with pytest.raises(UserError, match="take pose away"):
            apply_rope(config(max_position_embeddings=64), skipping)
    else:
        apply_rope(config(max_position_embeddings=64), skipping)
