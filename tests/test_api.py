"""The functions that other programs import: what they make is checked, and what does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import shridhar_ft
from shridhar_ft.errors import UserError

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}
IDS = np.random.default_rng(3).integers(0, 300, 256)
YARN = {"type": "yarn"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    shridhar_ft.load(TINY).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_the_whole_way(base: Path, tmp_path: Path, quantization: str | None) -> None:
    model = shridhar_ft.load(base, context=256, rope=YARN, quantization=quantization)
    assert model.config.rope_parameters["factor"] == 4.0
    method = "qlora" if quantization else "lora"
    adapted = shaken(shridhar_ft.attach(model, method=method, rank=4, train_norms=True))
    shridhar_ft.save_adapter(adapted, tmp_path / "adapter")
    again = shridhar_ft.load_adapter(tmp_path / "adapter")
    assert again.get_base_model().config.rope_parameters == model.config.rope_parameters
    assert shridhar_ft.certify(adapted, again, IDS, 64)["ok"]
    whole = shridhar_ft.merge(again)
    found = shridhar_ft.certify(adapted, whole, IDS, 64)
    assert found["ok"], found
    assert found["full_context"]["positions"] == [248, 255]
    plain = shridhar_ft.load(base, context=256, rope=YARN)
    assert not shridhar_ft.certify(adapted, plain, IDS, 64)["ok"], "the certificate certifies anything"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_leaves_the_frequencies_whole(base: Path, dtype: str) -> None:
    model = shridhar_ft.load(base, context=256, rope=YARN, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_extending_shares_the_weights_and_gives_the_rope_of_loading(base: Path) -> None:
    short = shridhar_ft.load(base)
    long = shridhar_ft.extend(short, 256, YARN)
    assert long.model.layers[0].mlp.up_proj.weight is short.model.layers[0].mlp.up_proj.weight
    assert short.config.max_position_embeddings == 64
    assert not torch.equal(long.model.rotary_emb.inv_freq, short.model.rotary_emb.inv_freq)
    loaded = shridhar_ft.load(base, context=256, rope=YARN)
    assert shridhar_ft.certify(loaded, long, IDS, 64)["largest_logit_difference"] == 0


def test_extending_keeps_what_is_tied(tmp_path: Path) -> None:
    model = shridhar_ft.load({**TINY, "tie_word_embeddings": True})
    long = shridhar_ft.extend(model, 256, YARN)
    assert long.lm_head.weight is long.model.embed_tokens.weight


def test_another_base_is_refused_and_a_moved_one_is_not(base: Path, tmp_path: Path) -> None:
    model = shaken(shridhar_ft.attach(shridhar_ft.load(base), rank=2))
    shridhar_ft.save_adapter(model, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"model\.base: no model at"):
        shridhar_ft.load_adapter(tmp_path / "adapter")
    assert shridhar_ft.load_adapter(tmp_path / "adapter", base=tmp_path / "moved")
    shridhar_ft.load(TINY, seed=7).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="trained on another base"):
        shridhar_ft.load_adapter(tmp_path / "adapter", base=tmp_path / "other")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda base: shridhar_ft.load(base, context=256, rope={"type": "yern"}), "type"),
        (lambda base: shridhar_ft.load(base, quantization="fp4"), "take nf4 or int8"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base), method="qlora"), "for a quantised base"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base, quantization="nf4")), "for a quantised base"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base), rnk=3), "rnk"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base), method="full"), "has no adapter"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base), targets=["lm_head"]), "'lm_head' is the output head"),
        (lambda base: shridhar_ft.save_adapter(shridhar_ft.attach(shridhar_ft.load(TINY)), base / "a"), "lies nowhere"),
        (lambda base: shridhar_ft.load_adapter(base), "no base.json"),
        (lambda base: shridhar_ft.extend(shridhar_ft.load(base, quantization="nf4"), 256, YARN), "extend it first"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(base: Path, act, says: str) -> None:
    with pytest.raises(UserError, match=says):
        act(base)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        shridhar_ft.lod  # noqa: B018
