"""Building and loading: what is refused by name, and hashes that see the same weights on disk and in memory."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shridhar_ft.adapters import load_weights
from shridhar_ft.config import Model, Sparse, load_recipe
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.hf_reader import open_folder
from shridhar_ft.export.merge_stream import plan_merge
from shridhar_ft.export.run import open_run
from shridhar_ft.generation import TransformersEngine, model_at
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import (
    base_config,
    base_contents,
    build_model,
    grow_vocabulary,
    load_model,
    safetensors_hash,
    stage_config,
    weights_hash,
)
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.rope import check_rope
from shridhar_ft.weights import Weights


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model_type": "gpt2"}, "gpt2 has no rotary position embedding"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": "llama", "hiden_size": 64}, "did you mean 'hidden_size'"),
        ({"model_type": "llama", "hidden_size": 65, "num_attention_heads": 4}, "multiple of the number of attention"),
        ({"model_type": "llama", "vocab_size": 99}, "leave it out"),
    ],
)
def test_a_wrong_config_is_refused(given: dict, told: str) -> None:
    with pytest.raises(UserError) as error:
        base_config(Model(from_config=given), vocab_size=100)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_base_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        base_config(Model(base=str(tmp_path)))


def test_theta_may_be_given_as_a_plain_key() -> None:
    config = base_config(Model(from_config={"model_type": "llama", "rope_theta": 5e5}))
    assert config.rope_parameters["rope_theta"] == 5e5


def test_the_plan_has_its_256_million_parameters() -> None:
    from transformers import AutoModelForCausalLM

    recipe = load_recipe("shridhar-gpt", ["model.from_config.num_key_value_heads=16"])
    config, rope = stage_config(recipe, -1, 50_000)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(256, abs=1)
    assert (config.max_position_embeddings, rope.original_context) == (108_000, 8192)
    assert config.rope_parameters["factor"] == pytest.approx(108_000 / 8192)


@pytest.mark.parametrize("tied", [True, False])
def test_the_hash_of_live_weights_is_that_of_the_files(llama, tmp_path: Path, tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size="20KB")  # several shards
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights_hash(model) == safetensors_hash(tmp_path)
    loaded = load_model(tmp_path, model.config, "sdpa", torch.float32)
    assert weights_hash(loaded) == weights_hash(model)
    with torch.no_grad():
        loaded.model.norm.weight[0] += 1e-7 + loaded.model.norm.weight[0] * 1e-6
    assert weights_hash(loaded) != weights_hash(model)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt_neox", "mixtral", "cohere", "glm", "gemma3_text"])
def test_other_architectures_keep_their_hash_and_their_rope(model_type: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra = {} if model_type == "gpt_neox" else {"num_key_value_heads": 2}
    extra |= {"head_dim": 8} if model_type in ("qwen3", "glm", "gemma3_text") else {}
    config = base_config(Model(from_config={"model_type": model_type, **sizes, **extra}), vocab_size=600)
    claimed = type(config)(**config.to_dict())
    model = build_model(config, 0, "sdpa")
    assert check_rope(model, claimed, 128)[2]
    assert probe_isolation(model, 600, 128)[2]
    model.save_pretrained(tmp_path)
    assert weights_hash(load_model(tmp_path, config, "sdpa", torch.float32)) == weights_hash(model)


def test_a_missing_tensor_is_an_error_and_no_random_number(llama, saved_llama: Path) -> None:
    tensors = load_file(saved_llama / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, saved_llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors do not fit or are missing, first model\.layers\.1\.mlp\.up_proj"):
        load_model(saved_llama, llama().config, "sdpa", torch.float32)


def test_weights_of_another_shape_are_refused_by_name(llama, saved_llama: Path) -> None:
    with pytest.raises(UserError, match=r"6 tensors do not fit or are missing, first .*model\.layers\.0\.mlp"):
        load_model(saved_llama, llama(intermediate_size=48).config, "sdpa", torch.float32)


@pytest.mark.parametrize("kept", [0, 3, 20_000])
def test_a_download_that_broke_off_is_refused_in_one_sentence(llama, saved_llama: Path, kept: int) -> None:
    file = saved_llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="give a folder with whole safetensors") as error:
        load_model(saved_llama, llama().config, "sdpa", torch.float32)
    assert str(saved_llama) in str(error.value) and "\n" not in str(error.value)


def test_a_base_in_a_pickle_is_refused_unopened(llama, tokenizer, saved_llama: Path, tmp_path: Path) -> None:
    (saved_llama / "model.safetensors").unlink()
    tokenizer.save_pretrained(saved_llama)

    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    (saved_llama / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Harm()}))
    for act in (
        lambda: load_model(saved_llama, llama().config, "sdpa", torch.float32),
        lambda: load_weights(Weights(str(saved_llama)), llama().config, tokenizer, "sdpa", torch.float32),
        lambda: plan_merge(Weights(str(saved_llama)), llama().config, tokenizer),
        lambda: model_at(str(saved_llama), open_run),
        lambda: open_folder(saved_llama, "it"),
        lambda: TransformersEngine(saved_llama),
    ):
        with pytest.raises(
            UserError, match=r"its weights are pickled \(pytorch_model\.bin\).* write them once"
        ) as error:
            act()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_a_base_on_this_disk_is_known_by_its_contents(saved_llama: Path) -> None:
    before = base_contents(str(saved_llama))
    assert before and sorted(before) == ["config.json", "generation_config.json", "model.safetensors"]
    (saved_llama / "notes.txt").write_text("no part of it")
    assert base_contents(str(saved_llama)) == before
    (saved_llama / "config.json").write_text((saved_llama / "config.json").read_text() + " ")
    assert base_contents(str(saved_llama)) != before
    assert base_contents(None) is None and base_contents("org/on-the-hub") is None


def test_the_same_seed_gives_the_same_weights(llama) -> None:
    state = torch.random.get_rng_state()
    assert weights_hash(llama(seed=1)) == weights_hash(llama(seed=1)) != weights_hash(llama(seed=2))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_get_the_mean_row_and_nothing_is_taken_away(llama, tokenizer, tied: bool) -> None:
    model = llama(vocab_size=590, tie_word_embeddings=tied)
    mean = model.get_output_embeddings().weight.mean(0)
    assert grow_vocabulary(model, tokenizer) == len(tokenizer) - 590
    assert torch.allclose(model.get_output_embeddings().weight[-1], mean)
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(tokenizer)
    larger = llama(vocab_size=700)
    assert grow_vocabulary(larger, tokenizer) == 0
    assert larger.config.vocab_size == 700


def sparse(model_type: str = "olmo3", every: int = 4, **given: object) -> Model:
    """A recipe's model with sliding layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4, **given}
    return Model(
        from_config={"model_type": model_type, **sizes},
        attention="sparse",
        sparse=Sparse(window=64, global_every=every),
    )


def test_every_so_many_layers_one_sees_the_whole_context() -> None:
    config = base_config(sparse(), 600)
    assert config.sliding_window == 64
    assert config.layer_types == 2 * [*3 * ["sliding_attention"], "full_attention"]
    assert base_config(sparse("gemma3_text", 6, num_hidden_layers=7), 600).layer_types.count("full_attention") == 1
    assert base_config(sparse("gemma3_text", 6, head_dim=8), 600).query_pre_attn_scalar == 8
    assert base_config(sparse(every=3), 600).layer_types[2::3] == ["full_attention"] * 2


def test_what_the_recipe_says_of_the_layers_stands() -> None:
    kinds = ["full_attention", *7 * ["sliding_attention"]]
    config = base_config(sparse(sliding_window=32, layer_types=kinds), 600)
    assert (config.sliding_window, config.layer_types) == (32, kinds)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (sparse("llama"), "llama has none that llama.cpp and vLLM run too; set .* olmo3 or gemma3_text"),
        (sparse(num_hidden_layers=3), "there are 3 layers, so none would see the whole context"),
        (sparse("gemma3_text", 4), "llama.cpp runs every gemma3 with 6"),
        (sparse(layer_types=8 * ["full_attention"]), "layer_types: sparse has both kinds"),
    ],
)
def test_sliding_layers_that_would_not_run_are_refused(model: Model, told: str) -> None:
    with pytest.raises(UserError, match=told):
        base_config(model, 600)


def test_a_sparse_model_is_exact_and_isolated() -> None:
    config = base_config(sparse(), 600)
    chosen = choose_attention(sparse(), config, torch.device("cpu"))
    assert "6 of 8 layers see a sliding window of 64 tokens" in chosen.why
    ours, own = build_model(config, 0, chosen.implementation), build_model(base_config(sparse(), 600), 0, "eager")
    ids = torch.randint(600, (1, 300), generator=torch.Generator().manual_seed(0))
    assert (ours(ids).logits - own(ids).logits).abs().max() < 1e-5
    assert probe_isolation(ours, 600, 300)[2]
