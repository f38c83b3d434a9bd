"""Hidden states in bf16, angles in float32, and a model that learns as well as in float32."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.model.build import build_model
from shridhar_ft.model.loss import add_loss_head
from shridhar_ft.model.memory import apply_levers
from shridhar_ft.model.stream import leave_casts_to_autocast, narrow_stream
from shridhar_ft.plan.levers import Levers

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def made(model_type: str = "llama", levers: Levers = Levers(), **changes: object) -> torch.nn.Module:  # noqa: B008
    config = CONFIG_MAPPING[model_type](**SIZES, num_key_value_heads=2, head_dim=16, pad_token_id=None, **changes)
    model = build_model(config, 0, "shridhar_sdpa")
    apply_levers(model, levers, None, compute_bf16=True)
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "olmo3"])
@pytest.mark.parametrize("names", [(), ("bf16_weights",), ("checkpointing",)])
def test_hidden_states_are_bf16_and_angles_float32(model_type: str, names: tuple) -> None:
    model = made(model_type, Levers(names))
    seen: dict[str, set] = {"layer": set(), "angles": set(), "head": set()}
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, given, out: seen["layer"].add((given[0].dtype, out.dtype)))
    model.model.rotary_emb.register_forward_hook(lambda module, given, out: seen["angles"].update(p.dtype for p in out))
    model.model.norm.register_forward_hook(lambda module, given, out: seen["head"].add(out.dtype))
    add_loss_head(model)
    ids = torch.arange(24)[None] % 60
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert seen["layer"] == {(torch.bfloat16, torch.bfloat16)}
    assert seen["angles"] == {torch.float32}
    assert seen["head"] == {model.get_output_embeddings().weight.dtype}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kind", [{}, {"rslora": True}, {"dora": True}, {"dropout": 0.1}], ids=str)
def test_adapters_make_no_copy_that_autocast_makes_again(kind: dict) -> None:
    ids = torch.arange(24)[None] % 60
    told = []
    for spared in (False, True):
        model = attach(
            build_model(made().config, 0, "shridhar_sdpa"), Tuning(method="lora", rank=4, **kind), grown=False
        )
        narrow_stream(model)
        if spared:
            leave_casts_to_autocast(model)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.02)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        told.append((loss.detach(), gradients, sum(kept.values())))
    (before, own, more), (after, spare, less) = told
    assert torch.equal(before, after) and own.keys() == spare.keys() and len(own) > 20
    assert all(torch.equal(own[name], spare[name]) for name in own)
    assert less < 0.95 * more or (kind and "rslora" not in kind)


def test_the_angles_are_whole_far_out() -> None:
    """In bf16 the cosines of neighbouring positions near 100,000 would be off by up to a 256th."""
    model = made(max_position_embeddings=108_000)
    places = torch.arange(100_000, 100_008)[None]
    cos, _ = model.model.rotary_emb(torch.zeros(1, 8, 64, dtype=torch.bfloat16), position_ids=places)
    wanted = (places[0, :, None].double() * model.model.rotary_emb.inv_freq.double()).cos()
    assert float((cos[0, :, :8].double() - wanted).abs().max()) < 0.02 * 2**-4
    assert cos.dtype == torch.float32


@pytest.mark.slow
def test_a_narrow_stream_learns_as_float32_does() -> None:
    text = torch.randint(64, (40,), generator=torch.Generator().manual_seed(0)).repeat(8)[None]
    losses = {}
    for narrow in (False, True):
        model = made() if narrow else build_model(made().config, 0, "shridhar_sdpa")
        add_loss_head(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step in range(48):  # a text that is known by heart has next to no loss, and its last digits are chance
            start = step * 7 % 40
            ids = text[:, start : start + 64]
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                loss = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses[narrow] = float(loss)
    assert losses[False] < 1.0, "something was learned"
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
