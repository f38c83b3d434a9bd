"""The functions that other programs import: what they make is checked, and what does not fit is refused."""

import inspect
import re
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


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_an_adapter_on_a_merged_base_does_not_pass_for_one_on_its_files(
    base: Path, tmp_path: Path, quantization: str | None
) -> None:
    method = "qlora" if quantization else "lora"
    first = shaken(shridhar_ft.attach(shridhar_ft.load(base, quantization=quantization), method=method, rank=2))
    whole = shridhar_ft.merge(first)
    with pytest.raises(UserError, match="for a quantised base"):
        shridhar_ft.attach(whole, method="qlora", rank=2)
    second = shaken(shridhar_ft.attach(whole, rank=2))
    with pytest.raises(UserError, match="by a merge, and lies nowhere; save_pretrained it, load it from there"):
        shridhar_ft.save_adapter(second, tmp_path / "second")
    shridhar_ft.merge(second).save_pretrained(tmp_path / "whole")
    third = shaken(shridhar_ft.attach(shridhar_ft.load(tmp_path / "whole"), rank=2))
    shridhar_ft.save_adapter(third, tmp_path / "third")
    assert shridhar_ft.certify(third, shridhar_ft.load_adapter(tmp_path / "third"), IDS, 64)["ok"]


@pytest.mark.parametrize("how", ["trained", "cast", "extended and trained"])
def test_a_base_that_changed_since_it_was_read_gets_no_adapter(base: Path, how: str) -> None:
    model = shridhar_ft.load(base)
    if how == "extended and trained":
        model = shridhar_ft.extend(model, 256, YARN)
        assert shridhar_ft.attach(shridhar_ft.extend(model, 512, YARN), rank=2)
        model = shridhar_ft.extend(shridhar_ft.load(base), 256, YARN)
    model = model.bfloat16() if how == "cast" else shaken(model)
    with pytest.raises(UserError, match=r"no longer those that were read .* save_pretrained it, load it from there"):
        shridhar_ft.attach(model, rank=2)


def test_a_quantised_base_whose_norms_changed_gets_no_adapter(base: Path) -> None:
    model = shridhar_ft.load(base, quantization="nf4", dtype="bfloat16")
    model(torch.as_tensor(IDS[None, :9]))
    with torch.no_grad():
        model.model.norm.weight += 1
    with pytest.raises(UserError, match="no longer those that were read"):
        shridhar_ft.attach(model, method="qlora", rank=2)


def test_half_precision_comes_back_under_its_own_rope(base: Path, tmp_path: Path) -> None:
    model = shridhar_ft.load(base, context=256, rope=YARN, dtype="bfloat16")
    half = shaken(shridhar_ft.attach(model, rank=2))
    shridhar_ft.save_adapter(half, tmp_path / "adapter")
    again = shridhar_ft.load_adapter(tmp_path / "adapter", dtype="bfloat16")
    assert shridhar_ft.certify(half, again, IDS, 64, dtype="bfloat16")["largest_logit_difference"] == 0


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_rows_of_new_tokens_are_trained_unasked(
    base: Path, tmp_path: Path, tokenizer, quantization: str | None
) -> None:
    method = "qlora" if quantization else "lora"
    model = shridhar_ft.load(base, tokenizer=tokenizer, quantization=quantization)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) > 300
    adapted = shridhar_ft.attach(model, method=method, rank=2)
    assert {"embed_tokens", "lm_head"} == set(adapted.peft_config["default"].modules_to_save)
    shridhar_ft.save_adapter(shaken(adapted), tmp_path / "adapter")
    again = shridhar_ft.load_adapter(tmp_path / "adapter")
    ids = np.append(IDS[:60], len(tokenizer) - 1)
    assert shridhar_ft.certify(adapted, again, ids, 64)["ok"]
    left = shridhar_ft.load(base, tokenizer=tokenizer, quantization=quantization)
    assert not shridhar_ft.attach(left, grown=False, method=method).peft_config["default"].modules_to_save
    plain = shridhar_ft.load(base, quantization=quantization)
    assert not shridhar_ft.attach(plain, method=method).peft_config["default"].modules_to_save


@pytest.mark.parametrize("kind", [{"rslora": True}, {"dora": True}, {"dora": True, "rslora": True}], ids=str)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_kinds_of_adapters_on_a_quantised_base_come_back_and_merge(
    base: Path, tmp_path: Path, kind: dict[str, bool], quantization: str
) -> None:
    model = shridhar_ft.load(base, quantization=quantization)
    adapted = shaken(shridhar_ft.attach(model, method="qlora", rank=2, **kind))
    shridhar_ft.save_adapter(adapted, tmp_path / "adapter")
    again = shridhar_ft.load_adapter(tmp_path / "adapter")
    assert shridhar_ft.certify(adapted, again, IDS[:64], 64)["largest_logit_difference"] == 0
    assert shridhar_ft.certify(adapted, shridhar_ft.merge(again), IDS[:64], 64)["ok"]


def adapted(base: Path, **settings: object) -> nn.Module:
    return shridhar_ft.attach(shridhar_ft.load(base), **{"rank": 2, **settings})


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda base: shridhar_ft.load(base, context=256, rope={"type": "yern"}), "rope: type: "),
        (lambda base: shridhar_ft.load(base, context=256, rope="yarn"), "load: rope 'yarn' is no section; give a dict"),
        (lambda base: shridhar_ft.load(base, context="1k"), "load: context '1k' is no length; give tokens"),
        (lambda base: shridhar_ft.load(base, context=0), "load: context 0 is no length"),
        (lambda base: shridhar_ft.load(base, quantization="fp4"), "take nf4 or int8"),
        (lambda base: shridhar_ft.load(base, dtype="floaty"), "load: dtype 'floaty' is no type of weights here; take"),
        (lambda base: shridhar_ft.load(base, dtype="int8"), "load: dtype 'int8' is no type of weights"),
        (lambda base: shridhar_ft.load(base, device="foo"), "load: device 'foo' is not to be had here .*; take cpu"),
        (lambda base: shridhar_ft.load(base, device="cuda:99"), "load: device 'cuda:99' is not to be had here"),
        (lambda base: shridhar_ft.load_adapter(base, dtype="floaty"), "load_adapter: dtype 'floaty'"),
        (lambda base: adapted(base, method="qlora"), "for a quantised base"),
        (lambda base: shridhar_ft.attach(shridhar_ft.load(base, quantization="nf4")), "for a quantised base"),
        (lambda base: adapted(base, rnk=3), "attach: rnk is no setting of an adapter; did you mean 'rank'"),
        (lambda base: adapted(base, learning_rate=1e-4), "attach: learning_rate is no setting .* give it to your tr"),
        (lambda base: adapted(base, batch_size=2), "attach: batch_size is no setting of an adapter"),
        (lambda base: adapted(base, quantization="int8"), "attach: quantization .* give quantization to load"),
        (lambda base: adapted(base, double_quantization=False), "attach: double_quantization .* to load"),
        (lambda base: adapted(base, rank=0), "attach: rank: "),
        (lambda base: adapted(base, method="full"), "has no adapter"),
        (lambda base: adapted(base, targets=["lm_head"]), "'lm_head' is the output head"),
        (lambda base: shridhar_ft.attach(adapted(base), rank=2), "attach: the model has an adapter already; merge it"),
        (lambda base: shridhar_ft.save_adapter(shridhar_ft.attach(shridhar_ft.load(TINY)), base / "a"), "lies nowhere"),
        (lambda base: shridhar_ft.save_adapter(shridhar_ft.load(base), base / "a"), "save_adapter: no adapter is att"),
        (lambda base: shridhar_ft.load_adapter(base), "no base.json"),
        (lambda base: shridhar_ft.merge(shridhar_ft.load(base)), "merge: no adapter is attached"),
        (lambda base: shridhar_ft.extend(adapted(base), 256, YARN), "extend: an adapter is attached"),
        (lambda base: shridhar_ft.extend(shridhar_ft.load(base, quantization="nf4"), 256, YARN), "extend it first"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(base: Path, act, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        act(base)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (IDS[None, :9], r"shape \[1, 9\]"),
        (IDS[:0], r"shape \[0\]"),
        (IDS[:9] / 2, "type float64"),
        (IDS[:9] + 300, "the models know 0 to 299"),
    ],
    ids=["two rows", "none", "no whole numbers", "beyond the vocabulary"],
)
def test_ids_that_are_no_text_are_refused(base: Path, ids: np.ndarray, says: str) -> None:
    model = shridhar_ft.load(base)
    with pytest.raises(UserError, match=says):
        shridhar_ft.certify(model, model, ids, 64)
    with pytest.raises(UserError, match="vocabularies of 300 and 310"):
        shridhar_ft.certify(model, shridhar_ft.load({**TINY, "vocab_size": 310}), IDS, 64)
    with pytest.raises(UserError, match="no tolerance is known for int8"):
        shridhar_ft.certify(model, model, IDS, 64, dtype="int8")


@pytest.mark.parametrize("name", shridhar_ft.__all__)
def test_every_function_says_what_it_takes_gives_raises_and_comes_from(name: str) -> None:
    function = getattr(shridhar_ft, name)
    text = inspect.getdoc(function) or ""
    heads = re.findall(r"^(Args|Returns|Raises|Sources):$", text, re.M)
    assert heads == ["Args", "Returns", "Raises", *(["Sources"] if name != "save_adapter" else [])]
    for argument in inspect.signature(function).parameters:
        assert re.search(rf"^    \**{argument}: ", text, re.M), argument


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        shridhar_ft.lod  # noqa: B018
