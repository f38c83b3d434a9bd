"""plan/memory.py, layout.py, choosing.py: terms, levers, sharding, and accelerate's configs and environment."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft.config import Model
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import base_config, build_model
from shridhar_ft.model.stream import keep_angles_whole, narrow_stream
from shridhar_ft.plan import memory
from shridhar_ft.plan.choosing import EXACT, Step, as_needed
from shridhar_ft.plan.disk import written
from shridhar_ft.plan.layout import Layout, layout_here, layout_of_config
from shridhar_ft.plan.memory import GIB, MIB, SAVED, footprint
from shridhar_ft.plan.models import known_bases
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.plan.sizes import quantized_bits, sizes_of
from shridhar_ft.plan.view import TERMS
from shridhar_ft.shipped import shipped

PLAN = shape_of(
    {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "intermediate_size": 2816,
        "tie_word_embeddings": True,
    },
    50_000,
)
assert PLAN is not None
EIGHT = shape_of(known_bases()["meta-llama/Llama-3.1-8B"])
assert EIGHT is not None
FULL, LORA = Tuning(precision="bf16"), Tuning(method="lora", rank=16, train_embeddings=False)


def step(shape=PLAN, tuning=FULL, tokens: int = 8192, device: str = "cuda", **layout) -> Step:
    return Step(sizes_of(shape, tuning), tuning, tokens, True, device, Layout(**layout))


def test_sizes_of_the_methods() -> None:
    full = sizes_of(EIGHT, FULL)
    assert full.total == full.trained == 8_030_261_248 and full.quantized == 0
    lora = sizes_of(EIGHT, LORA)
    assert lora.trained == 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14_336)) == 41_943_040
    assert lora.total == full.total + lora.trained
    qlora = sizes_of(EIGHT, Tuning(method="qlora", train_embeddings=False))
    assert qlora.quantized == EIGHT.linear == full.total - 2 * EIGHT.head - EIGHT.norms
    grown = sizes_of(EIGHT, Tuning(method="lora"), grown=True)
    assert grown.trained == lora.trained + 2 * EIGHT.head, "embedding and head, which are not tied"
    assert sizes_of(EIGHT, LORA.model_copy(update={"train_norms": True})).trained == lora.trained + EIGHT.norms


def test_bits_of_a_quantised_weight() -> None:
    assert quantized_bits(Tuning(method="qlora")) == pytest.approx(4.127, abs=0.001)  # arXiv 2305.14314
    assert quantized_bits(Tuning(method="qlora", double_quantization=False)) == 4.5
    assert quantized_bits(Tuning(method="qlora", quantization="int8")) == pytest.approx(8.05)


def test_weights_gradients_and_moments_are_counted_by_method() -> None:
    terms = step().footprint().device
    assert terms["weights"] == 4 * PLAN.total and terms["optimizer"] == 8 * PLAN.total
    eight = step(EIGHT, LORA).footprint(("bf16_weights",)).device
    adapters = sizes_of(EIGHT, LORA).trained
    assert eight["weights"] == 2 * EIGHT.total + 4 * adapters and eight["optimizer"] == 8 * adapters
    four = step(EIGHT, Tuning(method="qlora", train_embeddings=False)).footprint(("bf16_weights",)).device
    assert four["quantised weights"] == pytest.approx(EIGHT.linear * 4.127 / 8, rel=1e-3)
    assert four["weights"] < 0.2 * eight["weights"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PLAN, EIGHT]),
    st.sampled_from(["full", "lora", "qlora"]),
    st.integers(256, 200_000),
    st.sampled_from(["cpu", "cuda", "mps"]),
    st.sampled_from(["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]),
    st.booleans(),
)
def test_exact_levers_never_cost_memory_and_terms_are_positive(shape, method, tokens, device, sharding, bf16) -> None:
    tuning = Tuning(method=method)
    of = Step(sizes_of(shape, tuning), tuning, tokens, bf16, device, Layout(8, sharding=sharding))
    names: tuple = ()
    before = of.footprint()
    for lever in EXACT[device]:
        if not of.goes((*names, lever)):
            continue
        now = of.footprint((*names, lever))
        if lever != "tiled_mlp" or tokens > 4096:  # tiles pay from a few tiles on
            assert now.peak <= before.peak, lever
        names, before = (*names, lever), now
    for found in (before, of.footprint()):
        assert all(count > 0 for count in (*found.device.values(), *found.host.values()))
        assert found.peak == sum(found.device.values())
    assert replace(of, tokens=2 * tokens).peak() >= of.peak()


def test_sharding_divides_what_it_says() -> None:
    def terms(**layout) -> dict[str, int]:
        return step(EIGHT, **layout).footprint(("checkpointing",)).device

    whole = 8 * EIGHT.total
    assert terms(processes=8, sharding="ddp")["optimizer"] == whole
    assert terms(processes=8, sharding="ddp")["buffers"] == 4 * EIGHT.total, "the buckets"
    two, three = (terms(processes=8, sharding=kind, bucket=1000) for kind in ("zero2", "zero3"))
    assert two["optimizer"] == three["optimizer"] == (8 + 4) * EIGHT.total // 8, "moments and masters"
    assert two["weights"] == 2 * EIGHT.total and three["weights"] == 2 * EIGHT.total // 8
    assert three["gathered weights"] == 2 * 10**9, "what stage3_max_live_parameters lets live"
    assert two["buffers"] == 2 * 1000 and three["buffers"] == 2 * 2 * 1000, "ZeRO-3 sorts a bucket by owners, in a copy"
    second, none = (
        terms(processes=8, sharding=kind, bucket=1000, overlap=True)["buffers"] for kind in ("zero2", "zero3")
    )
    assert second == 2 * two["buffers"] and none == three["buffers"], "overlap_comm is no second buffer of ZeRO-3"
    gloo = step(device="cpu", processes=2, sharding="zero3", bucket=10**9).footprint().device["buffers"]
    assert gloo == 3 * 2 * PLAN.total, "and gloo reduces in a copy of its own; what is not filled is not there"
    assert terms(processes=8, sharding="fsdp")["weights"] == 4 * EIGHT.total // 8
    found = step(EIGHT, processes=8, sharding="zero3", offload_optimizer=True, offload_weights=True).footprint()
    assert "optimizer" not in found.device and "weights" not in found.device
    assert found.host["optimizer"] == (8 + 4 + 4) * EIGHT.total // 8


def test_the_layers_are_in_bf16_once_more_where_autocast_casts_them() -> None:
    """Bytes at the peak, by layer: a llama of 16 layers whose 201 million weights are float32."""
    whole, layer = 2 * PLAN.linear, 2 * PLAN.linear // 16
    tiled = whole - 2 * 3 * PLAN.hidden * PLAN.intermediate * 16

    def casts(tuning: Tuning, *levers: str, **layout) -> int:
        return step(tuning=tuning, **layout).footprint(levers).device.get("layers in bf16", 0)

    assert casts(FULL) == casts(LORA) == whole
    assert casts(LORA, "tiled_mlp") == tiled, "an MLP in tiles has no graph that would hold its copies"
    assert casts(FULL, "tiled_mlp", "checkpointing") == whole, "at the loss: autocast's cache holds them"
    assert casts(FULL, "tiled_mlp", "checkpointing", tokens=128) == layer, "at the first layer, with every gradient"
    assert casts(LORA, "tiled_mlp", "checkpointing") == layer
    assert casts(LORA.model_copy(update={"method": "qlora"})) == 0, "unpacked for one product"
    assert casts(FULL, "bf16_weights") == casts(FULL, processes=2, sharding="zero2") == 0, "they are bf16"
    assert casts(FULL, processes=2, sharding="fsdp") == 0, "gathered in bf16, and given up again"


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("sharding", ["none", "ddp", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_table_shows_every_term(method: str, sharding: str, device: str) -> None:
    shown = {term for terms in TERMS.values() for term in terms}
    for levers in ((), ("tiled_mlp",), ("checkpointing", "tiled_mlp"), ("offload_host", "checkpointing")):
        tuning = Tuning(precision="bf16", method=method)
        for tokens in (512, 8192):
            found = step(tuning=tuning, tokens=tokens, device=device, processes=2, sharding=sharding).footprint(levers)
            assert set(found.device) <= shown


def test_small_tensors_leave_holes_in_a_processors_heap() -> None:
    def holes(tokens: int, tuning: Tuning = FULL, device: str = "cpu") -> int:
        return step(tuning=tuning, tokens=tokens, device=device).footprint().device.get("holes in the heap", 0)

    kept = step(tokens=1024, device="cpu").footprint().device
    small = sum(count for name, count in kept.items() if name.startswith(("attention", "kv")))
    assert holes(1024) == int(0.4 * small), "norms' inputs of 4 MiB and an MLP's of 5.5 are mapped by themselves"
    assert holes(1024, LORA) > 2 * holes(1024), "adapters' outputs lie between"
    checkpointed = step(tokens=512, device="cpu").footprint(("checkpointing",)).device
    named = ("checkpoints", "kept attention", "norms", "attention", "kv", "mlp")
    small = sum(count for name, count in checkpointed.items() if name.startswith(named))
    assert checkpointed["holes in the heap"] == int(0.4 * small)
    assert holes(4096) == holes(1024, device="cuda") == 0


def test_ulysses_shares_the_activations_of_a_window() -> None:
    one, shared = (step(EIGHT, tokens=100_000, processes=8, sharding="zero3", sequence=n).footprint() for n in (1, 8))
    kv = [sum(count for name, count in found.device.items() if name.startswith("kv")) for found in (one, shared)]
    assert 0 < kv[1] == pytest.approx(kv[0] / 8)
    assert Layout(8, sequence=8).replicas == 1


def test_the_plans_own_step_fits_on_a_card_of_40_gb_only_with_levers() -> None:
    of = step(tokens=108_000, processes=8, sharding="ddp")
    limit = int(0.9 * 39.4 * GIB)
    assert of.peak() > 80 * GIB, "it would not fit on the cards of 80 GB either"
    names, sentences = as_needed(of, limit, 100 * GIB)
    assert of.peak(names) <= limit and len(names) == len(sentences) >= 1
    assert not set(names) - set(EXACT["cuda"]), "no number changes"


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("file", sorted(shipped("accelerate_configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_accelerate_configs_are_read(file: Path) -> None:
    made, settings_of = layout_of_config(file), yaml.safe_load(file.read_text())
    assert made.processes == settings_of["num_processes"]
    assert (made.shards_name is not None) == (settings_of["distributed_type"] in ("DEEPSPEED", "FSDP"))
    assert made.sharding != "none" or made.processes == 1
    if "zero3" in file.stem:
        assert made.sharding == "zero3"
    assert made.offload_optimizer == ("offload" in file.stem)
    if "ulysses" in file.stem:
        assert made.sequence > 1


def test_a_config_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such accelerate config"):
        layout_of_config(tmp_path / "x.yaml")
    file = tmp_path / "z.yaml"
    file.write_text("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: gone.json}\n")
    with pytest.raises(UserError, match=r"gone\.json is not there"):
        layout_of_config(file)


def test_the_environment_of_a_launch_says_the_same_as_its_config(tmp_path: Path) -> None:
    config = shipped("accelerate_configs/cpu_zero2.yaml")
    script = tmp_path / "say.py"
    script.write_text(  # one process tells: lines of two may fall into one another
        "import os\nfrom shridhar_ft.plan.layout import layout_here\nif os.environ['RANK'] == '0': print(layout_here())"
    )
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), str(script)],
        capture_output=True,
        text=True,
        cwd=shipped(""),
        env={**os.environ, "PYTHONPATH": str(shipped(""))},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(layout_of_config(config)) == "ZeRO-2 × 2"


def test_a_process_alone_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE", "WORLD", "LOCAL_WORLD"))]:
        monkeypatch.delenv(name)
    assert layout_here() == Layout()


# ---------------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize("levers", [(), ("bf16_weights",), ("adamw_8bit",)], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("method", "whole"), [("full", False), ("lora", False), ("lora", True)])
def test_a_checkpoint_takes_what_the_disks_check_counts_on_the_live_model(
    llama, method: str, whole: bool, tied: bool, levers: tuple
) -> None:
    from shridhar_ft.adapters import attach
    from shridhar_ft.model.bf16_weights import to_bf16
    from shridhar_ft.plan.levers import Levers
    from shridhar_ft.room import HEADER, SMALL, checkpoint_bytes

    model = llama(hidden_size=256, intermediate_size=512, vocab_size=2000, tie_word_embeddings=tied)
    config, tuning = model.config, Tuning(method=method, train_embeddings=whole)
    shape = shape_of(config.to_dict())
    assert shape is not None
    if method == "lora":
        model = attach(model, tuning, grown=False)
    if "bf16_weights" in levers:
        to_bf16(model, False)
    live = checkpoint_bytes(model, tuning, Levers(levers)) - SMALL
    tensors = len(list(model.parameters()))
    mine = written(sizes_of(shape, tuning), tuning, levers, Layout(), False, steps=10).checkpoint
    # Norms stay float32 beside bf16 matrices, and 8-bit moments have scales: small change.
    assert math.isclose(mine, live - 3 * HEADER * tensors, rel_tol=0.35 if levers == ("adamw_8bit",) else 0.02)


def test_each_measurement_is_saved_where_the_best_one_is_kept() -> None:
    tiny = shape_of({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}, 300)
    assert tiny is not None

    def saves(keep: str) -> int:
        tuning = Tuning.model_validate({"keep": keep, "save_every": 25, "evaluate_every": 5})
        return written(sizes_of(tiny, tuning), tuning, (), Layout(), False, steps=50).saves

    assert (saves("last"), saves("best")) == (2, 10)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "olmo3"])
def test_a_layer_saves_what_the_formula_counts(family: str, bf16: bool) -> None:
    tokens = 256
    small = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 2}
    small |= {"head_dim": 16} if family in ("qwen3", "gemma3_text") else {}

    def saved(layers: int) -> int:
        config = base_config(
            Model.model_validate({"from_config": {"model_type": family, "num_hidden_layers": layers, **small}}), 500
        )
        model = build_model(config, 0, "shridhar_sdpa").train()
        if bf16:
            narrow_stream(model)
        keep_angles_whole(model)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        narrow = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), narrow:
            kept = model.model(torch.arange(tokens)[None], position_ids=torch.arange(tokens)[None])
        assert kept is not None  # until here: what it saved is not freed and counted twice
        return sum(held.values())

    shape = shape_of({"model_type": family, "num_hidden_layers": 1, **small}, 500)
    assert shape is not None
    size = 2 if bf16 else 4
    counted = memory._layer(shape, True, tokens, (), made=size, carried=size, of_trained=4)
    casts = 2 * shape.linear if bf16 else 0  # "layers in bf16"
    assert (saved(4) - saved(2)) / 2 == pytest.approx(sum(counted[name] for name in SAVED) + casts, rel=0.02)


def test_footprint_of_a_tiny_step_is_the_process() -> None:
    tiny = shape_of({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}, 300)
    assert tiny is not None
    assert 600 * MIB < footprint(sizes_of(tiny, Tuning()), Tuning(), 64, (), False).peak < 640 * MIB
