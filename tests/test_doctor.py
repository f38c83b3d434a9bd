"""The doctor: it says what is here, what suits, and what is missing, and its exit status says whether it is enough."""

import json
from pathlib import Path

import pytest

from shridhar_ft.cli import run_command
from shridhar_ft.config import load_recipe
from shridhar_ft.doctor import packages as stack
from shridhar_ft.doctor.packages import Package, packages
from shridhar_ft.doctor.suits import ladder, suits
from shridhar_ft.runfolder import run_folder
from shridhar_ft.shipped import shipped

GPUS = [{"name": "A100", "memory": 80 << 30, "free": 79 << 30, "capability": "8.0"}] * 8


def test_it_says_what_this_machine_is(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    machine = found["machine"]
    assert found["ok"] and found["missing"] == []
    assert machine["memory"]["total"] > machine["memory"]["free"] > 0
    assert machine["disk"] == {"folder": str(tmp_path.resolve()), "free": machine["disk"]["free"]}
    assert machine["precision"]["auto"] in ("fp32", "bf16") and machine["precision"]["why"]
    assert machine["attention"]["auto"] and machine["exchange"]
    assert found["suits"]["config"] == f"accelerate_configs/{ladder(machine)[0]}.yaml"
    assert {"torch", "transformers", "trl"} <= {package["name"] for package in found["packages"]}
    assert {extra["extra"]: extra["mend"] for extra in found["extras"]}["deepspeed"] == (
        "pip install 'shridhar_ft[deepspeed]'"
    )


def test_the_table_is_short_and_names_the_config(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) < 140
    assert any(line.startswith("accelerate_configs/") and " suits (" in line for line in lines)


def test_a_package_that_is_missing_is_named_with_its_mend_and_status_1(capsys, monkeypatch) -> None:
    gone = Package("torch", ">=2.13", None)
    old = Package("trl", ">=1.16", "1.2")
    monkeypatch.setattr("shridhar_ft.doctor.command.packages", lambda: [gone, old])
    assert run_command(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing: torch >=2.13 (not installed): pip install 'torch>=2.13'" in out
    assert "missing: trl >=1.16 (1.2): pip install 'trl>=1.16'" in out


def test_versions_are_compared_and_extras_are_no_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=2", 'deepspeed>=0.19; extra == "deepspeed"', 'pytest>=9; extra == "dev"', "shridhar_ft[books]"]
    monkeypatch.setattr(stack, "requires", lambda _: asked)
    assert [(package.name, package.extra) for package in packages()] == [("torch", None), ("deepspeed", "deepspeed")]
    assert not Package("torch", ">=99", "2.13.0+cpu").ok
    assert Package("torch", ">=2.13", "2.13.0+cpu").ok


@pytest.mark.parametrize(
    ("device", "devices", "first"),
    [("cpu", [], "cpu"), ("mps", GPUS[:1], "mps"), ("cuda", GPUS[:1], "single_gpu"), ("cuda", GPUS, "ddp")],
)
def test_a_machine_has_its_configurations_the_simplest_first(device: str, devices: list, first: str) -> None:
    names = ladder({"device": device, "devices": devices})
    assert names[0] == first
    assert all(shipped(f"accelerate_configs/{name}.yaml").is_file() for name in names)


def test_a_recipe_that_names_a_config_that_cannot_do_it_is_told_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    fsdp = shipped("accelerate_configs/fsdp2.yaml")
    (tmp_path / "own.yaml").write_text(fsdp.read_text().replace("use_cpu: false", "use_cpu: true"))
    assert run_command(["doctor", "demo", "launch.config=own.yaml"]) == 1
    assert "trouble: launch.config own.yaml: launch.config: FSDP on a CPU silently becomes DDP" in (
        capsys.readouterr().out
    )


def test_a_recipe_that_fits_gets_the_first_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("demo", [])
    found = suits({"device": "cpu", "devices": []}, recipe, run_folder(recipe.name))
    assert (found["config"], found["troubles"]) == ("accelerate_configs/cpu.yaml", [])


def test_a_wrong_precision_of_parity_is_refused_in_a_sentence(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["doctor", "--parity", "--precision", "fp8"]) == 2
    assert "--precision: fp8 is none of fp32, bf16" in capsys.readouterr().err


def proposed(overrides: list[str]) -> dict:
    recipe = load_recipe("demo", ["sft=null", "train={method: full, batch_size: 1, precision: bf16}", *overrides])
    return suits({"device": "cuda", "devices": GPUS}, recipe, run_folder(recipe.name))


@pytest.mark.parametrize(("flash", "config"), [(True, "accelerate_configs/ulysses.yaml"), (False, None)])
def test_windows_that_no_card_holds_get_ulysses_where_flash_attention_is(
    flash: bool, config: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = {"flash_attn": flash, "deepspeed": True}
    monkeypatch.setattr("shridhar_ft.doctor.suits.find_spec", lambda name: there[name] or None)
    long = "stages=[{name: a, context: 800000, rope: {type: yarn}}]"
    found = proposed(["tokenizer={}", "model={base: Qwen/Qwen3-8B}", long])
    assert found["config"] == config
    tried = dict(line.split(": ", 1) for line in found["tried"])
    assert [*tried][:5] == ["ddp", "zero2", "zero3", "fsdp2", "ulysses"]
    assert tried["ulysses"] == (
        "fits" if flash else "FlashAttention is not installed: pip install 'shridhar_ft[flash]'"
    )


def test_what_fits_no_machine_alone_is_sent_to_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shridhar_ft.doctor.suits.find_spec", lambda name: True)
    sizes = "hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 60, num_attention_heads: 60"
    found = proposed(
        [
            f"model.from_config={{model_type: llama, {sizes}, num_key_value_heads: 4}}",
            "stages=[{name: a, context: 4096}]",
        ]
    )
    assert found["config"] is None
    assert "accelerate_configs/multi_node_zero3.yaml would, on several machines like this one" in found["troubles"][0]
    assert any(line.startswith("ulysses: launch.config: Ulysses shares attention heads") for line in found["tried"])
