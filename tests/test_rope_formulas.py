"""RoPE: our float64 formulas against transformers' own functions, for every type, base and head."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shridhar_ft.errors import UserError
from shridhar_ft.model.rope_formulas import (
    changes_with_length,
    expected_frequencies,
    long_range_parameters,
    rotary_dim,
    yarn_share,
)

YARN = {"rope_type": "yarn", "factor": 13.18359375, "original_max_position_embeddings": 8192}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 8192}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 13.18359375},
    "yarn": YARN,
    "yarn, other bounds": {**YARN, "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn, attention stated": {**YARN, "attention_factor": 1.5},
    "yarn, mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.707},
    "yarn, one mscale": {**YARN, "mscale": 1.0},
    "yarn, no factor": {**YARN, "factor": None},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 8192},
    "longrope": {**LONGROPE, "factor": 13.18359375},
    "longrope, no factor": LONGROPE,
    "longrope, attention stated": {**LONGROPE, "factor": 4.0, "attention_factor": 1.19},
}


def config(scaling: dict, theta: float, heads: int, longest: int, partial: float = 1.0) -> LlamaConfig:
    parameters = {**scaling, "rope_theta": theta, "partial_rotary_factor": partial}
    if scaling["rope_type"] == "longrope":
        pairs = int(256 // heads * partial) // 2
        parameters |= {
            "short_factor": [1 + i / 99 for i in range(pairs)],
            "long_factor": [1.5 + i for i in range(pairs)],
        }
    sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1}
    return LlamaConfig(**sizes, num_attention_heads=heads, rope_parameters=parameters, max_position_embeddings=longest)


def assert_agree(made: LlamaConfig, length: int) -> None:
    parameters = made.rope_parameters
    # A number is a tensor in the live forward, and None when the module is built.
    theirs, attention = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](made, torch.device("cpu"), seq_len=length)
    ours, our_attention = expected_frequencies(
        parameters, rotary_dim(made, parameters), length, made.max_position_embeddings
    )
    assert np.allclose(ours, theirs.double().numpy(), rtol=2e-6, atol=0)
    assert our_attention == pytest.approx(attention, rel=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 8e6])
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("partial", [1.0, 0.25])
def test_formulas_agree_with_transformers(scaling: dict, theta: float, heads: int, partial: float) -> None:
    # dynamic's original length is max_position_embeddings itself
    made = config(scaling, theta, heads, 8192 if scaling["rope_type"] == "dynamic" else 108_000, partial)
    for length in (1, 8192, 8193, 32_768, 108_000):
        assert_agree(made, length)


@given(
    kind=st.sampled_from(["linear", "dynamic", "yarn", "llama3", "longrope"]),
    factor=st.floats(1, 64),
    theta=st.floats(1000, 1e9),
    original=st.integers(256, 65_536),
    longer=st.floats(1.01, 64),
    length=st.integers(1, 300_000),
)
def test_formulas_agree_for_any_factor_and_length(
    kind: str, factor: float, theta: float, original: int, longer: float, length: int
) -> None:
    scaling = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    longest = original if kind == "dynamic" else int(original * longer) + 1
    assert_agree(config(scaling, theta, 4, longest), length)


@given(factor=st.floats(1, 64), theta=st.floats(1000, 1e9), original=st.integers(64, 200_000), truncate=st.booleans())
def test_yarn_lies_between_the_unscaled_and_the_interpolated(
    factor: float, theta: float, original: int, truncate: bool
) -> None:
    parameters = {"rope_theta": theta, "factor": factor, "truncate": truncate, "rope_type": "yarn"}
    parameters["original_max_position_embeddings"] = original
    plain, _ = expected_frequencies({"rope_theta": theta}, 64)
    scaled, attention = expected_frequencies(parameters, 64)
    assert np.all(scaled <= plain * (1 + 1e-12)) and np.all(scaled >= plain / factor * (1 - 1e-12))
    assert np.all(np.diff(yarn_share(parameters, 64)) >= 0), "the slower a pair, the more it is interpolated"
    assert np.all(np.diff(scaled) < 0), "their order stays"
    assert attention == pytest.approx(0.1 * math.log(factor) + 1)


def test_golden_frequencies_of_the_plan() -> None:
    # 64 dimensions a head, 8,192 to 108,000 tokens; by hand from the paper's formulas.
    frequencies, attention = expected_frequencies({**YARN, "rope_theta": 10_000.0}, 64)
    assert attention == pytest.approx(1.2578973, rel=1e-7)
    # i(32) = 64 ln(8192 / 64π) / (2 ln 10000) = 12.88 → 12 and i(1) = 24.92 → 25: the ramp
    assert frequencies[12] == pytest.approx(10_000 ** (-24 / 64))
    assert frequencies[25] == pytest.approx(10_000 ** (-50 / 64) / 13.18359375)
    assert frequencies[18] == pytest.approx(10_000 ** (-36 / 64) * (7 / 13 + 6 / 13 / 13.18359375))


def test_dynamic_and_longrope_hang_on_the_length() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    plain, _ = expected_frequencies({"rope_theta": 10_000.0}, 64)
    assert np.array_equal(expected_frequencies(dynamic, 64, 8192, 8192)[0], plain)
    longer, _ = expected_frequencies(dynamic, 64, 32_768, 8192)
    assert longer[-1] == pytest.approx(plain[-1] / 13), "s² − s + 1, and not s"
    assert changes_with_length(dynamic) and not changes_with_length(YARN)
    longrope = {**LONGROPE, "factor": 4.0, "rope_theta": 1e4, "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    assert np.array_equal(expected_frequencies(longrope, 64, 8192)[0], plain)
    at_more, attention = expected_frequencies(longrope, 64, 8193)
    assert np.allclose(at_more, plain / 2)
    assert attention == pytest.approx(math.sqrt(1 + math.log(4) / math.log(8192)))


def test_bounds_that_cross_are_refused() -> None:
    # transformers' ramp would run backwards and interpolate the fastest pair.
    crossed = {**YARN, "rope_theta": 10.0, "original_max_position_embeddings": 200_000}
    with pytest.raises(UserError, match="take type linear or theta"):
        expected_frequencies(crossed, 64)
    with pytest.raises(UserError, match="low_freq_factor: 4 is not less"):
        expected_frequencies({**SCALINGS["llama3"], "rope_theta": 1e4, "low_freq_factor": 4}, 64)
    with pytest.raises(UserError, match="odd"):
        expected_frequencies({**YARN, "rope_theta": 1e4}, 21)


@pytest.mark.parametrize("length", [1, 100_000])
def test_lists_of_another_length_than_the_head_are_refused(length: int) -> None:
    lists = {**LONGROPE, "factor": 2.0, "rope_theta": 1e4, "short_factor": [1.0] * 31, "long_factor": [1.0] * 30}
    with pytest.raises(UserError, match="31 numbers" if length == 1 else "30 numbers"):
        expected_frequencies(lists, 64, length)


def test_a_scaling_whose_formula_is_not_known_is_refused() -> None:
    strange = Gemma3TextConfig()
    strange.rope_parameters = {**strange.rope_parameters, "sliding_attention": {"rope_type": "proportional"}}
    with pytest.raises(UserError, match="'proportional' of gemma3_text cannot be checked"):
        long_range_parameters(strange)
    strange.rope_parameters = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None}
    with pytest.raises(UserError, match="sliding_attention and none for full_attention"):
        long_range_parameters(strange)
