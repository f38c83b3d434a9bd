"""Stages and SFT on an open base, by adapter and by full weights, through the entries that accelerate launches."""

import json
import shutil
from pathlib import Path

import pytest

from shridhar_ft.config import load_recipe
from shridhar_ft.entry import main
from shridhar_ft.errors import UserError
from shridhar_ft.export.run import ensure_export
from shridhar_ft.model.build import safetensors_hash
from shridhar_ft.pretrain import pretrain
from shridhar_ft.runfolder import run_folder
from shridhar_ft.sft import sft
from shridhar_ft.shipped import shipped
from shridhar_ft.stages import last_part
from shridhar_ft.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

RECIPE = """
name: base
data:
  books: {{paths: "{data}/books"}}
  dialogues: [{{paths: "{data}/dialogues/besedy.jsonl"}}]
model: {{base: base}}
train: {{method: lora, rank: 4, learning_rate: 1e-2, max_steps: 3, evaluate_every: 1, batch_size: 2, keep: best}}
stages:
  - {{name: short, context: 64}}
  - {{name: long, context: 256, rope: {{type: yarn}}}}
sft: {{method: lora, rank: 2, max_steps: 2, learning_rate: 1e-2, context: 128}}
eval: {{max_windows: 1}}
"""


@pytest.fixture
def here(beside_base: Path) -> Path:
    """A working folder with a recipe and a tiny base."""
    (beside_base / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
    return beside_base


def part(name: str) -> dict:
    return json.loads(Path(f"runs/base/{name}/part.json").read_text())


def receipt(name: str) -> dict:
    return json.loads(Path(f"runs/base/{name}.json").read_text())


def test_the_adapter_goes_from_stage_to_stage_and_both_are_merged_at_the_end(here: Path) -> None:
    assert main("pretrain", "", pretrain, ["r.yaml"]) == 0
    assert main("sft", "", sft, ["r.yaml"]) == 0
    first, second, last = part("stages/short"), part("stages/long"), part("sft")
    assert receipt("stages/long/receipts/handover")["measured"] == {
        "hash": first["hash"],
        "base_hash": first["base_hash"],
    }
    assert second["base_hash"] == first["base_hash"], "the base stays as it was"
    assert second["weights"]["adapters"] == ["run:stages/long/adapter"]
    assert last["weights"]["adapters"] == ["run:stages/long/adapter", "run:sft/adapter"]
    assert receipt("stages/long/receipts/rope")["claimed"]["rope_parameters"]["factor"] == 4.0
    recipe = load_recipe("r.yaml")
    run = run_folder("base")
    said: list[str] = []
    certificate = ensure_export(recipe, run, said.append)
    assert certificate["ok"] and "merging 2 adapters" in " ".join(said)
    assert last_part(recipe, run, load_tokenizer(run.tokenizer))["name"] == "sft"
    # What the weights were trained with is what they are exported with.
    for change in ("stages.1.rope.type=linear", "sft.rank=3", "stages.0.context=32"):
        with pytest.raises(UserError, match="was trained with other settings"):
            ensure_export(load_recipe("r.yaml", [change]), run, said.append)
    assert (
        ensure_export(load_recipe("r.yaml", ["export.dtype=bfloat16"]), run, said.append)["measured"]["dtype"]
        == "bfloat16"
    )


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_kill_after_the_last_step_costs_no_step_and_changes_no_weight(here: Path, keep: str) -> None:
    settings = [
        "train.schedule=constant",
        "train.method=full",
        f"train.keep={keep}",
        "stages=[{name: short, context: 64}]",
    ]
    assert main("pretrain", "", pretrain, ["r.yaml", *settings, "sft=null"]) == 0
    done = part("stages/short")
    folder = Path("runs/base/stages/short")
    (folder / "part.json").unlink()
    shutil.rmtree(folder / "model")
    (folder / "spent.json").write_text('{"seconds": 1000.0}')
    assert main("pretrain", "", pretrain, ["r.yaml", *settings, "sft=null"]) == 0
    again = part("stages/short")
    assert (again["hash"], again["steps"]) == (done["hash"], done["steps"]) == (done["hash"], 3)
    assert again["seconds"] >= 1000, "what was spent before the kill counts"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == "checkpoint-3"


def test_other_eval_settings_are_said_and_train_nothing(here: Path, capsys: pytest.CaptureFixture) -> None:
    one = ["r.yaml", "stages=[{name: short, context: 64}]", "sft=null"]
    assert main("pretrain", "", pretrain, one) == 0
    capsys.readouterr()
    assert main("pretrain", "", pretrain, [*one, "eval.max_windows=2"]) == 0
    assert "up to date (its losses were measured with other settings under `eval`)" in capsys.readouterr().err


def test_the_best_weights_are_handed_over_where_the_recipe_says_so(here: Path) -> None:
    # At a rate this high the loss jumps about, so that the best step is seldom the last.
    overrides = [
        "train.method=full",
        "train.learning_rate=0.3",
        "train.warmup=0",
        "train.schedule=constant",
        "train.max_steps=8",
        "train.precision=fp32",  # in bf16 these very steps end with the best one
    ]
    assert main("pretrain", "", pretrain, ["r.yaml", *overrides]) == 0
    best_was_last = []
    for stage in ("short", "long"):
        folder = Path("runs/base/stages") / stage
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
        best = min(losses, key=losses.__getitem__)
        assert safetensors_hash(folder / f"checkpoints/checkpoint-{best}") == part(f"stages/{stage}")["hash"]
        best_was_last.append(best == 8)
    assert not all(best_was_last)


def test_full_weights_after_an_adapter_begin_with_the_merged_model(here: Path) -> None:
    full = ["sft.method=full", "stages=[{name: short, context: 256}]"]
    assert main("pretrain", "", pretrain, ["r.yaml", *full]) == 0
    assert main("sft", "", sft, ["r.yaml", *full]) == 0
    assert part("sft")["weights"] == {"base": "run:sft/model", "revision": None, "adapters": []}
    assert receipt("sft/receipts/handover")["ok"]


def test_sft_alone_begins_with_the_base(here: Path) -> None:
    assert main("sft", "", sft, ["r.yaml", "stages=[]", "data.books=null"]) == 0
    assert part("sft")["weights"]["base"] == str(here / "base")


def test_changed_files_between_stages_are_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    one = ["stages=[{name: short, context: 256}]"]
    assert main("pretrain", "", pretrain, ["r.yaml", *one]) == 0
    from safetensors.torch import load_file, save_file

    file = here / "runs/base/stages/short/adapter/adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).add_(1e-3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert main("sft", "", sft, ["r.yaml", *one]) == 1
    assert "handover receipt does not hold" in capsys.readouterr().err
    assert json.loads((here / "runs/base/status.json").read_text())["status"] == 1


def test_an_adapter_on_random_weights_keeps_them_on_disk(here: Path) -> None:
    random = [
        "model={from_config: {model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4}}",
        "model.from_config.intermediate_size=64",
        "sft=null",
        "tokenizer={train: {vocab_size: 600}}",
        "stages=[{name: short, context: 64}]",
    ]
    assert main("pretrain", "", pretrain, ["r.yaml", *random]) == 0
    assert part("stages/short")["weights"]["base"] == "run:base"
    assert (here / "runs/base/base/model.safetensors").is_file()
