"""Which levers are turned on, which are refused, and what they are estimated to leave."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MixtralConfig

from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.model.estimate import model_sizes
from shridhar_ft.model.memory import choose_levers
from shridhar_ft.model.precision import faster_precision
from shridhar_ft.plan import free_memory
from shridhar_ft.plan.choosing import EXACT, Step
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import INEXACT, Levers
from shridhar_ft.plan.memory import GIB

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
PLAN = LlamaConfig(  # 256 million parameters with plain heads
    vocab_size=50_000,
    hidden_size=1024,
    num_hidden_layers=16,
    num_attention_heads=16,
    num_key_value_heads=16,
    intermediate_size=2816,
    tie_word_embeddings=True,
)
FP32 = Tuning(precision="fp32")


def listed(*names: str, device: torch.device = CPU, **changes) -> Levers:
    tuning = Tuning.model_validate({"memory": list(names), "precision": "fp32", **changes})
    return choose_levers(tuning, PLAN, 1024, device, free_bytes=100 * GIB)


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("name", ["recompute_attention", "offload_disk", "offload_host"])
def test_levers_on_what_checkpointing_keeps_are_refused_without_it(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*add checkpointing"):
        listed(name, device=CUDA)


@pytest.mark.parametrize("device", [CPU, MPS])
def test_levers_that_would_do_nothing_here_are_refused_by_name(device: torch.device) -> None:
    with pytest.raises(UserError, match="offload_host does nothing on"):
        listed("checkpointing", "offload_host", device=device)
    with pytest.raises(UserError, match="paged_adamw_8bit needs CUDA"):
        listed("paged_adamw_8bit", device=device)
    assert listed("checkpointing", "offload_host", "paged_adamw_8bit", device=CUDA).names


def test_levers_that_exclude_each_other_are_refused_by_name() -> None:
    for pair in (("adamw_8bit", "bf16_weights"), ("adamw_8bit", "paged_adamw_8bit")):
        with pytest.raises(UserError, match=" and ".join(pair)):
            listed(*pair, device=CUDA)
    with pytest.raises(UserError, match="two places"):
        listed("checkpointing", "offload_host", "offload_disk", device=CUDA)
    with pytest.raises(UserError, match="kind of AdamW"):
        listed("adamw_8bit", optimizer="adafactor")
    with pytest.raises(UserError, match="twice"):
        listed("checkpointing", "checkpointing")
    assert listed("adamw_8bit", "bf16_weights", method="lora").names  # there only the frozen base becomes bf16


@pytest.mark.parametrize("stage", [2, 3])
def test_under_deepspeed_what_it_does_itself_is_refused(monkeypatch, stage: int) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    for name in ("bf16_weights", "adamw_8bit"):
        with pytest.raises(UserError, match=f"{name} under DeepSpeed ZeRO-{stage}"):
            listed(name)
    if stage == 3:
        with pytest.raises(UserError, match="tiled_mlp under DeepSpeed ZeRO-3"):
            listed("tiled_mlp")
    else:
        assert listed("tiled_mlp", "checkpointing").names
    auto = choose_levers(FP32, PLAN, 108_000, CPU, free_bytes=GIB)  # sharding may make it fit: no refusal
    assert not set(auto.names) & set(INEXACT) and ("tiled_mlp" in auto) == (stage == 2)


# ---------------------------------------------------------------------------------------------------- auto


def test_auto_turns_nothing_on_where_there_is_room() -> None:
    levers = choose_levers(FP32, PLAN, 8192, CPU, free_bytes=100 * GIB)
    assert levers.names == () and levers.before == levers.after and len(levers.why) == 1


@settings(max_examples=30, deadline=None)
@given(
    st.integers(256, 120_000),
    st.integers(1, 64),
    st.sampled_from(["cpu", "cuda", "mps"]),
    st.sampled_from(["full", "lora"]),
    st.sampled_from(["fp32", "bf16"]),
)
def test_auto_fits_or_says_what_is_missing(tokens: int, gib: int, device: str, method: str, precision: str) -> None:
    tuning = Tuning.model_validate({"method": method, "precision": precision})
    where = torch.device(device)
    host = pytest.MonkeyPatch()
    host.setattr("shridhar_ft.model.memory._host_bytes", lambda: 64 * GIB)
    try:
        levers = choose_levers(tuning, PLAN, tokens, where, free_bytes=gib * GIB)
    except UserError as refusal:
        assert "GiB are missing" in str(refusal)
        return
    finally:
        host.undo()
    assert levers.after <= levers.limit == gib * GIB and levers.after <= levers.before
    assert [sentence.split()[1] for sentence in levers.why] == [*levers.names, "levers"]
    exact = [name for name in levers.names if name not in INEXACT]
    assert exact == [name for name in EXACT[device] if name in exact], "not in order of cost"
    if any(name in INEXACT for name in levers.names):
        size = model_sizes(tuning, PLAN)
        only = tuple(exact)
        assert Step(size, tuning, tokens, precision == "bf16", device, Layout()).peak(only) > levers.limit
    same = Tuning.model_validate({"memory": list(levers.names), "method": method, "precision": precision})
    again = choose_levers(same, PLAN, tokens, where, free_bytes=gib * GIB)
    assert (again.names, again.after) == (levers.names, levers.after), "auto chose what a list may not"


def test_auto_refuses_a_step_that_nothing_makes_fit_with_the_shortfall() -> None:
    with pytest.raises(UserError, match=r"108,000 tokens.*GiB may be filled: .* GiB are missing.*shorter context"):
        choose_levers(FP32, PLAN, 108_000, CPU, free_bytes=2 * GIB)
    with pytest.raises(UserError, match="smaller batch_size"):
        choose_levers(FP32.model_copy(update={"batch_size": 4}), PLAN, 108_000, CPU, free_bytes=2 * GIB)


def test_auto_leaves_experts_untiled() -> None:
    config = MixtralConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    levers = choose_levers(FP32, config, 32_768, CPU, free_bytes=3 * GIB)
    assert "tiled_mlp" not in levers and "checkpointing" in levers


def test_auto_spills_to_a_disk_where_the_host_of_a_gpu_is_full(monkeypatch) -> None:
    for host, lever in ((200, "offload_host"), (8, "offload_disk")):
        monkeypatch.setattr("shridhar_ft.model.memory._host_bytes", lambda host=host: host * GIB)
        assert lever in choose_levers(FP32, PLAN, 108_000, CUDA, free_bytes=17 * GIB)


def test_auto_pages_moments_to_the_host_of_a_gpu_before_it_rounds_weights() -> None:
    roomy, tight = (choose_levers(FP32, PLAN, 1024, CUDA, free_bytes=free * GIB) for free in (4, 3))
    assert set(roomy.names) & set(INEXACT) == {"adamw_8bit"}
    assert set(tight.names) & set(INEXACT) == {"paged_adamw_8bit"} and tight.after < roomy.after


def test_a_memory_limit_of_the_recipe_is_what_auto_may_fill() -> None:
    assert choose_levers(FP32.model_copy(update={"memory_limit": 6.5}), PLAN, 1024, CPU).limit == int(6.5 * GIB)


def test_levers_survive_json() -> None:
    import json

    levers = choose_levers(FP32, PLAN, 8192, CPU, free_bytes=6 * GIB)
    assert levers.names and Levers.from_dict(json.loads(json.dumps(levers.as_dict()))) == levers


def test_the_plans_step_at_108_000_tokens_fits_into_12_gib_without_an_inexact_lever() -> None:
    levers = choose_levers(FP32, PLAN, 108_000, CPU, free_bytes=12 * GIB)
    assert not set(levers.names) & set(INEXACT)


def test_lora_is_counted_by_rank_and_targets() -> None:
    whole = model_sizes(Tuning(method="lora", rank=8), PLAN)
    assert whole.trained == 16 * 8 * (4 * 2048 + 3 * (1024 + 2816))
    some = model_sizes(Tuning(method="lora", rank=8, targets=["q_proj"]), PLAN)
    assert some.trained == 16 * 8 * 2048 and some.total == whole.total - whole.trained + some.trained


# -------------------------------------------------------------------------------------------- free memory


def test_a_containers_limit_bounds_what_is_free(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path)
    assert free_memory._container_rooms() == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    assert free_memory._room(tmp_path, "memory.max", "memory.current", "inactive_file") is None
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_memory._room(tmp_path, "memory.max", "memory.current", "inactive_file") == 2_000_000


def test_processes_of_a_launcher_share_what_is_free(monkeypatch) -> None:
    alone = free_memory.room_bytes(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory.room_bytes(CPU) < 0.6 * alone


# ------------------------------------------------------------------------------------------------ precision


def test_the_faster_precision_is_measured_and_told_with_both_rates() -> None:
    bf16, why = faster_precision(CPU)
    fp32_rate, bf16_rate = (float(word.replace(",", "")) for word in why.split() if word.replace(",", "").isdigit())
    assert "GFLOP/s" in why and min(fp32_rate, bf16_rate) > 0
    assert bf16 == (bf16_rate > 1.2 * fp32_rate) or abs(bf16_rate / fp32_rate - 1.2) < 0.2
    assert faster_precision(CPU) == (bf16, why)
    assert faster_precision(MPS)[0] is False


def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch) -> None:
    from shridhar_ft.allocator import KERNELS, keep_memory_low

    monkeypatch.setenv("LRU_CACHE_CAPACITY", "")
    monkeypatch.delenv("LRU_CACHE_CAPACITY")  # set first, so that it is unset again afterwards
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "500")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", os.environ.get("THP_MEM_ALLOC_ENABLE", "1"))
    keep_memory_low()
    assert os.environ["LRU_CACHE_CAPACITY"] == str(KERNELS)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "500"
