"""An export of a model larger than the memory: certified layer by layer from the disk, or refused in a sentence.

How much is free is patched, so that tiny models stand for large ones; one process shows what a larger one really takes.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach, load_weights
from shridhar_ft.config_rope import Rope
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import CheckFailed, OutOfMemory
from shridhar_ft.export import memory
from shridhar_ft.export.deltas import Adapter
from shridhar_ft.export.gguf_certificate import cache_for
from shridhar_ft.export.merge import Merge, merge_and_certify
from shridhar_ft.model.build import grow_vocabulary, weights_hash
from shridhar_ft.model.quantized import Quantization, quantize
from shridhar_ft.model.rope import StageRope, apply_rope
from shridhar_ft.weights import Weights

CONTEXT, ORIGINAL = 1100, 128  # longer than an MLP's tile


def shaken(model: torch.nn.Module, folder: Path, seed: int) -> None:
    """Give every trained parameter another value, and save the adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)


def scaled(config, kind: str = "yarn"):
    """A copy of a config with the RoPE that everything here is trained and certified with."""
    return apply_rope(type(config)(**config.to_dict()), StageRope(Rope(type=kind), CONTEXT, ORIGINAL))


def adapted(
    base, tokenizer, folder: Path, tuning: Tuning | None, how: Quantization | None = None, kind: str = "yarn"
) -> Weights:
    """A base on disk, and an adapter on it where it is tuned."""
    torch.manual_seed(11)  # adapters begin with random numbers
    base.save_pretrained(folder / "base")
    weights = Weights(str(folder / "base"))
    if tuning is None:
        return weights
    hashed = weights_hash(base)
    grown = grow_vocabulary(base, tokenizer) > 0
    if how is not None:
        base = quantize(base, how, torch.device("cpu"))
    shaken(attach(base, tuning, grown), folder / "adapter", 3)
    AdapterBase.of(weights, hashed, (), how, scaled(base.config, kind)).write(folder / "adapter")
    return Weights(weights.base, adapters=(str(folder / "adapter"),))


def certified(weights: Weights, tokenizer, folder: Path, dtype: str = "float32", kind: str = "yarn") -> dict:
    config = scaled(AutoConfig.from_pretrained(weights.base).get_text_config(), kind)
    text = np.random.default_rng(0).integers(0, 590, CONTEXT).astype(np.int32)
    folder.mkdir()
    return merge_and_certify(Merge(weights, config, tokenizer, text, ORIGINAL, dtype), folder, print)


def same_both_ways(weights: Weights, tokenizer, tmp_path: Path, monkeypatch, dtype: str = "bfloat16", **more) -> dict:
    """Certify whole and from the disk; the latter's certificate, once it says the same."""
    whole = certified(weights, tokenizer, tmp_path / "whole", dtype, **more)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    layered = certified(weights, tokenizer, tmp_path / "layered", dtype, **more)
    assert whole["ok"] and layered["ok"]
    assert (whole["claimed"]["weights_read"], whole["claimed"]["not_computed"]) == ("whole", [])
    assert layered["claimed"]["weights_read"] == "from the disk, layer by layer"
    assert layered["claimed"]["artefacts"] == [name for name in whole["claimed"]["artefacts"] if name != "merged"]
    assert layered["measured"]["rope"] == whole["measured"]["rope"] and layered["measured"]["rope"]["ok"]
    a, b = (found["measured"]["reloaded"] for found in (whole, layered))
    assert dtype == "float32" or b["largest_logit_difference"] > 0, "a written bfloat16 model differs a little"
    for place in ("start", "original_context", "full_context"):
        assert b[place]["positions"] == a[place]["positions"]
        assert b[place]["largest_logit_difference"] == pytest.approx(a[place]["largest_logit_difference"], abs=1e-5)
        # A divergence is a difference of numbers of several nats in float32, which are known to about 1e-7.
        assert b[place]["mean_kl_nats"] == pytest.approx(a[place]["mean_kl_nats"], rel=1e-2, abs=2e-7)
    return layered


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("tuning", "rows"),
    [
        (None, 600),
        ({}, 600),
        ({"dora": True, "rslora": True}, 600),
        ({"train_embeddings": True, "train_norms": True}, 600),
        ({}, 590),
    ],
    ids=["full weights", "lora", "dora", "whole modules", "grown"],
)
def test_the_certificate_from_the_disk_is_that_of_the_whole_model(
    tuning: dict | None, rows: int, tied: bool, llama, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    how = None if tuning is None else Tuning(method="lora", rank=4, **tuning)
    base = llama(vocab_size=rows, tie_word_embeddings=tied, num_hidden_layers=3)
    layered = same_both_ways(adapted(base, tokenizer, tmp_path, how), tokenizer, tmp_path, monkeypatch)
    assert layered["claimed"]["not_computed"] == ([] if tuning is None else ["merged"])


def test_so_it_is_with_a_rope_that_changes_with_the_length(llama, tokenizer, tmp_path: Path, monkeypatch) -> None:
    weights = adapted(llama(), tokenizer, tmp_path, Tuning(method="lora", rank=4), kind="dynamic")
    same_both_ways(weights, tokenizer, tmp_path, monkeypatch, kind="dynamic")


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("type", ["nf4", "int8"])
def test_a_quantised_base_is_read_rounded(
    type: str, stored: str, llama, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    how = Quantization(type, type == "nf4")
    base = llama(hidden_size=64, intermediate_size=128).to(getattr(torch, stored))
    weights = adapted(base, tokenizer, tmp_path, Tuning(method="qlora", rank=4, quantization=type), how)
    # In float32 nothing may be rounded but what the training rounded: of a base in bf16 it once was.
    layered = same_both_ways(
        weights, tokenizer, tmp_path, monkeypatch, "bfloat16" if stored == "float32" else "float32"
    )
    assert layered["claimed"]["not_computed"] == ["merged", "other_merges"]
    assert "other_merges" not in layered["measured"]


def test_earlier_adapters_are_merged_beneath_the_last(llama, tokenizer, tmp_path: Path, monkeypatch) -> None:
    weights = adapted(llama(), tokenizer, tmp_path, Tuning(method="lora", rank=4))
    config = AutoConfig.from_pretrained(weights.base)
    model, _, hashed = load_weights(weights, config, tokenizer, "sdpa", torch.float32)
    shaken(attach(model, Tuning(method="lora", rank=2), grown=False), tmp_path / "second", 4)
    AdapterBase.of(weights, hashed, weights.adapters, None, scaled(config)).write(tmp_path / "second")
    both = Weights(weights.base, adapters=(*weights.adapters, str(tmp_path / "second")))
    same_both_ways(both, tokenizer, tmp_path, monkeypatch)


def test_another_written_model_is_not_certified_from_the_disk(llama, tokenizer, tmp_path: Path, monkeypatch) -> None:
    weights = adapted(llama(), tokenizer, tmp_path, Tuning(method="lora", rank=4))
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    monkeypatch.setattr(Adapter, "_scaling", lambda *_: 0.1)  # a merge that scales the update otherwise than peft
    with pytest.raises(CheckFailed, match="does not answer as the trained one"):
        certified(weights, tokenizer, tmp_path / "out")


def test_what_only_peft_can_merge_is_refused_where_it_does_not_fit(
    llama, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    weights = adapted(llama(), tokenizer, tmp_path, Tuning(method="lora", rank=4))
    file = Path(weights.adapters[0]) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_bias": True}))
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(OutOfMemory, match=r"lora_bias.* GB may be filled; export it on") as error:
        certified(weights, tokenizer, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out" / "model").iterdir())


def test_the_cache_of_llama_cpp_is_counted_before_it_is_taken(monkeypatch) -> None:
    # Qwen3-8B: 36 layers, 8 key/value heads of 128; at 108,000 tokens 31.9 GB in float32, scores 0.9 GB more.
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    for free, kind in ((40e9, "f32"), (30e9, "f16")):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: int(free))
        assert cache_for(config, 108_000) == kind
    monkeypatch.setattr(memory, "free_bytes", lambda: int(16e9))
    with pytest.raises(
        OutOfMemory, match=r"16\.81 GB of keys and values \(f16\), and 14\.40 GB may be filled"
    ) as error:
        cache_for(config, 108_000)
    assert "\n" not in str(error.value)
    assert cache_for(config, 4096) == "f32"


MEASURED = """
import sys
from pathlib import Path
import numpy as np
from transformers import AutoConfig, AutoTokenizer
from shridhar_ft.export import memory
from shridhar_ft.export.merge import Merge, merge_and_certify
from shridhar_ft.weights import Weights

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
for name in ("small", "large"):  # the first, so that what libraries load for themselves is there
    for free in (1000, 10**12):
        memory.free_bytes = lambda: free
        out = folder / f"{name}{free}"
        out.mkdir()
        base = folder / name
        weights = Weights(str(base), adapters=(f"{base}_adapter",))
        text = np.arange(64, dtype=np.int32)
        merge = Merge(weights, AutoConfig.from_pretrained(base), tokenizer, text, 32, "float32")
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        merge_and_certify(merge, out, lambda _: None)
        print("peak", name, free, status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads a process's peak as Linux tells it")
def test_a_model_from_the_disk_takes_a_few_of_its_layers(llama, tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4}
    for name, layers in (("small", 1), ("large", 20)):
        base = llama(num_hidden_layers=layers, **sizes)
        weights = sum(parameter.nbytes for parameter in base.parameters())
        base.save_pretrained(tmp_path / name, max_shard_size="20MB")
        shaken(attach(base, Tuning(method="lora", rank=4), grown=False), tmp_path / f"{name}_adapter", 3)
    assert weights > 100e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    layered, whole = (int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("peak large"))
    assert whole > 0.9 * weights, "what is read whole shows"
    assert layered < 0.3 * weights, (layered, whole, weights)
