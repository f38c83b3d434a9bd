"""Merging tensor by tensor gives what peft's merge_and_unload gives, in all its ways; what does not fit is refused."""

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach, load_weights
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import CheckFailed, DiskFailed, UserError
from shridhar_ft.export import memory
from shridhar_ft.export.merge import Merge, merge_and_certify
from shridhar_ft.export.merge_stream import Plan, plan_merge
from shridhar_ft.export.tensors import Planned, write_shards
from shridhar_ft.model.build import grow_vocabulary, load_model, weights_hash
from shridhar_ft.model.quantized import Quantization, quantize
from shridhar_ft.weights import Weights


def shake(model: torch.nn.Module, seed: int = 3) -> None:
    """Give every trained parameter another value: a fresh adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def adapted(
    llama, tokenizer, folder: Path, tuning: Tuning, how: Quantization | None = None, **sizes: object
) -> Weights:
    """A base on disk and a shaken adapter on it, with its base.json."""
    base = llama(**sizes)
    base.save_pretrained(folder / "base")
    hashed = weights_hash(base)
    grown = grow_vocabulary(base, tokenizer) > 0
    if how is not None:
        base = quantize(base, how, torch.device("cpu"))
    model = attach(base, tuning, grown)
    shake(model)
    model.save_pretrained(folder / "adapter")
    weights = Weights(str(folder / "base"), adapters=(str(folder / "adapter"),))
    AdapterBase.of(weights, hashed, (), how, base.config).write(folder / "adapter")
    return weights


def streamed(weights: Weights, tokenizer, folder: Path, dtype: str = "float32", shard: int = 1 << 30) -> dict:
    plan = plan_merge(weights, AutoConfig.from_pretrained(weights.base), tokenizer)
    assert isinstance(plan, Plan)
    folder.mkdir(exist_ok=True)
    files = plan.write(folder, dtype, shard)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def by_peft(weights: Weights, tokenizer) -> dict[str, torch.Tensor]:
    config = AutoConfig.from_pretrained(weights.base)
    model, _, _ = load_weights(weights, config, tokenizer, "sdpa", torch.float32)
    return dict(model.named_parameters())


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        assert torch.allclose(found[name].float(), tensor.float(), atol=tolerance), name


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("grown", [True, False], ids=["grown", "same vocabulary"])
@pytest.mark.parametrize(
    "tuning",
    [{}, {"rslora": True}, {"dora": True}, {"targets": ["q_proj", "down_proj"], "alpha": 7}, {"train_norms": True}],
    ids=["lora", "rslora", "dora", "some layers", "norms"],
)
def test_it_merges_as_peft_does(llama, tokenizer, tmp_path: Path, tuning: dict, grown: bool, tied: bool) -> None:
    weights = adapted(
        *(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4, **tuning)),
        vocab_size=590 if grown else 600,
        tie_word_embeddings=tied,
    )
    same(streamed(weights, tokenizer, tmp_path / "out"), by_peft(weights, tokenizer))


@pytest.mark.parametrize("type", ["nf4", "int8"])
def test_a_quantised_base_is_merged_with_its_rounded_weights(llama, tokenizer, tmp_path: Path, type: str) -> None:
    tuning = Tuning(method="qlora", rank=4, quantization=type)
    weights = adapted(
        llama, tokenizer, tmp_path, tuning, Quantization(type, type == "nf4"), hidden_size=64, intermediate_size=128
    )
    same(streamed(weights, tokenizer, tmp_path / "out"), by_peft(weights, tokenizer), 1e-5)


def test_adapters_are_merged_one_after_the_other(llama, tokenizer, tmp_path: Path) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    config = AutoConfig.from_pretrained(weights.base)
    model, _, hashed = load_weights(weights, config, tokenizer, "sdpa", torch.float32)
    second = attach(model, Tuning(method="lora", rank=2, dora=True), grown=False)
    shake(second, seed=4)
    second.save_pretrained(tmp_path / "second")
    AdapterBase.of(weights, hashed, weights.adapters, None, config).write(tmp_path / "second")
    both = Weights(weights.base, adapters=(*weights.adapters, str(tmp_path / "second")))
    same(streamed(both, tokenizer, tmp_path / "out"), by_peft(both, tokenizer))
    turned = Weights(weights.base, adapters=(str(tmp_path / "second"), *weights.adapters))
    with pytest.raises(UserError, match="adapters merged into it"):
        plan_merge(turned, config, tokenizer)


def test_shards_close_in_time_and_transformers_reads_them(llama, tokenizer, tmp_path: Path) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4), tie_word_embeddings=False)
    out = tmp_path / "out"
    found = streamed(weights, tokenizer, out, "bfloat16", shard=40_000)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    assert sum(1 for file in files if file.stat().st_size > 41_500) <= 2  # embeddings and head are larger alone
    AutoConfig.from_pretrained(weights.base).save_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    same(dict(loaded.named_parameters()), by_peft(weights, tokenizer), 1e-2)


def test_a_tensor_may_be_made_of_any_bytes(tmp_path: Path) -> None:
    wanted = {"a": torch.randn(3, 5), "b": torch.randn(7), "c.d": torch.zeros(2, 0)}
    for dtype in ("float32", "float16", "bfloat16"):
        planned = [Planned(name, tuple(t.shape), lambda t=t: t) for name, t in wanted.items()]
        (file,) = write_shards(tmp_path, planned, dtype, 1 << 20)
        found = load_file(file)
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor.to(getattr(torch, dtype)))


def test_another_base_under_the_same_path_is_refused(llama, tokenizer, tmp_path: Path) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    llama(seed=1).save_pretrained(weights.base)
    with pytest.raises(UserError, match="trained on another base") as error:
        plan_merge(weights, AutoConfig.from_pretrained(weights.base), tokenizer)
    assert "\n" not in str(error.value)


def test_a_base_that_is_gone_is_refused(llama, tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    config = AutoConfig.from_pretrained(weights.base)
    gone = Weights(str(tmp_path / "nowhere"), adapters=weights.adapters)
    with pytest.raises(UserError, match="neither a folder nor to be had from the Hub"):
        plan_merge(gone, config, tokenizer)


@pytest.mark.parametrize("harm", ["other names", "a hole", "not finite", "another shape"])
def test_a_damaged_adapter_is_refused(llama, tokenizer, tmp_path: Path, harm: str) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    file = Path(weights.adapters[0]) / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(name for name in tensors if name.endswith("lora_B.weight"))
    if harm == "other names":
        tensors[first.replace("layers.0", "layers.9")] = tensors[first].clone()
    elif harm == "a hole":
        del tensors[first]
    elif harm == "not finite":
        tensors[first][0, 0] = float("nan")
    else:
        tensors[first] = torch.zeros(3, tensors[first].shape[1])
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckFailed) as error:
        streamed(weights, tokenizer, tmp_path / "out")
    assert "adapter" in str(error.value) and "\n" not in str(error.value)


def test_what_only_peft_can_merge_is_named(llama, tokenizer, tmp_path: Path) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    file = Path(weights.adapters[0]) / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "lora_bias": True}))
    reason = plan_merge(weights, AutoConfig.from_pretrained(weights.base), tokenizer)
    assert isinstance(reason, str) and "lora_bias" in reason


# ------------------------------------------------------------------------------- a base that sees images too


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A tiny Gemma 3 with eyes, stored as the published ones are."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16, "max_position_embeddings": 64}
    sight = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    ).save_pretrained(tmp_path / "seeing")
    names = list(load_file(tmp_path / "seeing" / "model.safetensors"))
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    return tmp_path / "seeing"


@pytest.fixture
def on_its_text(seeing: Path, tokenizer) -> Weights:
    """A shaken adapter on the text model in it."""
    config = AutoConfig.from_pretrained(seeing).get_text_config()
    base = load_model(seeing, config, "sdpa", torch.float32)
    hashed = weights_hash(base)
    model = attach(base, Tuning(method="lora", rank=4, train_embeddings=True), grow_vocabulary(base, tokenizer) > 0)
    shake(model)
    folder = seeing.parent / "adapter"
    model.save_pretrained(folder)
    weights = Weights(str(seeing), adapters=(str(folder),))
    AdapterBase.of(weights, hashed, (), None, config).write(folder)
    return weights


def text_config(weights: Weights):
    return AutoConfig.from_pretrained(weights.base).get_text_config()


def test_the_text_model_of_a_base_that_sees_is_merged_tensor_by_tensor(
    on_its_text: Weights, tokenizer, tmp_path: Path
) -> None:
    plan = plan_merge(on_its_text, text_config(on_its_text), tokenizer)
    assert isinstance(plan, Plan) and plan.architecture == "Gemma3ForCausalLM"
    assert plan.ignored and not [name for name in plan.ignored if name.startswith(("language_model.", "model.layers"))]
    (tmp_path / "out").mkdir()
    (file,) = plan.write(tmp_path / "out", "float32", 1 << 30)
    model, _, _ = load_weights(on_its_text, text_config(on_its_text), tokenizer, "sdpa", torch.float32)
    same(load_file(file), dict(model.named_parameters()))


@pytest.mark.parametrize("free", [10**12, 1000], ids=["whole", "from the disk"])
def test_it_is_certified_and_read_again(
    free: int, on_its_text: Weights, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    (tmp_path / "out").mkdir()
    text = np.arange(64, dtype=np.int32)
    merge = Merge(on_its_text, text_config(on_its_text), tokenizer, text, 32, "float32")
    assert merge_and_certify(merge, tmp_path / "out", print)["ok"]
    assert AutoConfig.from_pretrained(tmp_path / "out" / "model").model_type == "gemma3_text"


# --------------------------------------------------------------------------------------- merged in memory


def test_room_is_looked_for_before_anything_is_loaded(llama, tokenizer, tmp_path: Path, monkeypatch) -> None:
    weights = adapted(llama, tokenizer, tmp_path, Tuning(method="lora", rank=4))
    file = Path(weights.adapters[0]) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_bias": True}))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shridhar_ft.export.room.shutil.disk_usage", lambda _: usage(1, 1, 1000))
    monkeypatch.setattr("shridhar_ft.export.merge.load_weights", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "out").mkdir()
    text = np.arange(64, dtype=np.int32)
    merge = Merge(weights, AutoConfig.from_pretrained(weights.base), tokenizer, text, 64, "float32")
    with pytest.raises(DiskFailed, match="GB are free; make room"):
        merge_and_certify(merge, tmp_path / "out", print)
