"""Launch configurations: each parses, says what it starts, and refuses what it cannot do, with the reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from shridhar_ft.config import load_recipe
from shridhar_ft.doctor.parity import write_recipe
from shridhar_ft.engines import (
    Engine,
    check_processes,
    found_deepspeed_file,
    impatient_launcher,
    launched_processes,
)
from shridhar_ft.errors import UserError
from shridhar_ft.processes import need_deepspeed
from shridhar_ft.shipped import shipped

CONFIGS = sorted(shipped("accelerate_configs").glob("*.yaml"))
RECIPE = """
name: engine
data: {{books: {{paths: "{data}/books/*.txt"}}, dialogues: [{{paths: "{data}/dialogues/besedy.jsonl"}}]}}
tokenizer: {{train: {{vocab_size: 600}}}}
model:
  from_config:
    {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 8}}
train: {{max_steps: 2, log_every: 1, evaluate_every: 1, precision: fp32}}
stages: [{{name: short, context: 64, gate: tell}}]
eval: {{max_windows: 1}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a tiny recipe, with overrides, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
    return lambda *overrides: load_recipe("r.yaml", overrides)


def engine(name: str) -> Engine:
    return Engine.of_file(shipped(f"accelerate_configs/{name}.yaml"))


def changed(folder: Path, name: str, **changes: object) -> Path:
    """A shipped configuration with other settings, as a user would write one."""
    settings = yaml.safe_load(shipped(f"accelerate_configs/{name}.yaml").read_text())
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({**settings, **changes}))
    return file


def test_all_that_was_promised_is_there() -> None:
    gpu = {"single_gpu", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2", "ulysses", "multi_node_zero3"}
    assert {path.stem for path in CONFIGS} >= gpu | {"cpu", "cpu_ddp", "mps", "cpu_zero2", "cpu_zero3", "cpu_ulysses"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_sound_by_accelerates_parser_and_by_ours(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils.dataclasses import DistributedType

    theirs, ours = load_config_from_file(str(path)), Engine.of_file(path)
    assert ours.trouble() is None
    assert theirs.num_processes == ours.processes
    assert (theirs.distributed_type == DistributedType.DEEPSPEED) is ours.deepspeed
    assert path.read_text().startswith("# "), "the first lines say when to use it"
    if ours.deepspeed:
        settings = json.loads(found_deepspeed_file(theirs.deepspeed_config["deepspeed_config_file"]).read_text())
        assert settings["train_batch_size"] == settings["bf16"]["enabled"] == "auto"
        assert settings["zero_optimization"]["reduce_bucket_size"] == 200_000_000
        assert "optimizer" not in settings, "AdamW is the recipe's: betas 0.9 and 0.95, weight decay 0.1"
        if ours.layout.sharding == "zero3":
            assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_the_plans_optimizer_is_the_recipes_default(recipe) -> None:
    assert (recipe().train.betas, recipe().train.weight_decay) == ((0.9, 0.95), 0.1)


def test_ulysses_reads_one_window_at_a_time() -> None:
    assert (engine("ulysses").sequence, engine("ulysses").readers, engine("zero3").readers) == (8, 1, 8)
    assert engine("cpu_ulysses").shared_length(63) == 64
    assert engine("cpu_ddp").shared_length(63) is None


# ------------------------------------------------------------------------------------------------- refusals


def test_two_processes_of_multi_cpu_are_refused(tmp_path: Path, recipe) -> None:
    file = changed(tmp_path, "cpu_ddp", distributed_type="MULTI_CPU")
    with pytest.raises(UserError, match="MULTI_CPU silently starts one process; take MULTI_GPU"):
        Engine.of_file(file).check(recipe())


def test_fsdp_on_a_cpu_is_refused(tmp_path: Path, recipe) -> None:
    with pytest.raises(UserError, match="FSDP on a CPU silently becomes DDP"):
        Engine.of_file(changed(tmp_path, "fsdp2", use_cpu=True)).check(recipe())
    with pytest.raises(UserError, match="FSDP on a CPU silently becomes DDP"):
        engine("fsdp2").check(recipe(), device="cpu")
    engine("fsdp2").check(recipe(), device="cuda")


def test_context_parallelism_is_refused(tmp_path: Path, recipe) -> None:
    shared = {"parallelism_config_cp_size": 2}
    with pytest.raises(UserError, match="context parallelism drops the boundaries of documents"):
        Engine.of_file(changed(tmp_path, "fsdp2", parallelism_config=shared)).check(recipe())


def test_ulysses_refuses_attention_of_our_own_by_name(recipe) -> None:
    for own in ("sdpa", "flex", "sparse"):
        with pytest.raises(UserError, match=f"model.attention: {own} is an attention of our own"):
            engine("ulysses").check(recipe(f"model.attention={own}"))
    engine("ulysses").check(recipe("model.attention=flash"))


@pytest.mark.parametrize(
    ("heads", "shared", "mend"),
    [
        (12, 12, "set parallelism_config_sp_size to 4"),
        (16, 6, "set parallelism_config_sp_size to 2"),
        (9, 3, "take another launch.config"),
    ],
)
def test_ulysses_refuses_heads_that_do_not_divide(heads: int, shared: int, mend: str, recipe) -> None:
    sizes = f"model.from_config={{model_type: llama, num_attention_heads: {heads}, num_key_value_heads: {shared}}}"
    told = rf"launch.config: Ulysses shares attention heads out among 8.* {heads} \({shared} of .*; {mend}"
    with pytest.raises(UserError, match=told):
        engine("ulysses").check(recipe(sizes))
    engine("zero3").check(recipe(sizes))


@pytest.mark.parametrize("shared", [1, 2, 4, 8, 16])
def test_ulysses_takes_heads_of_which_each_process_has_its_own(shared: int, recipe) -> None:
    sizes = f"{{model_type: llama, num_attention_heads: 16, num_key_value_heads: {shared}}}"
    engine("ulysses").check(recipe(f"model.from_config={sizes}"))


def test_quantised_weights_are_not_sharded(tmp_path: Path, recipe) -> None:
    quantised = recipe("train.method=qlora", "model={base: Qwen/Qwen3-8B}", "tokenizer={}")
    with pytest.raises(UserError, match=r"train.method: FSDP shards weights of one float type"):
        engine("fsdp2").check(quantised)
    as_read = yaml.safe_load(shipped("accelerate_configs/zero3.yaml").read_text())["deepspeed_config"]
    split = changed(tmp_path, "zero3", deepspeed_config={**as_read, "zero3_init_flag": True})
    with pytest.raises(UserError, match=r"train.method: with zero3_init_flag ZeRO-3 splits weights as they are read"):
        Engine.of_file(split).check(quantised)
    engine("zero3").check(quantised)
    assert "zero2.yaml is safe" in engine("zero3").notes(quantised, "cuda")[0]
    for name, device, asked in (("zero3", "cpu", quantised), ("zero2", "cuda", quantised), ("zero3", "cuda", recipe())):
        assert engine(name).notes(asked, device) == []


def test_ulysses_with_sdpa_refuses_packed_windows(recipe) -> None:
    with pytest.raises(UserError, match="several documents share a window, and Ulysses with sdpa drops the mask"):
        engine("cpu_ulysses").check_packed(True, "stages/8k")
    with pytest.raises(UserError, match="sft: several documents"):
        engine("cpu_ulysses").check(recipe("sft={method: full}"))
    engine("cpu_ulysses").check_packed(False, "stages/8k")
    engine("ulysses").check_packed(True, "stages/8k")
    engine("cpu_zero3").check_packed(True, "stages/8k")


def test_ulysses_refuses_positions_that_skip(recipe) -> None:
    with pytest.raises(UserError, match=r"stages.0.pose: Ulysses knows documents by positions"):
        engine("ulysses").check(recipe("stages.0.pose={window: 32}"))


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_a_sharded_optimizer_is_not_carried_over(name: str, recipe) -> None:
    two = "stages=[{name: a, context: 64}, {name: b, context: 64, carry: {optimizer: true}}]"
    with pytest.raises(UserError, match=r"stages.1.carry.optimizer: a sharded optimizer"):
        engine(name).check(recipe(two))
    engine("ddp").check(recipe(two))


def test_a_file_that_is_no_configuration_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("- a\n- list\n")
    with pytest.raises(UserError, match=r"own.yaml is no accelerate configuration"):
        Engine.of_file(tmp_path / "own.yaml")
    file = changed(tmp_path, "zero2", deepspeed_config={"deepspeed_config_file": "nowhere.json"})
    with pytest.raises(UserError, match=r"nowhere.json"):
        Engine.of_file(file)


def test_processes_for_gpus_are_not_started_on_a_cpu(recipe) -> None:
    with pytest.raises(UserError, match="starts 8 processes, each on a GPU, and there is none here"):
        engine("zero2").check(recipe(), device="cpu")
    engine("zero2").check(recipe(), device="cuda")
    engine("cpu_zero2").check(recipe(), device="cpu")


@pytest.mark.parametrize("name", ["single_gpu", "mps"])
def test_a_configuration_for_a_gpu_is_not_trained_on_the_cpu_without_a_word(name: str, recipe) -> None:
    with pytest.raises(UserError, match=r"it is for a GPU \(use_cpu: false\).*accelerate_configs/cpu.yaml, or auto"):
        engine(name).check(recipe(), device="cpu")
    for device in ("cuda", "mps"):
        engine(name).check(recipe(), device=device)


def test_deepspeed_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shridhar_ft.processes.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'shridhar_ft\[deepspeed\]'"):
        need_deepspeed()


# ------------------------------------------------------------------------------------------------ processes


def test_the_number_of_processes_is_read_off_the_launchers_command() -> None:
    config = str(shipped("accelerate_configs/cpu_ddp.yaml"))
    launch = ["python", "/bin/accelerate", "launch"]
    assert launched_processes([*launch, "--config_file", config, "-m", "shridhar_ft.pretrain"]) == 2
    assert launched_processes([*launch, f"--config_file={config}", "--num_processes", "3", "-m", "x"]) == 3
    assert launched_processes([*launch, "-m", "shridhar_ft.pretrain"]) == 1
    assert launched_processes([]) == 1, "another launcher started it, or none"


def test_another_number_of_processes_than_was_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRIDHAR_FT_PROCESSES", "2")
    with pytest.raises(UserError, match="asks for 2 processes and 1 came up"):
        check_processes(1)
    check_processes(2)


def test_a_launcher_that_kills_what_saves_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert impatient_launcher() is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "set TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600" in str(impatient_launcher())
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    assert impatient_launcher() is None


def launch(config: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--quiet"),
            *("--num_cpu_threads_per_process", "1", "--main_process_port", "0", *arguments),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        timeout=600,
        check=False,
    )


def left() -> dict:
    return json.loads(Path("runs/engine/status.json").read_text())


@pytest.mark.slow
def test_accelerate_alone_is_held_to_its_configurations_number(tmp_path: Path, recipe) -> None:
    recipe()
    done = launch(changed(tmp_path, "cpu_ddp", distributed_type="MULTI_CPU"), "-m", "shridhar_ft.pretrain", "r.yaml")
    assert done.returncode != 0
    assert "asks for 2 processes and 1 came up" in done.stderr
    assert left()["status"] == 2


@pytest.mark.slow
def test_accelerate_alone_does_not_take_the_cpu_for_a_gpu(recipe) -> None:
    recipe()
    done = launch(shipped("accelerate_configs/single_gpu.yaml"), "-m", "shridhar_ft.pretrain", "r.yaml")
    assert "launch.config: it is for a GPU (use_cpu: false), and there is none here" in done.stderr
    assert done.returncode != 0 and "Traceback" not in done.stderr.split("accelerate")[0]


@pytest.mark.slow
def test_two_stages_share_their_windows_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe("single", 2, "fp32")
    stages = "[{name: a, context: 128, gate: tell}, {name: b, context: 144, rope: {type: yarn}, gate: tell}]"
    config = shipped("accelerate_configs/cpu_ulysses.yaml")
    done = launch(config, "-m", "shridhar_ft.pretrain", "single.yaml", "name=engine", f"stages={stages}")
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (json.loads(Path(f"runs/engine/stages/{name}/part.json").read_text()) for name in "ab")
    handover = json.loads(Path("runs/engine/stages/b/receipts/handover.json").read_text())
    assert handover["measured"]["hash"] == before["hash"] != after["hash"]


LEAKY = """
import sys
from shridhar_ft.engines import Engine
from shridhar_ft.entry import leave, main
from shridhar_ft.pretrain import pretrain
Engine.check_packed = lambda *_: None  # the refusal that this shows to be needed
if __name__ == "__main__":
    leave(main("pretrain", "", pretrain, ["r.yaml"]))
"""


@pytest.mark.slow
def test_packed_documents_under_ulysses_with_sdpa_do_read_one_another(tmp_path: Path, recipe) -> None:
    recipe()
    Path("leaky.py").write_text(LEAKY)
    launch(shipped("accelerate_configs/cpu_ulysses.yaml"), "leaky.py")
    receipt = json.loads(Path("runs/engine/stages/short/receipts/isolation_shared.json").read_text())
    assert receipt["ok"] is False
    assert receipt["measured"]["largest_difference_in_other_documents"] > 100 * receipt["claimed"]["tolerance"]
    assert left()["status"] == 1
