"""Files that a user can hand over damaged (cut off, empty, another program's): one sentence that names the file."""

import json
from pathlib import Path

import pytest
import torch
from run_folders import results

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach
from shridhar_ft.cli import run_command
from shridhar_ft.config_training import Tuning
from shridhar_ft.entry import main
from shridhar_ft.model.build import weights_hash
from shridhar_ft.pretrain import pretrain
from shridhar_ft.shipped import shipped
from shridhar_ft.weights import Weights

pytestmark = pytest.mark.slow

RECIPE = """
name: tiny
data: {{books: {{paths: "{data}/books"}}, dialogues: [{{paths: "{data}/dialogues/besedy.jsonl"}}]}}
model: {{base: base}}
train: {{method: lora, rank: 2, max_steps: 1, batch_size: 1}}
stages: [{{name: short, context: 64}}]
eval: {{max_windows: 1}}
"""
HARMS = {
    "cut": lambda held: held[: len(held) // 2],
    "empty": lambda _: b"",
    "a list": lambda _: b"[]",
    "no text": lambda _: b"\xff\xfe\x00",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A base, an adapter on it, and a trained, exported, evaluated run; all tiny."""
    from transformers import LlamaConfig

    from shridhar_ft.model.build import build_model

    folder = tmp_path_factory.mktemp("made")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = build_model(
        LlamaConfig(vocab_size=600, max_position_embeddings=64, tie_word_embeddings=True, **sizes), 0, "sdpa"
    )
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    hashed = weights_hash(base)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        (folder / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
        attach(base, Tuning(method="lora", rank=2), grown=False).save_pretrained(folder / "adapter")
        settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = "base"
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
        tokenizer.save_pretrained(folder / "adapter")
        AdapterBase.of(Weights("base"), hashed, (), None, base.config).write(folder / "adapter")
        assert main("pretrain", "", pretrain, ["r.yaml"]) == 0
        assert run_command(["export", "r.yaml"]) == 0
        (folder / "runs/tiny/eval").mkdir()
        found = {**results("tiny"), "made_from": {"model": "?", "texts": "?"}}
        (folder / "runs/tiny/eval/results.json").write_text(json.dumps(found))
    return folder


RUN = "runs/tiny"
ADAPTER = ("adapter_config.json", "base.json", "adapter_model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CASES = {
    "export adapter": [
        *(f"adapter/{name}" for name in (*ADAPTER, *TOKENIZER)),
        *("base/config.json", "base/model.safetensors"),
    ],
    "export r.yaml export.dtype=bfloat16": [
        "base/config.json",  # damaged weights of the base are told as a base that changed
        *(f"{RUN}/data/{name}" for name in ("part.json", "receipts/ledger.json", "report.json")),
        *(f"{RUN}/tokenizer/{name}" for name in TOKENIZER),
        *(f"{RUN}/stages/short/adapter/{name}" for name in ADAPTER),
        *(f"{RUN}/{name}.json" for name in ("stages/short/part", "stages/short/receipts/rope", "eval/results")),
        f"{RUN}/export/part.json",
    ],
    "export r.yaml": [f"{RUN}/export/certificate.json", f"{RUN}/export/part.json"],
    "data build r.yaml": [f"{RUN}/data/{name}.json" for name in ("part", "receipts/ledger", "verdict", "report")],
    "chat runs/tiny --prompt а --max-new-tokens 1": [
        *(f"{RUN}/export/model/{name}" for name in ("config.json", "model.safetensors", *TOKENIZER)),
    ],
    "eval --compare runs/tiny/eval runs/tiny/eval": [f"{RUN}/eval/results.json"],
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in CASES.items() for name in names])
def test_a_damaged_file_is_told_in_a_sentence(command: str, name: str, made: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = made / name
    held = file.read_bytes()
    for harm, damage in HARMS.items():
        file.write_bytes(damage(held))
        try:
            status = run_command(command.split())
        finally:
            file.write_bytes(held)
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert (status, last[:13]) == (2, "shridhar-ft: "), (harm, last)
        assert name.split("/")[-1] in last or str(Path(name).parent.name) in last, (harm, last)


LACKING = {
    "export r.yaml export.dtype=bfloat16": ("data/part", "data/receipts/ledger", "data/report", "eval/results"),
    "data build r.yaml": ("data/receipts/ledger", "data/report"),
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in LACKING.items() for name in names])
def test_a_file_of_another_program_is_told_by_what_it_lacks(
    command: str, name: str, made: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(made)
    file = made / RUN / f"{name}.json"
    held = file.read_bytes()
    file.write_text("{}")
    try:
        assert run_command(command.split()) == 2
    finally:
        file.write_bytes(held)
    assert f"{RUN}/{name}.json: it holds no " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data/part", "data/receipts/ledger", "data/report", "eval/results", "status"])
@pytest.mark.parametrize("harm", [*HARMS, "other keys"])
def test_the_run_page_is_made_without_a_damaged_file(name: str, harm: str, made: Path, monkeypatch) -> None:
    monkeypatch.chdir(made)
    file = made / RUN / f"{name}.json"
    held = file.read_bytes()
    file.write_bytes({**HARMS, "other keys": lambda _: b"{}"}[harm](held))
    try:
        assert run_command(["report", RUN, "--no-samples"]) == 0
    finally:
        file.write_bytes(held)
