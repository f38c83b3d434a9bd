"""The optimizers of the levers: the same AdamW, in less memory."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shridhar_ft.config_training import Tuning
from shridhar_ft.model.optimizers import Bf16AdamW, _Scratch, make_optimizer, round_into
from shridhar_ft.plan.levers import Levers

TUNING = Tuning(learning_rate=1e-3, betas=(0.9, 0.999))


def groups(*parameters: nn.Parameter) -> list[dict]:
    return [{"params": list(parameters), "weight_decay": 0.1}]


def trained(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()
    return parameter.detach().float()


def test_each_lever_brings_its_optimizer() -> None:
    from bitsandbytes.optim import AdamW8bit

    def made(*levers, **changes) -> torch.optim.Optimizer:
        return make_optimizer(groups(nn.Parameter(torch.zeros(4))), TUNING.model_copy(update=changes), Levers(levers))

    plain = made()
    assert type(plain) is torch.optim.AdamW and plain.defaults["fused"] and plain.defaults["lr"] == 1e-3
    assert plain.param_groups[0]["weight_decay"] == 0.1
    assert isinstance(made("adamw_8bit"), AdamW8bit)
    assert isinstance(made("bf16_weights"), Bf16AdamW)
    assert type(made("bf16_weights", method="lora")) is torch.optim.AdamW
    assert isinstance(made("bf16_weights", "adamw_8bit", method="lora"), AdamW8bit)
    assert type(made(optimizer="adafactor")).__name__ == "Adafactor"


def test_the_fused_adamw_is_the_plain_one_up_to_rounding() -> None:
    start = torch.randn(64, 64)
    fused, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = trained(make_optimizer(groups(fused), TUNING, Levers()), fused)
    wanted = trained(torch.optim.AdamW(groups(plain), lr=1e-3, betas=(0.9, 0.999), foreach=True), plain)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_float32_weights_in_the_bf16_optimizer_are_adamws() -> None:
    start = torch.randn(64, 64)
    ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = trained(Bf16AdamW(groups(ours), lr=1e-3), ours)
    wanted = trained(torch.optim.AdamW(groups(plain), lr=1e-3), plain)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_bf16_weights_follow_float32_where_plain_rounding_stands_still() -> None:
    """Steps of 1e-4 on weights near 1 are a fortieth of a bf16 step."""
    start = torch.ones(100, 1000)

    def moved(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> float:
        for _ in range(50):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return float((1 - parameter.detach().float()).mean())

    settings_ = {"lr": 1e-4, "weight_decay": 0.0}
    exact = nn.Parameter(start.clone())
    wanted = moved(exact, torch.optim.AdamW([exact], **settings_))
    plain = nn.Parameter(start.bfloat16())
    assert moved(plain, torch.optim.AdamW([plain], **settings_)) == 0
    ours = nn.Parameter(start.bfloat16())
    assert moved(ours, Bf16AdamW([ours], **settings_)) == pytest.approx(wanted, rel=0.02)


def test_the_second_moment_falls_again_in_bf16() -> None:
    parameter = nn.Parameter(torch.zeros(10_000).bfloat16())
    optimizer = Bf16AdamW([parameter], lr=0.0, betas=(0.9, 0.999))
    parameter.grad = torch.ones_like(parameter)
    for _ in range(100):
        optimizer.step()
    high = float(optimizer.state[parameter]["exp_avg_sq"].float().mean())
    parameter.grad = torch.zeros_like(parameter)
    for _ in range(300):
        optimizer.step()
    low = float(optimizer.state[parameter]["exp_avg_sq"].float().mean())
    assert low / high == pytest.approx(0.999**300, rel=0.02)


def test_a_resumed_run_rounds_as_an_uninterrupted_one(tmp_path) -> None:
    def begun() -> tuple[nn.Parameter, Bf16AdamW]:
        parameter = nn.Parameter(torch.randn(70, 30, generator=torch.Generator().manual_seed(0)).bfloat16())
        return parameter, Bf16AdamW(groups(parameter), lr=1e-3)

    gradients = torch.randn(6, 70, 30).bfloat16()

    def go(parameter: nn.Parameter, optimizer: Bf16AdamW, which: range) -> None:
        for number in which:
            torch.rand(number)  # the global generator is somewhere else
            parameter.grad = gradients[number].clone()
            optimizer.step()

    whole, optimizer = begun()
    go(whole, optimizer, range(6))
    first, optimizer = begun()
    go(first, optimizer, range(3))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second, resumed = begun()
    second.data.copy_(first.data)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert resumed.state[second]["exp_avg_sq"].dtype == torch.bfloat16
    go(second, resumed, range(3, 6))
    assert torch.equal(second, whole)


def test_a_parameter_larger_than_a_chunk_is_updated_whole(monkeypatch) -> None:
    monkeypatch.setattr("shridhar_ft.model.optimizers.CHUNK", 64)
    start = torch.randn(7, 31)
    ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = trained(Bf16AdamW(groups(ours), lr=1e-3), ours)
    torch.testing.assert_close(found, trained(torch.optim.AdamW(groups(plain), lr=1e-3), plain), rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99))
def test_a_number_is_rounded_to_a_neighbour_and_right_on_the_average(number: float) -> None:
    many = 20_000
    value, target = torch.full((many,), number), torch.empty(many, dtype=torch.bfloat16)
    bits, others = _Scratch(torch.device("cpu"), seed=3).draw(many)
    assert not torch.equal(bits, others)
    round_into(target, value.clone(), bits)
    found = target.double()
    step = max(abs(number) * 2**-7, 1e-38)
    assert float((found - number).abs().max()) <= step
    assert float(found.mean()) == pytest.approx(number, abs=step * 4 / many**0.5)


def test_eight_bit_moments_come_near_float32_and_leave_embeddings_whole() -> None:
    start = torch.randn(128, 128)
    ours, plain, rows = nn.Parameter(start.clone()), nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = make_optimizer(groups(ours, rows), TUNING, Levers(("adamw_8bit",)), embeddings=[rows])
    rows.grad = torch.ones_like(rows)
    found = trained(optimizer, ours)
    wanted = trained(make_optimizer(groups(plain), TUNING, Levers()), plain)
    assert optimizer.state[ours]["state1"].dtype == torch.uint8
    assert optimizer.state[rows]["state1"].dtype == torch.float32
    assert float((found - wanted).norm() / (wanted - start).norm()) < 0.1
    assert copy.deepcopy(optimizer.state_dict())["state"]


@pytest.mark.slow
def test_a_model_in_bf16_learns_as_one_in_float32_does(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from shridhar_ft.model.memory import apply_levers

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=176
    )
    text = torch.randint(64, (40,), generator=torch.Generator().manual_seed(0)).repeat(50)

    def loss_after(levers: Levers) -> float:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        apply_levers(model, levers, tmp_path, False)
        tuning = Tuning(learning_rate=1e-3, weight_decay=0.0)
        optimizer = make_optimizer([{"params": list(model.parameters())}], tuning, levers)
        generator, losses = torch.Generator().manual_seed(1), []
        for _ in range(60):
            starts = torch.randint(len(text) - 65, (4,), generator=generator)
            ids = torch.stack(
                [torch.where(torch.rand(64, generator=generator) < 0.3, 0, text[s : s + 64]) for s in starts]
            )
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return sum(losses[-10:]) / 10

    exact, bf16 = loss_after(Levers()), loss_after(Levers(("bf16_weights",)))
    assert exact < 3.5 and bf16 == pytest.approx(exact, rel=0.01)
