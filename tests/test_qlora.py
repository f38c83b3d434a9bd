"""QLoRA through the entries: the quantised base, the adapter that goes on into SFT, and what is merged at the end."""

import json
from pathlib import Path

import pytest

from shridhar_ft.config import load_recipe
from shridhar_ft.entry import main
from shridhar_ft.export.run import ensure_export
from shridhar_ft.pretrain import pretrain
from shridhar_ft.runfolder import run_folder
from shridhar_ft.sft import sft
from shridhar_ft.shipped import shipped

pytestmark = pytest.mark.slow

RECIPE = """
name: small
data:
  books: {{paths: "{data}/books"}}
  dialogues: [{{paths: "{data}/dialogues/besedy.jsonl"}}]
model: {{base: base}}
train: {{method: qlora, rank: 4, learning_rate: 1e-2, max_steps: 3, batch_size: 2}}
stages:
  - {{name: short, context: 64}}
  - {{name: long, context: 256, rope: {{type: yarn}}}}
sft: {{method: qlora, rank: 4, max_steps: 2, learning_rate: 1e-2, context: 128}}
eval: {{max_windows: 1}}
"""


@pytest.fixture
def here(beside_base: Path) -> Path:
    """A working folder with a recipe and a tiny base."""
    (beside_base / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
    return beside_base


def part(name: str) -> dict:
    return json.loads(Path(f"runs/small/{name}/part.json").read_text())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_one_adapter_goes_through_stages_and_sft(here: Path, quantization: str) -> None:
    given = ["r.yaml", f"train.quantization={quantization}", f"sft.quantization={quantization}"]
    assert main("pretrain", "", pretrain, given) == 0
    assert main("sft", "", sft, given) == 0
    first, second, last = part("stages/short"), part("stages/long"), part("sft")
    assert first["base_hash"] == second["base_hash"] == last["base_hash"]
    assert second["loss_after"] != second["loss_before"]
    assert last["weights"]["adapters"] == ["run:sft/adapter"], "SFT goes on with the adapter of the stages"
    handed = json.loads(Path("runs/small/sft/receipts/handover.json").read_text())
    assert handed["measured"]["hash"] == second["hash"]
    written = json.loads(Path("runs/small/sft/adapter/base.json").read_text())
    assert written["quantization"]["type"] == quantization
    assert written["hash"] == first["base_hash"]
    assert written["rope"]["rope_type"] == "yarn"
    certificate = ensure_export(load_recipe("r.yaml", given[1:]), run_folder("small"), print)
    assert certificate["ok"]
    measured = certificate["measured"]
    away = {name: found["largest_logit_difference"] for name, found in measured["other_merges"].items()}
    assert set(away) == {f"merged into {quantization}", "merged onto the unquantised base"}
    assert min(away.values()) > 10 * measured["merged"]["largest_logit_difference"]


def test_lora_sft_lies_on_the_merged_rounded_base(here: Path) -> None:
    given = ["r.yaml", "sft.method=lora", "sft.rank=2"]
    assert main("pretrain", "", pretrain, given) == 0
    assert main("sft", "", sft, given) == 0
    assert part("sft")["weights"]["adapters"] == ["run:stages/long/adapter", "run:sft/adapter"]
    written = json.loads(Path("runs/small/sft/adapter/base.json").read_text())
    assert written["quantization"] is None
    assert len(written["after"]) == 1
    assert ensure_export(load_recipe("r.yaml", given[1:]), run_folder("small"), print)["ok"]


def test_another_adapter_for_sft_is_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["r.yaml", "sft.rank=8"]
    assert main("pretrain", "", pretrain, given) == 0
    assert main("sft", "", sft, given) == 2
    assert "sft.rank: 8, and the stages' is 4" in capsys.readouterr().err
