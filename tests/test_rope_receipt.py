"""The RoPE receipt: it holds for what the recipe says, on every architecture and on disk, and sees every change."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, LlamaForCausalLM

from shridhar_ft.config import load_recipe
from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import CheckFailed
from shridhar_ft.model.build import build_model, load_model, stage_config
from shridhar_ft.model.rope import StageRope, apply_rope, forget_lengths
from shridhar_ft.model.rope_formulas import rope_sets
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope, live_rope, need_certified_rope, need_rope
from shridhar_ft.receipts import write_receipt

SMALL = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "pad_token_id": None}


def config(model_type: str = "llama", layers: int = 1, **changes: object):
    made = CONFIG_MAPPING[model_type](
        **{**SMALL, "num_hidden_layers": layers, "max_position_embeddings": 8192, **changes}
    )
    made.num_key_value_heads = made.num_attention_heads
    return made


def stage(kind: str, context: int = 108_000, original: int = 8192, **keys: object) -> StageRope:
    return StageRope(Rope(type=kind, **keys), context, original)


WANTED = {
    "none": stage("none"),
    "linear": stage("linear"),
    "dynamic": stage("dynamic"),
    "yarn": stage("yarn"),
    "longrope": stage("longrope"),
    "llama3": stage("llama3"),
    "theta": stage("theta"),
    "yarn + theta": stage("yarn", theta=5e5),
    "longrope + theta": stage("longrope", theta=5e5),
    "theta given": stage("theta", theta=7e6),
    "yarn, its own numbers": stage("yarn", beta_fast=16, beta_slow=2, attention_factor=1.1),
    "llama3, its own numbers": stage("llama3", low_freq_factor=2, high_freq_factor=8),
}
# Partial rotation, shared heads, sets by kind of layer, heads of their own size, complex numbers, interleaved ones.
ARCHITECTURES = {
    "llama": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 2},
    "qwen3": {"head_dim": 32},
    "gpt_neox": {},
    "phi": {},
    "cohere": {},
    "gpt_oss": {"head_dim": 32, "num_local_experts": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "gemma3_text": {"head_dim": 32, "num_hidden_layers": 6},
    "olmo3": {"num_hidden_layers": 4},
    "deepseek_v2": {"qk_rope_head_dim": 32, "kv_lora_rank": 16, "q_lora_rank": 16, "n_routed_experts": 2},
    "phi3": {},
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_it_holds_up_to_108000_positions_and_on_disk(wanted: StageRope, tmp_path: Path) -> None:
    claimed = apply_rope(config(), wanted)
    model = build_model(copy.deepcopy(claimed), 0, "sdpa")
    _, measured, ok = check_rope(model, claimed, 108_000)
    assert ok, measured
    assert measured["positions"] == [0, 107_999]
    model.save_pretrained(tmp_path)
    _, measured, ok = check_written_rope(tmp_path, claimed, 108_000)
    assert ok, measured
    loaded = load_model(tmp_path, AutoConfig.from_pretrained(tmp_path), "sdpa", torch.float32)
    assert check_rope(loaded, claimed, 108_000)[2]


@pytest.mark.parametrize("kind", ["none", "linear", "dynamic", "yarn", "longrope", "llama3", "theta"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_type_on_every_kind_of_architecture(model_type: str, kind: str, tmp_path: Path) -> None:
    if model_type == "phi3" and kind not in ("none", "longrope", "theta"):
        pytest.skip("its config takes no other: test_rope")
    base = config(model_type, **ARCHITECTURES[model_type])
    before = copy.deepcopy(rope_sets(base))
    claimed = apply_rope(copy.deepcopy(base), stage(kind))
    model = build_model(copy.deepcopy(claimed), 0, "eager")
    _, measured, ok = check_rope(model, claimed, 108_000)
    assert ok, measured
    after = rope_sets(claimed)
    assert after.keys() == before.keys()
    assert after.get("sliding_attention") == before.get("sliding_attention"), "it sees no further than before"
    for name, parameters in before.items():
        assert after[name].get("partial_rotary_factor") == parameters.get("partial_rotary_factor")
    model.config.save_pretrained(tmp_path)
    _, measured, ok = check_written_rope(tmp_path, claimed, 108_000)
    assert ok, measured


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_it_looks_at_both_regimes_and_leaves_the_module_as_it_was(kind: str, model_type: str) -> None:
    claimed = apply_rope(config(model_type, **ARCHITECTURES[model_type]), stage(kind, context=32_768))
    model = build_model(copy.deepcopy(claimed), 0, "sdpa")
    rotary = live_rope(model)[0].module
    for longest in (20_000, 100):  # whatever the module has seen before
        arguments = ("full_attention",) if model_type == "gemma3_text" else ()
        rotary(torch.zeros(1), torch.tensor([[0, longest]]), *arguments)
        names = sorted(vars(rotary)), {name: value.clone() for name, value in rotary.named_buffers()}
        _, measured, ok = check_rope(model, claimed, 32_768)
        assert ok, measured
        assert {8191, 32_768, 108_000} <= set(measured["lengths"])
        assert sorted(vars(rotary)) == names[0]
        assert all(torch.equal(value, names[1][name]) for name, value in rotary.named_buffers())
    if kind == "longrope":
        assert measured["applies_at_the_context"] == "long_factor"
        assert check_rope(model, claimed, 8192)[1]["applies_at_the_context"] == "short_factor"


@pytest.mark.parametrize("harmed", ["long_factor", "short_factor", "factor"])
def test_a_change_in_one_regime_only_is_seen(harmed: str) -> None:
    claimed = apply_rope(config(), stage("longrope", context=32_768))
    other = copy.deepcopy(claimed)
    if harmed == "factor":  # it is in the attention factor alone
        other.rope_parameters["factor"] *= 1.01
    else:
        other.rope_parameters[harmed] = [1.001 * divisor for divisor in other.rope_parameters[harmed]]
    assert check_rope(build_model(copy.deepcopy(claimed), 0, "sdpa"), claimed, 8192)[2]
    assert not check_rope(build_model(other, 0, "sdpa"), claimed, 8192)[2]
    dynamic = apply_rope(config(), stage("dynamic"))
    other = copy.deepcopy(dynamic)
    other.max_position_embeddings = 108_000  # where most scripts would raise it: nothing would ever be scaled
    assert not check_rope(build_model(other, 0, "sdpa"), dynamic, 108_000)[2]


def test_dynamic_forgets_the_batches_before() -> None:
    positions = torch.arange(8192)[None]
    model = LlamaForCausalLM(apply_rope(config(), stage("dynamic")))
    rotary = model.model.rotary_emb
    fresh = rotary(torch.zeros(1), positions)[0].clone()
    rotary(torch.zeros(1), torch.tensor([[0, 50_000]]))
    assert not torch.equal(rotary(torch.zeros(1), positions)[0], fresh), "transformers' remembers a longer batch"
    forget_lengths(model)
    rotary(torch.zeros(1), torch.tensor([[0, 50_000]]))
    assert torch.equal(rotary(torch.zeros(1), positions)[0], fresh)
    long = [rotary(torch.zeros(1), torch.tensor([[0, last]]))[0] for last in (20_000, 50_000, 20_000)]
    assert torch.equal(long[0], long[2]) and not torch.equal(long[0], long[1])
    assert check_rope(model, model.config, 108_000)[2]
    gemma = build_model(apply_rope(config("gemma3_text", **ARCHITECTURES["gemma3_text"]), stage("dynamic")), 0, "sdpa")
    first, _, again = (
        gemma.model.rotary_emb(torch.zeros(1), torch.tensor([[0, last]]), "full_attention")[0]
        for last in (8191, 50_000, 8191)
    )
    assert torch.equal(first, again)


# ------------------------------------------------------------------------------------------------ refusals


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


def test_frequencies_rounded_to_bfloat16_are_refused() -> None:
    model = build_model(config(), 0, "sdpa")
    assert check_rope(model.bfloat16(), config(), 8192)[1]["largest_relative_frequency_difference"] > 1e-3
    assert not check_rope(model, config(), 8192)[2]


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


def test_sets_of_another_kind_of_layer_do_not_pass() -> None:
    gemma = config("gemma3_text", **ARCHITECTURES["gemma3_text"])
    assert not check_rope(build_model(gemma, 0, "sdpa"), config(), 8192)[2]


def edited(folder: Path, **changes: object) -> None:
    stored = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value is None:
            del stored[key]
        elif isinstance(value, dict):
            stored[key] |= value
        else:
            stored[key] = value
    (folder / "config.json").write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rope_parameters": None}, "rope_parameters is missing"),
        ({"rope_parameters": {"rope_theta": 20_000.0}}, "rope_parameters.rope_theta is 20000.0 and not 10000.0"),
        ({"rope_parameters": {"factor": 4.0}}, "rope_parameters.factor is 4.0 and not 13.18359375"),
        ({"rope_parameters": {"truncate": False}}, "rope_parameters.truncate is False and not there"),
        ({"max_position_embeddings": 8192}, "max_position_embeddings is 8192 and not 108000"),
    ],
)
def test_a_written_config_that_says_otherwise_is_refused(changes: dict, sentence: str, tmp_path: Path) -> None:
    claimed = apply_rope(config(), stage("yarn"))
    claimed.save_pretrained(tmp_path)
    assert check_written_rope(tmp_path, claimed, 108_000)[2]
    edited(tmp_path, **changes)
    _, measured, ok = check_written_rope(tmp_path, claimed, 108_000)
    assert not ok
    assert measured["differs"] == [sentence]


def test_a_written_head_of_another_size_is_refused(tmp_path: Path) -> None:
    claimed = apply_rope(config(), stage("yarn"))
    claimed.save_pretrained(tmp_path)
    edited(tmp_path, head_dim=16)
    assert not check_written_rope(tmp_path, claimed, 108_000)[2]


def test_a_lost_dict_is_seen_where_it_says_the_models_own_defaults(tmp_path: Path) -> None:
    # transformers would read it right; other programs need not share its defaults.
    config().save_pretrained(tmp_path)
    assert check_written_rope(tmp_path, config(), 8192)[2]
    edited(tmp_path, rope_parameters=None)
    assert not check_written_rope(tmp_path, config(), 8192)[2]


# ------------------------------------------------------------------------------------------------ the plan


def test_the_plan_at_its_own_size_has_its_rope(tmp_path: Path) -> None:
    # 64 dimensions a head, 108,000 positions: the rotary module alone, the weights are never made.
    claimed, _ = stage_config(load_recipe("shridhar-gpt"), -1, 50_000)
    claimed.architectures = ["LlamaForCausalLM"]
    claimed.save_pretrained(tmp_path)
    _, measured, ok = check_written_rope(tmp_path, claimed, 108_000)
    assert ok, measured
    assert measured["frequencies"]["number"] == 32
    assert measured["attention_factor"] == pytest.approx(1.2578973)


def test_a_longer_context_than_108000_is_checked_to_its_end() -> None:
    claimed = apply_rope(config(), stage("yarn", context=1_000_000))
    _, measured, ok = check_rope(build_model(copy.deepcopy(claimed), 0, "sdpa"), claimed, 1_000_000)
    assert ok, measured
    assert measured["positions"] == [0, 999_999]


def test_the_receipt_can_be_written(tmp_path: Path) -> None:
    claimed = apply_rope(config(), stage("longrope"))
    checked = check_rope(build_model(copy.deepcopy(claimed), 0, "sdpa"), claimed, 108_000)
    receipt = write_receipt(tmp_path / "rope.json", *checked)
    assert json.loads((tmp_path / "rope.json").read_text()) == receipt


@pytest.mark.parametrize("harm", ["lost", "another factor", "another length"])
def test_an_export_whose_scaling_was_edited_is_not_loaded(tmp_path: Path, harm: str) -> None:
    wanted = config()
    apply_rope(wanted, WANTED["yarn"])
    folder = tmp_path / "model"
    LlamaForCausalLM(wanted).save_pretrained(folder)
    need_certified_rope(folder)  # a folder without a certificate claims nothing
    claimed, measured, ok = check_written_rope(folder, wanted, 108_000)
    write_receipt(tmp_path / "certificate.json", {"rope": claimed}, {"rope": measured}, ok)
    need_certified_rope(folder)
    file = folder / "config.json"
    stored = json.loads(file.read_text())
    if harm == "lost":
        del stored["rope_parameters"]
    elif harm == "another factor":
        stored["rope_parameters"]["factor"] = 4.0
    else:
        stored["max_position_embeddings"] = 8192
    file.write_text(json.dumps(stored))
    with pytest.raises(CheckFailed, match=r"config\.json: not the RoPE that was certified .*; export the model again"):
        need_certified_rope(folder)


def test_a_model_that_is_only_read_is_checked_too() -> None:
    wanted = config()
    apply_rope(wanted, WANTED["yarn"])
    model = LlamaForCausalLM(wanted)
    need_rope(model, wanted, 108_000)
    with pytest.raises(CheckFailed, match="not the one that was asked for"):
        need_rope(model, config(), 108_000)
