"""Tiles, checkpoints and spilled tensors change where numbers lie, not what they are."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Olmo3Config, Qwen3Config

import shridhar_ft.model.attention  # noqa: F401 - registers the attention
from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import DiskFailed, UserError
from shridhar_ft.model import offload, tiled_mlp
from shridhar_ft.model.checkpointing import checkpoint_layers
from shridhar_ft.model.compiling import compile_parts
from shridhar_ft.model.cpu_flash import CpuFlash
from shridhar_ft.model.memory import apply_levers
from shridhar_ft.model.offload import DiskStore
from shridhar_ft.model.tiled_mlp import tile_layers
from shridhar_ft.plan.levers import Levers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 176,
    "max_position_embeddings": 512,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,  # norms of heads
    "gemma3": partial(Gemma3TextConfig, sliding_window=64),  # a norm after the MLP
    "olmo3": partial(Olmo3Config, sliding_window=64),
}
DESCRIPTORS = Path("/proc/self/fd")
IDS = torch.randint(97, (2, 300), generator=torch.Generator().manual_seed(0))


def model_of(kind: str = "llama", **changes) -> nn.Module:
    torch.manual_seed(0)
    config = CONFIGS[kind](**(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="shridhar_sdpa", dtype=torch.float32)
    model.config.use_cache = False
    return model.train()


def gradients(model: nn.Module, bf16: bool = False, seed: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def largest_difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[n] - wanted[n]).abs().max() / wanted[n].abs().max().clamp(min=1e-6)) for n in wanted)


def counted(model: nn.Module, module: nn.Module, calls: list) -> None:
    """Count the tokens that go through a module."""
    module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[:-1].numel()))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_tiles_give_the_loss_and_the_gradients_of_the_whole(kind: str, checkpointed: bool) -> None:
    loss, wanted = gradients(model_of(kind))
    model = model_of(kind)
    assert tile_layers(model, 64) == 2
    if checkpointed:
        checkpoint_layers(model, recompute_attention=False, store=None)
    again, found = gradients(model)
    assert again == pytest.approx(loss, rel=1e-6) and largest_difference(found, wanted) < 1e-5


def test_tiles_under_bf16_autocast_are_nearer_to_fp32_than_the_whole() -> None:
    _, exact = gradients(model_of())
    _, whole = gradients(model_of(), bf16=True)
    model = model_of()
    tile_layers(model, 32)
    _, tiled = gradients(model, bf16=True)
    of_mlp = [name for name in exact if ".mlp." in name]

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in of_mlp)

    assert error(tiled) < 1.02 * error(whole)


def test_weights_in_bf16_get_their_sum_over_tiles_rounded_once() -> None:
    """Sums kept in bf16 drift with the number of tiles (axolotl#2865)."""
    torch.manual_seed(0)
    mlp = model_of().model.layers[0].mlp
    hidden, of_out = torch.randn(1, 4096, 64), torch.randn(1, 4096, 64)
    mlp(hidden).backward(of_out)
    exact = mlp.down_proj.weight.grad.clone()
    mlp.zero_grad()
    mlp.to(torch.bfloat16)
    tiled = partial(tiled_mlp._tiled, mlp.forward, mlp, None, 16)
    tiled(hidden.bfloat16()).backward(of_out.bfloat16())
    assert float((mlp.down_proj.weight.grad - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_lora_inside_the_mlp_trains_through_tiles_with_its_dropout(kind: str) -> None:
    tuning = Tuning(method="lora", rank=4, dropout=0.3)

    def adapted() -> nn.Module:
        model = attach(model_of(kind), tuning, grown=False)
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, and then nothing flows back into A
                parameter.data.normal_(generator=generator)
        return model

    plain = adapted()
    tile_layers(plain.get_base_model(), 64)
    loss, wanted = gradients(plain)
    both = adapted()
    tile_layers(both.get_base_model(), 64)
    checkpoint_layers(both.get_base_model(), recompute_attention=False, store=None)
    again, found = gradients(both)
    assert again == loss and largest_difference(found, wanted) < 1e-5
    assert any(".mlp." in name and "lora_A" in name for name in found) and all("lora" in name for name in found)
    without = Tuning(method="lora", rank=4)
    undropped = attach(model_of(kind), without, grown=False)
    undropped.load_state_dict(plain.state_dict())
    _, wanted = gradients(undropped)
    tile_layers(undropped.get_base_model(), 64)
    _, found = gradients(undropped)
    assert largest_difference(found, wanted) < 1e-5


def test_dropout_in_tiles_falls_in_the_backward_pass_as_it_fell_in_the_forward() -> None:
    mlp = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    hidden = torch.randn(1, 100, 8, requires_grad=True)
    torch.manual_seed(5)
    out = tiled_mlp._tiled(mlp.forward, mlp, None, 16, hidden)
    torch.rand(10)
    out.sum().backward()
    wanted = ((out != 0).float() / 0.5) @ mlp[0].weight.detach()
    torch.testing.assert_close(hidden.grad, wanted)


def test_the_mlp_is_computed_again_once_and_its_last_product_not_at_all() -> None:
    model = model_of()
    tile_layers(model, 64)
    checkpoint_layers(model, recompute_attention=False, store=None)
    up: list[int] = []
    down: list[int] = []
    layer = model.model.layers[0]
    counted(model, layer.mlp.up_proj, up)
    multiplied = nn.functional.linear
    products: list[int] = []

    def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if weight is layer.mlp.down_proj.weight:
            products.append(hidden.shape[:-1].numel())
        return multiplied(hidden, weight, bias)

    counted(model, layer.mlp.down_proj, down)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", linear)
        gradients(model)
    assert sum(up) == 2 * IDS.numel()
    assert sum(products) == IDS.numel()


def test_a_whole_evaluation_goes_over_tiles_too() -> None:
    model = model_of().eval()
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
        tile_layers(model, 64)
        calls: list[int] = []
        counted(model, model.model.layers[0].mlp.up_proj, calls)
        torch.testing.assert_close(model(input_ids=IDS, use_cache=False).logits, wanted)
    assert max(calls) == 64 and sum(calls) == IDS.numel()


def test_a_layer_of_experts_is_refused_by_name() -> None:
    from transformers import MixtralConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MixtralConfig(**SIZES, num_local_experts=2))
    with pytest.raises(UserError, match="MixtralDecoderLayer"):
        tile_layers(model)


# -------------------------------------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("stored", [False, True])
def test_checkpointing_keeps_attention_and_gives_the_same_numbers(kind: str, stored: bool, tmp_path) -> None:
    loss, wanted = gradients(model_of(kind))
    model = model_of(kind)
    checkpoint_layers(model, recompute_attention=False, store=DiskStore(tmp_path / "spilled") if stored else None)
    calls: list[int] = []
    attend = CpuFlash.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuFlash, "forward", lambda *given: calls.append(1) or attend(*given))
        again, found = gradients(model)
        once = len(calls)
        calls.clear()
        other = model_of(kind)
        checkpoint_layers(other, recompute_attention=True, store=None)
        gradients(other)
    assert again == loss and largest_difference(found, wanted) < 1e-6
    assert len(calls) == 2 * once > 0


def test_attention_dropout_falls_the_same_way_again(tmp_path) -> None:
    loss, wanted = gradients(model_of(attention_dropout=0.2))
    for recompute in (False, True):
        model = model_of(attention_dropout=0.2)
        checkpoint_layers(model, recompute_attention=recompute, store=None)
        again, found = gradients(model)
        assert again == loss and largest_difference(found, wanted) < 1e-5


def test_spilled_tensors_come_back_bit_by_bit(tmp_path) -> None:
    store = DiskStore(tmp_path)
    for tensor in (
        torch.randn(300, 400),
        torch.randn(300, 400).bfloat16(),
        torch.randn(40, 30, 100).transpose(0, 1),
        torch.arange(100_000),
    ):
        packed = store.pack(tensor)
        assert isinstance(packed, tuple)
        found = store.unpack(packed)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    small = torch.randn(3)
    assert store.pack(small) is small


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="counts open files as Linux shows them")
def test_spilled_files_have_no_name_and_are_gone_with_the_graph(tmp_path) -> None:
    def open_files() -> int:
        return len(list(DESCRIPTORS.iterdir()))

    before = open_files()
    model = model_of()
    checkpoint_layers(model, recompute_attention=False, store=DiskStore(tmp_path / "spilled"))
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    assert list((tmp_path / "spilled").iterdir()) == []
    assert open_files() >= before + 4
    loss.backward()
    del loss
    assert open_files() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_ends_the_step_with_a_sentence_and_status_74(tmp_path, monkeypatch) -> None:
    model = model_of()
    checkpoint_layers(model, recompute_attention=False, store=DiskStore(tmp_path))
    monkeypatch.setattr(offload, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(DiskFailed, match="make room") as failed:
        gradients(model)
    assert failed.value.status == 74


def test_a_file_that_was_cut_short_is_a_failed_disk(tmp_path) -> None:
    store = DiskStore(tmp_path)
    packed = store.pack(torch.randn(300, 400))
    os.ftruncate(packed[0].fileno(), 1000)
    with pytest.raises(DiskFailed):
        store.unpack(packed)


@pytest.mark.slow
def test_compiled_parts_give_the_same_numbers() -> None:
    loss, wanted = gradients(model_of())
    model = model_of()
    assert compile_parts(model) == 6
    tile_layers(model, 64)
    checkpoint_layers(model, recompute_attention=False, store=None)
    again, found = gradients(model)
    assert again == pytest.approx(loss, rel=1e-5) and largest_difference(found, wanted) < 1e-4


# -------------------------------------------------------------------------------------------- bf16 weights


@pytest.mark.parametrize("bf16", [False, True])
def test_bf16_weights_compute_near_the_rounded_model_and_leave_rope_alone(bf16: bool, tmp_path) -> None:
    rounded = model_of()
    for parameter in rounded.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16().float()
    loss, wanted = gradients(rounded)
    model = model_of()
    apply_levers(model, Levers(("bf16_weights", "checkpointing", "tiled_mlp")), tmp_path, bf16)
    streams: list[torch.dtype] = []
    model.model.norm.register_forward_hook(lambda _, inputs, output: streams.extend((inputs[0].dtype, output.dtype)))
    again, found = gradients(model, bf16)
    assert {(p.dim() > 1, p.dtype) for p in model.parameters()} == {(True, torch.bfloat16), (False, torch.float32)}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert set(streams) == {torch.bfloat16 if bf16 else torch.float32}
    assert again == pytest.approx(loss, rel=2e-2 if bf16 else 1e-5)
    assert largest_difference({n: g.float() for n, g in found.items()}, wanted) < (0.1 if bf16 else 0.01)


def test_bf16_weights_with_lora_round_the_frozen_base_only(tmp_path) -> None:
    model = attach(model_of(), Tuning(method="lora", rank=4), grown=False)
    apply_levers(model, Levers(("bf16_weights",)), tmp_path, False)
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters() if parameter.dim() > 1}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    _, found = gradients(model)
    assert all(torch.isfinite(gradient).all() for gradient in found.values()) and found
