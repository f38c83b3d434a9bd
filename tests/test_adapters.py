"""Adapters: merging changes no answer, and what does not belong together is refused by name."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shridhar_ft.adapter_base import AdapterBase, copies
from shridhar_ft.adapters import adapter_hash, attach, load_adapter, load_weights, merged
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import CheckFailed, UserError
from shridhar_ft.export.merge_stream import Plan, plan_merge
from shridhar_ft.model.build import grow_vocabulary, safetensors_hash, weights_hash
from shridhar_ft.model.quantized import Quantization, dequantize, quantize, quantized_layers, rounded, set_compute_dtype
from shridhar_ft.model.rope import check_rope
from shridhar_ft.plan.levers import Levers
from shridhar_ft.room import HEADER, SMALL, checkpoint_bytes
from shridhar_ft.weights import Weights

IDS = torch.arange(5, 45)[None]


def shake(model: torch.nn.Module) -> None:
    """Give every trained parameter another value: a fresh adapter changes nothing, and would test nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("by_peft", [True, False])
def test_embeddings_that_grew_on_a_base_in_a_folder_are_stored_once(
    llama, tokenizer, tmp_path: Path, tied: bool, by_peft: bool
) -> None:
    # Where peft finds the base's config it sees the grown vocabulary, and would store the embeddings three times.
    llama(vocab_size=590, tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    config = llama(tie_word_embeddings=tied).config
    start = Weights(str(tmp_path / "base"))
    fresh, grown, hashed = load_weights(start, config, tokenizer, "sdpa", torch.float32)
    model = attach(fresh, Tuning(method="lora", rank=4), grown)
    shake(model)
    trained = logits(model)
    folder = tmp_path / "adapter"
    (partial(type(model).save_pretrained, model) if by_peft else model.save_pretrained)(folder)
    AdapterBase.of(start, hashed, (), None, fresh.config).write(folder)
    stored = load_file(folder / "adapter_model.safetensors")
    assert bool(copies(stored)) is by_peft
    if not by_peft:  # what the disk's check counts is what comes
        counted = checkpoint_bytes(model, Tuning(method="lora", rank=4, optimizer="adafactor"), Levers()) - SMALL
        trained_tensors = sum(parameter.requires_grad for parameter in model.parameters())
        numbers = sum(tensor.nbytes for tensor in stored.values())
        assert counted == numbers + HEADER * (len(stored) + 2 * trained_tensors)
    for again in (name for name in stored if ".modules_to_save" in name):
        assert torch.equal(stored[again], stored[again.replace(".modules_to_save", "")])

    moved = (tmp_path / "base").rename(tmp_path / "elsewhere")
    weights = Weights(str(moved), adapters=(str(folder),))
    going_on, _, _ = load_weights(weights, config, tokenizer, "sdpa", torch.float32, keep_last=True)
    assert torch.equal(logits(going_on), trained)
    plan = plan_merge(weights, config, tokenizer)
    assert isinstance(plan, Plan), plan
    fresh.config.save_pretrained(tmp_path / "out")
    plan.write(tmp_path / "out", "float32", 1 << 30)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), trained, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("grown", [True, False])
def test_merged_answers_as_base_and_adapter(llama, tokenizer, tmp_path: Path, tied: bool, grown: bool) -> None:
    base = llama(vocab_size=590 if grown else 600, tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    grow_vocabulary(base, tokenizer)
    model = attach(base, Tuning(method="lora", rank=4), grown=grown)
    shake(model)
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert adapter_hash(model) == safetensors_hash(tmp_path / "adapter")

    weights = Weights(str(tmp_path / "base"), adapters=(str(tmp_path / "adapter"),))
    loaded, has_grown, _ = load_weights(
        weights, llama(tie_word_embeddings=tied).config, tokenizer, "sdpa", torch.float32
    )
    assert has_grown is grown
    assert torch.allclose(logits(loaded), trained, atol=1e-5)
    going_on, _, _ = load_weights(weights, loaded.config, tokenizer, "sdpa", torch.float32, keep_last=True)
    assert adapter_hash(going_on) == adapter_hash(model)
    assert any(parameter.requires_grad for parameter in going_on.parameters())
    assert torch.allclose(logits(merged(model)), trained, atol=1e-5)
    assert loaded.config.tie_word_embeddings is tied


def test_norms_and_embeddings_train_whole_and_come_along(llama, tokenizer, tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    model = attach(base, Tuning(method="lora", rank=4, train_norms=True, train_embeddings=True), grown=False)
    whole = {
        name.split(".modules_to_save")[0].split(".")[-1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert {"embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"} <= whole
    shake(model)
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    weights = Weights(str(tmp_path / "base"), adapters=(str(tmp_path / "adapter"),))
    loaded, _, _ = load_weights(weights, llama().config, tokenizer, "sdpa", torch.float32)
    assert torch.allclose(logits(loaded), trained, atol=1e-5)


def test_adapters_are_merged_in_their_order(llama, tokenizer, tmp_path: Path) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    first = attach(base, Tuning(method="lora", rank=2), grown=False)
    shake(first)
    first.save_pretrained(tmp_path / "one")
    second = attach(merged(first), Tuning(method="lora", rank=3), grown=False)
    shake(second)
    second.save_pretrained(tmp_path / "two")
    weights = Weights(str(tmp_path / "base"), adapters=(str(tmp_path / "one"), str(tmp_path / "two")))
    loaded, _, _ = load_weights(weights, llama().config, tokenizer, "sdpa", torch.float32)
    assert torch.allclose(logits(loaded), logits(second), atol=1e-5)


def test_the_output_head_is_no_target(llama) -> None:
    with pytest.raises(UserError, match="'lm_head' is the output head"):
        attach(llama(), Tuning(method="lora", targets=["q_proj", "lm_head"]), grown=False)


@pytest.mark.parametrize(
    ("target", "adapted"),
    [
        ("self_attn.q_proj", {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}),
        ("layers.0.self_attn.q_proj", {"model.layers.0.self_attn.q_proj"}),
        ("model.layers.1.mlp.up_proj", {"model.layers.1.mlp.up_proj"}),
    ],
)
def test_a_target_may_be_named_by_more_than_its_last_part(llama, target: str, adapted: set[str]) -> None:
    model = attach(llama(), Tuning(method="lora", targets=[target]), grown=False)
    names = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {name.removeprefix("base_model.model.") for name in names} == adapted


def test_a_head_or_tied_embeddings_named_in_full_are_refused_by_that_name(llama) -> None:
    with pytest.raises(UserError, match=r"'model\.embed_tokens' is tied to the output head"):
        attach(llama(), Tuning(method="lora", targets=["model.embed_tokens"]), grown=False)
    model = llama()
    model.outer, model.lm_head = torch.nn.Module(), torch.nn.Identity()
    model.outer.head = torch.nn.Linear(32, 600, bias=False)
    model.get_output_embeddings = lambda: model.outer.head
    with pytest.raises(UserError, match=r"'outer\.head' is the output head"):
        attach(model, Tuning(method="lora", targets=["outer.head"]), grown=False)


@pytest.mark.parametrize(
    ("grown", "train_embeddings", "why"), [(False, True, "train_embeddings"), (True, "auto", "brought new tokens")]
)
def test_a_target_that_is_trained_whole_is_refused(llama, grown: bool, train_embeddings: bool | str, why: str) -> None:
    for target in ("embed_tokens", "model.embed_tokens"):
        tuning = Tuning(method="lora", targets=["q_proj", target], train_embeddings=train_embeddings)
        with pytest.raises(UserError, match=rf"'{target}' would get an adapter, .*{why}.*take it out, or set"):
            attach(llama(tie_word_embeddings=False), tuning, grown)


def test_an_unknown_target_is_told_with_those_that_exist(llama) -> None:
    with pytest.raises(UserError, match=r"no module is called 'q_porj'.*q_proj"):
        attach(llama(), Tuning(method="lora", targets=["q_porj"]), grown=False)


def test_tied_embeddings_are_no_target(llama) -> None:
    # Merged, the adapter would change the head too, which it left alone in training.
    targets = Tuning(method="lora", targets=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match="'embed_tokens' is tied to the output head"):
        attach(llama(), targets, grown=False)
    model = attach(llama(tie_word_embeddings=False), targets, grown=False)
    shake(model)
    trained = logits(model)
    assert torch.allclose(logits(merged(model)), trained, atol=1e-5)


@pytest.mark.parametrize("targets", [["q_proj", "norm"], []])
def test_what_peft_cannot_adapt_is_told_in_one_sentence(llama, targets: list[str]) -> None:
    with pytest.raises(UserError, match=r"targets: .*name linear layers, or all-linear") as error:
        attach(llama(), Tuning(method="lora", targets=targets), grown=False)
    assert "\n" not in str(error.value)


def test_all_linear_leaves_out_the_head(llama) -> None:
    model = attach(llama(), Tuning(method="lora"), grown=False)
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("harm", ["missing", "foreign"])
def test_an_adapter_that_lacks_a_tensor_is_an_error(llama, tmp_path: Path, harm: str) -> None:
    attach(llama(), Tuning(method="lora", rank=2), grown=False).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensor = tensors.pop(name)
    if harm == "foreign":
        tensors[name] = tensor
        tensors["base_model.model.other.lora_A.weight"] = tensor.clone()
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckFailed, match="do not belong, first base_model"):
        load_adapter(llama(), str(tmp_path), trainable=False)


def test_an_adapter_whose_file_broke_off_is_an_error(llama, tmp_path: Path) -> None:
    attach(llama(), Tuning(method="lora", rank=2), grown=False).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckFailed, match="the adapter is damaged or belongs to another base") as error:
        load_adapter(llama(), str(tmp_path), trainable=False)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"num_hidden_layers": 1}], ids=["wider", "shallower"])
def test_an_adapter_of_another_base_is_an_error(llama, tmp_path: Path, other: dict) -> None:
    attach(llama(), Tuning(method="lora", rank=2), grown=False).save_pretrained(tmp_path)
    with pytest.raises(CheckFailed, match="the adapter is damaged or belongs to another base"):
        load_adapter(llama(**other), str(tmp_path), trainable=False)


def test_a_folder_without_an_adapter_is_refused(llama, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter there"):
        load_adapter(llama(), str(tmp_path), trainable=False)


def test_paths_inside_the_run_move_with_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    weights = Weights(str(here / "stages/a/model"), "abc", (str(here / "sft/adapter"), "/elsewhere/adapter"))
    stored = weights.as_dict(here)
    assert stored["base"] == "run:stages/a/model"
    moved = Weights.from_dict(stored, there)
    assert moved == Weights(str(there / "stages/a/model"), "abc", (str(there / "sft/adapter"), "/elsewhere/adapter"))
    assert Weights.from_dict(Weights("org/model").as_dict(here), here) == Weights("org/model")


@pytest.mark.parametrize("kind", [{"rslora": True}, {"dora": True}])
def test_rslora_and_dora_come_back_and_merge(llama, tokenizer, tmp_path: Path, kind: dict[str, bool]) -> None:
    base = llama()
    base.save_pretrained(tmp_path / "base")
    model = attach(base, Tuning(method="lora", rank=4, **kind), grown=False)
    shake(model)
    trained = logits(model)
    plain = attach(llama(), Tuning(method="lora", rank=4), grown=False)
    shake(plain)
    assert not torch.allclose(logits(plain), trained, atol=1e-3), "the option has no effect"
    model.save_pretrained(tmp_path / "adapter")
    weights = Weights(str(tmp_path / "base"), adapters=(str(tmp_path / "adapter"),))
    loaded, _, _ = load_weights(weights, llama().config, tokenizer, "sdpa", torch.float32)
    assert torch.allclose(logits(loaded), trained, atol=1e-5)


QUANTIZED = [Quantization("nf4", True), Quantization("nf4", False), Quantization("int8", False)]


@pytest.mark.parametrize("how", QUANTIZED, ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_qlora_merges_onto_the_base_that_it_was_trained_on(
    llama, tokenizer, tmp_path: Path, how: Quantization, tied: bool
) -> None:
    base = llama(vocab_size=590, tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    base_hash = weights_hash(base)
    first = rounded(base.model.layers[0].mlp.up_proj.weight, how)
    tuning = Tuning(method="qlora", rank=4, quantization=how.type, double_quantization=how.double)
    assert Quantization.of(tuning) == how
    start = Weights(str(tmp_path / "base"))
    fresh, grown, found = load_weights(
        start, llama(tie_word_embeddings=tied).config, tokenizer, "sdpa", torch.float32, quantization=how
    )
    assert found == base_hash
    assert grown
    assert len(quantized_layers(fresh)) == 7 * fresh.config.num_hidden_layers
    set_compute_dtype(fresh, torch.float32)
    model = attach(fresh, tuning, grown)
    shake(model)
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    AdapterBase.of(start, base_hash, (), how, fresh.config).write(tmp_path / "adapter")

    weights = Weights(str(tmp_path / "base"), adapters=(str(tmp_path / "adapter"),))
    config = llama(tie_word_embeddings=tied).config
    kept, _, _ = load_weights(weights, config, tokenizer, "sdpa", torch.float32, keep_last=True)
    assert adapter_hash(kept) == adapter_hash(model)
    assert torch.allclose(logits(kept), trained, atol=1e-5)
    whole, _, _ = load_weights(weights, config, tokenizer, "sdpa", torch.float32)
    assert not quantized_layers(whole)
    assert torch.allclose(logits(whole), trained, atol=2e-5)
    live = merged(kept)
    assert torch.allclose(logits(live), logits(whole), atol=1e-5)
    update = live.model.layers[0].mlp.up_proj.weight - first
    assert torch.linalg.matrix_rank(update.detach(), atol=1e-5) <= 4, "merged onto other weights than the rounded ones"


def test_a_quantised_layer_gives_gradients_and_keeps_its_bytes(llama) -> None:
    model = quantize(llama(), Quantization("nf4"), torch.device("cpu"))
    set_compute_dtype(model, torch.float32)
    before = [layer.weight.data.clone() for layer in quantized_layers(model)]
    logits(model)  # without gradients: where bitsandbytes would repack
    model = attach(model, Tuning(method="qlora", rank=4), grown=False)
    model(IDS, use_cache=False, labels=IDS).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    assert all(torch.equal(a, b.weight.data) for a, b in zip(before, quantized_layers(model), strict=True))


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="tells by Linux what a process has mapped")
@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_a_quantised_base_leaves_its_weight_file(llama, tmp_path: Path, how: str) -> None:
    llama().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert str(tmp_path) in Path("/proc/self/maps").read_text(), "no need of _leave_the_file"
    before = model.lm_head.weight.clone()
    model = quantize(model, Quantization(how), torch.device("cpu"))
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("how", ["nf4", "int8"])
@pytest.mark.parametrize("kind", [{}, {"rslora": True}, {"dora": True}], ids=str)
def test_every_kind_of_adapter_trains_on_a_quantised_base_as_on_its_rounded_weights(
    llama, how: str, kind: dict
) -> None:
    losses: list[list[float]] = []
    for rounds in (False, True):
        model = quantize(llama(), Quantization(how, double=how == "nf4"), torch.device("cpu"))
        set_compute_dtype(model, torch.float32)
        if rounds:
            model = dequantize(model, torch.float32)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            model = attach(model, Tuning(method="qlora", rank=2, **kind), grown=False)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses.append([])
        for _ in range(4):
            loss = model(IDS, use_cache=False, labels=IDS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(set(losses[0])) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", [None, Quantization("nf4"), Quantization("int8", double=False)], ids=str)
def test_weights_in_half_precision_keep_the_frequencies_of_rope(
    llama, tokenizer, saved_llama: Path, dtype: torch.dtype, how: Quantization | None
) -> None:
    start = Weights(str(saved_llama))
    model, _, _ = load_weights(start, llama().config, tokenizer, "sdpa", dtype, quantization=how)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert check_rope(model, llama().config, 128)[2]
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {dtype}
    assert torch.isfinite(logits(model)).all()


def written_adapter(llama, tokenizer, folder: Path) -> tuple[Weights, str]:
    """A base and an adapter with its base.json, on disk."""
    base = llama()
    base.save_pretrained(folder / "base")
    base_hash = weights_hash(base)
    model = attach(base, Tuning(method="lora", rank=2), grown=False)
    shake(model)
    model.save_pretrained(folder / "adapter")
    start = Weights(str(folder / "base"))
    AdapterBase.of(start, base_hash, (), None, base.config).write(folder / "adapter")
    return Weights(start.base, adapters=(str(folder / "adapter"),)), base_hash


def test_an_adapter_on_another_base_is_refused(llama, tokenizer, tmp_path: Path) -> None:
    weights, base_hash = written_adapter(llama, tokenizer, tmp_path)
    own = AdapterBase.read(tmp_path / "adapter")
    assert own is not None
    assert (own.hash, own.dtype, own.vocab_size) == (base_hash, "float32", 600)
    other = llama()
    with torch.no_grad():
        other.model.norm.weight += 1e-3
    other.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"trained on another base .*give the base that it was trained on"):
        load_weights(weights, llama().config, tokenizer, "sdpa", torch.float32)


def test_an_adapter_over_other_adapters_is_refused(llama, tokenizer, tmp_path: Path) -> None:
    weights, _ = written_adapter(llama, tokenizer, tmp_path)
    twice = Weights(weights.base, adapters=weights.adapters * 2)
    with pytest.raises(UserError, match="a base with 0 adapters merged into it, and 1 are merged now"):
        load_weights(twice, llama().config, tokenizer, "sdpa", torch.float32)


def test_an_adapter_under_another_rope_is_refused(llama, tokenizer, tmp_path: Path) -> None:
    written_adapter(llama, tokenizer, tmp_path)
    own = AdapterBase.read(tmp_path / "adapter")
    assert own is not None
    own.check_rope(tmp_path / "adapter", llama().config)
    config = llama().config
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e5}
    with pytest.raises(UserError, match="was trained with the RoPE"):
        own.check_rope(tmp_path / "adapter", config)


def test_what_answers_has_the_rope_that_its_last_adapter_was_trained_with(llama, tokenizer, tmp_path: Path) -> None:
    weights, _ = written_adapter(llama, tokenizer, tmp_path)
    config = llama().config
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e5}
    asked = (weights, config, tokenizer, "sdpa", torch.float32)
    with pytest.raises(UserError, match="was trained with the RoPE"):
        load_weights(*asked, as_trained=True)
    model, _, _ = load_weights(*asked)  # as a longer stage begins
    assert model.config.rope_parameters["rope_theta"] == 5e5


def test_a_damaged_base_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"base": 3', encoding="utf-8")
    with pytest.raises(UserError, match=r"base\.json: it cannot be read"):
        AdapterBase.read(tmp_path)
