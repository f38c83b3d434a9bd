"""Open bases too large to run here: their published configs, and what the recipes make of them, without weights."""

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from shridhar_ft.adapters import attach
from shridhar_ft.config import Recipe, load_recipe
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import base_config, load_model, stage_config
from shridhar_ft.model.rope import check_rope
from shridhar_ft.model.rope_formulas import Parameters, expected_frequencies, rope_sets, rotary_dim
from shridhar_ft.model.text_part import TEXT_NAMES
from shridhar_ft.plan.models import config_of
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.shipped import shipped
from shridhar_ft.tokenizer import encode_book, encode_dialogue, extend_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FIXTURES = Path(__file__).parent / "fixtures/bases"  # SOURCES.md there says where each value comes from
CONTEXT = 108_000
ATTENTION, MLP = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
TWO_NORMS = {"input_layernorm", "post_attention_layernorm"}
QUERY_AND_KEY = {"q_norm", "k_norm"}


@dataclass(frozen=True)
class Known:
    """What is published about a base."""

    parameters: int | None
    """Of all its files, parts for images included."""
    billions: float
    norms: frozenset[str]
    """Of each layer."""
    tied: bool
    opens_with_bos: bool
    original: Parameters
    """RoPE of the layers that see everything, as it was trained."""
    wanted: Parameters
    """The same at 108,000 tokens."""


def theta(base: float) -> Parameters:
    return {"rope_type": "default", "rope_theta": base}


def yarn(base: float) -> Parameters:
    found = {"rope_type": "yarn", "rope_theta": base, "factor": CONTEXT / 32_768}
    return {**found, "original_max_position_embeddings": 32_768, "beta_fast": 32.0, "beta_slow": 1.0}


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
GEMMA_NORMS = frozenset(TWO_NORMS | QUERY_AND_KEY | {"pre_feedforward_layernorm", "post_feedforward_layernorm"})
KNOWN = {
    "qwen3-8b": Known(8_190_735_360, 8.19, frozenset(TWO_NORMS | QUERY_AND_KEY), False, False, theta(1e6), yarn(1e6)),
    "llama3.1-8b": Known(8_030_261_248, 8.03, frozenset(TWO_NORMS), False, True, LLAMA3, LLAMA3),
    "gemma3-12b": Known(12_187_325_040, 11.77, GEMMA_NORMS, True, True, LINEAR, LINEAR),
    "yandexgpt5-lite-8b": Known(None, 8.04, frozenset(TWO_NORMS), False, True, theta(5e5), yarn(5e5)),
}
BASES = list(KNOWN)


def recipe_of(name: str, *overrides: str) -> Recipe:
    recipe = load_recipe(shipped("recipes") / name, overrides)
    recipe.model.base = str(FIXTURES / (recipe.model.base or ""))
    return recipe


@cache
def on_meta(name: str) -> torch.nn.Module:
    """The text model with tensors that take no memory; nobody changes it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(base_config(recipe_of(name).model))


def six_layers(config: "PreTrainedConfig") -> torch.nn.Module:
    """The first six, one of each kind among them, with the frequencies of RoPE computed: all layers share them."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    given = config.to_dict() | {"num_hidden_layers": 6}
    if given.get("layer_types"):
        given["layer_types"] = given["layer_types"][:6]
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(type(config)(**given))


# ----------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", BASES)
def test_as_many_parameters_as_published_and_their_names(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    known, model = KNOWN[name], on_meta(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert round(total / 1e9, 2) == known.billions
    whole = AutoConfig.from_pretrained(recipe_of(name).model.base)
    if whole.get_text_config() is not whole:
        with torch.device("meta"):
            seeing = AutoModelForCausalLM.from_config(whole)
        total = sum(parameter.numel() for parameter in seeing.parameters())
    assert known.parameters in (None, total)
    names = {parameter for parameter, _ in model.named_parameters()}
    layer = {
        *(f"self_attn.{part}" for part in ATTENTION | (known.norms & QUERY_AND_KEY)),
        *(f"mlp.{part}" for part in MLP),
        *(known.norms - QUERY_AND_KEY),
    }
    expected = {f"model.layers.{i}.{part}.weight" for i in range(model.config.num_hidden_layers) for part in layer}
    expected |= {"model.embed_tokens.weight", "model.norm.weight"} | (set() if known.tied else {"lm_head.weight"})
    assert names == expected


@pytest.mark.parametrize("name", BASES)
def test_a_plan_needs_no_download_and_counts_the_same(name: str) -> None:
    known = config_of(load_recipe(shipped("recipes") / name).model)
    shape = shape_of(known.config)
    assert known.source == "bases.yaml" and shape is not None
    assert shape.total == sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert known.config["max_position_embeddings"] == base_config(recipe_of(name).model).max_position_embeddings


def test_the_size_of_yandexgpts_files_says_that_its_head_is_its_own() -> None:
    stored = 4.98e9 + 5.00e9 + 4.92e9 + 1.17e9  # bytes of its four files, to 5 MB each
    assert sum(p.numel() for p in on_meta("yandexgpt5-lite-8b").parameters()) * 2 == pytest.approx(stored, abs=2e7)


def test_a_base_that_sees_images_gives_its_text_model(tmp_path: Path) -> None:
    from transformers import AutoConfig, Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16}
    sight = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    ).eval()
    whole.save_pretrained(tmp_path / "whole")
    config = AutoConfig.from_pretrained(tmp_path / "whole").get_text_config()
    model = load_model(tmp_path / "whole", config, "sdpa", torch.float32).eval()
    model.save_pretrained(tmp_path / "text")
    assert AutoConfig.from_pretrained(tmp_path / "text").model_type == "gemma3_text"
    again = load_model(tmp_path / "text", AutoConfig.from_pretrained(tmp_path / "text"), "sdpa", torch.float32).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted = whole(input_ids=ids).logits
        assert torch.equal(model(ids).logits, wanted) and torch.equal(again(ids).logits, wanted)


def test_names_in_gemmas_files_become_those_of_its_text_model() -> None:
    published = "language_model.model.layers.47.self_attn.q_norm.weight"  # as the index of its safetensors has them
    found = [re.sub(pattern, put, published) for pattern, put in TEXT_NAMES.items() if re.search(pattern, published)]
    assert found == ["model.layers.47.self_attn.q_norm.weight"]
    assert found[0] in dict(on_meta("gemma3-12b").named_parameters())


# ----------------------------------------------------------------------------------------------------- RoPE


@pytest.mark.parametrize("name", BASES)
def test_each_stage_has_the_rope_that_is_meant_up_to_108_000(name: str) -> None:
    known, recipe = KNOWN[name], recipe_of(name)
    assert [stage.context for stage in recipe.stages] == [32_768, CONTEXT]
    for index, meant in enumerate((known.original, known.wanted)):
        config, _ = stage_config(recipe, index, 0)
        claimed = type(config)(**config.to_dict())
        model = six_layers(config)
        _, measured, ok = check_rope(model, claimed, recipe.stages[index].context)
        assert ok and measured["positions"] == [0, CONTEXT - 1]
        sets = rope_sets(config)
        whole = sets["full_attention" if "full_attention" in sets else None]
        dim = rotary_dim(config, whole)
        wanted, factor = expected_frequencies(meant, dim, CONTEXT, config.max_position_embeddings)
        found, its_factor = expected_frequencies(whole, dim, CONTEXT, config.max_position_embeddings)
        assert found == pytest.approx(wanted, rel=1e-12) and its_factor == pytest.approx(factor)
        base = float(meant["rope_theta"])
        assert wanted[-1] == pytest.approx(base ** (2 / dim - 1) / meant.get("factor", 1))  # the slowest pair, by hand
        if meant["rope_type"] == "yarn":
            assert factor == pytest.approx(0.1 * math.log(CONTEXT / 32_768) + 1)
            unscaled, _ = stage_config(recipe, 0, 0)
            assert not check_rope(six_layers(unscaled), claimed, CONTEXT)[2]


def test_gemmas_short_windows_keep_their_own_rope() -> None:
    recipe = recipe_of("gemma3-12b")
    config, _ = stage_config(recipe, 1, 0)
    assert rope_sets(config)["sliding_attention"] == theta(1e4) and config.sliding_window == 1024
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [
        5,
        11,
        17,
        23,
        29,
        35,
        41,
        47,
    ]


# ------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("name", BASES)
def test_all_linear_is_seven_matrices_of_each_layer_and_never_the_head(name: str) -> None:
    from peft.tuners.lora import LoraLayer

    recipe, known = recipe_of(name), KNOWN[name]
    with torch.device("meta"):
        wrapped = attach(six_layers(base_config(recipe.model)), recipe.train, grown=False)
    hit = [module for module, found in wrapped.named_modules() if isinstance(found, LoraLayer)]
    assert len(hit) == 7 * 6
    assert {module.split(".")[-1] for module in hit} == ATTENTION | MLP
    saved = set(wrapped.peft_config["default"].modules_to_save)
    assert {"embed_tokens", "norm", *known.norms} <= saved and ("lm_head" in saved) is not known.tied
    trained = {parameter for parameter, tensor in wrapped.named_parameters() if tensor.requires_grad}
    assert not any("base_layer" in parameter for parameter in trained)


@pytest.mark.parametrize("name", BASES)
def test_the_head_as_a_target_is_refused_by_name(name: str) -> None:
    tuning = recipe_of(name, "train.targets=[q_proj, lm_head]").train
    with pytest.raises(UserError, match="targets: 'lm_head' is the output head"):
        attach(on_meta(name), tuning, grown=False)  # refused before anything is attached


# ------------------------------------------------------------------------------------------- chat templates


@pytest.fixture
def stand_in(tmp_path: Path):
    """Makes a small tokenizer that opens a text as a base's does; the bases' own are not here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def make(opens_with_bos: bool) -> str:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        inner.train_from_iterator(
            ["Тихое утро"],
            trainers.BpeTrainer(
                vocab_size=300,
                special_tokens=["<bos>", "<eos>", "<pad>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        if opens_with_bos:
            inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
        bos = {"bos_token": "<bos>"} if opens_with_bos else {}  # Qwen states none
        made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", **bos)
        made.chat_template = "{{ 'the base has a template of its own' }}"
        made.save_pretrained(tmp_path)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("name", BASES)
def test_every_base_gets_the_same_template_behind_its_own_opening(name: str, stand_in) -> None:
    tokenizer = extend_tokenizer(stand_in(KNOWN[name].opens_with_bos), None, CONTEXT)
    opening = "<bos>" if KNOWN[name].opens_with_bos else ""
    said = [{"role": "user", "content": "Утро?"}, {"role": "assistant", "content": "Утро."}]
    ids, assistant = encode_dialogue(tokenizer, said)
    assert tokenizer.decode(ids) == f"{opening}<|dialogue|>user\nУтро?<|end|>assistant\nУтро.<|end|>"
    assert tokenizer.decode(ids[assistant]) == "Утро.<|end|>"
    assert tokenizer.decode(encode_book(tokenizer, "Утро")) == f"{opening}<|spiritual|>Утро<|end|>"


@pytest.mark.parametrize("name", BASES)
def test_the_rows_of_new_tokens_are_trained(name: str) -> None:
    """Qwen and Gemma have spare rows, so `auto` would take the vocabulary for one that did not grow."""
    assert recipe_of(name).train.train_embeddings is True


# -------------------------------------------------------------------------------------------------- READMEs


@pytest.mark.parametrize("name", BASES)
def test_a_readme_says_licence_context_cards_and_what_was_not_run(name: str) -> None:
    text = (shipped("recipes") / name / "README.md").read_text(encoding="utf-8")
    for needed in (
        "**Licence.**",
        "**Context.**",
        "**What to expect.**",
        "| 24 GB |",
        "| 80 GB |",
        "8 × A100",
        "not run",
    ):
        assert needed in text
