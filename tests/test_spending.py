"""The budget: what is counted over sessions, and a real training that ends by it and goes on when it is raised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shridhar_ft.spending as spending
from shridhar_ft.backup.contents import small_files
from shridhar_ft.config import load_recipe
from shridhar_ft.entry import main
from shridhar_ft.errors import BudgetSpent, UserError
from shridhar_ft.nodes import HEAD, NODE, Node
from shridhar_ft.pretrain import pretrain
from shridhar_ft.runfolder import Run, write_json
from shridhar_ft.shipped import shipped
from shridhar_ft.spending import Spending, refuse_if_spent

RECIPE = """
name: paid
data: {{books: {{paths: "{data}/books"}}}}
model: {{base: base}}
train: {{method: lora, rank: 2, learning_rate: 1e-2, max_steps: 6, evaluate_every: 6, log_every: 1, batch_size: 2}}
stages: [{{name: short, context: 64}}]
eval: {{max_windows: 1}}
budget: {{usd_per_hour: 10, max_usd: 5}}
"""


def of(recipe_settings: list[str], root: Path, device: str = "cpu", said: list[str] | None = None) -> Spending:
    recipe = load_recipe("demo", recipe_settings)
    return Spending.of(recipe, Run(root), device, 2, True, ([] if said is None else said).append)


def test_sessions_add_up_and_machines_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["budget.usd_per_hour=10", "budget.max_usd=50"]
    monkeypatch.setattr(spending, "since_start", lambda: 3600.0)
    for session, paid in (("a", 20), ("b", 40)):
        monkeypatch.setattr(spending, "_session", lambda session=session: session)
        now = of(settings, tmp_path)
        assert now.usd == pytest.approx(paid) and not now.over, "two machines, an hour each"
        now.keep(at_once=True)
        now.keep(at_once=True)  # the same session once more is the same hour
    assert json.loads((tmp_path / spending.FILE).read_text())["usd"] == 40
    assert spending.FILE in small_files(tmp_path), "a machine that takes the place of another knows what was spent"
    monkeypatch.setattr(spending, "_session", lambda: "c")
    third = of(settings, tmp_path)
    assert third.over and "$60.00 of the $50.00 of budget.max_usd" in third.sentence()


def test_what_cannot_be_counted_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    unknown = of(["budget.max_usd=1"], tmp_path, said=said)
    assert not unknown.over and "set budget.usd_per_hour" in said.pop()
    at_home = of(["budget.max_usd=1", "budget.machine=lambda-8xa100-80gb"], tmp_path, said=said)
    assert not at_home.over and "it trains on cpu" in said.pop()
    assert of(["budget.machine=lambda-8xa100-80gb"], tmp_path, "cuda", said).usd_per_hour == pytest.approx(2 * 22.32)
    unknown.keep(at_once=True)
    assert not said and not (tmp_path / spending.FILE).exists()


def test_the_same_command_refuses_while_the_budget_is_spent(tmp_path: Path) -> None:
    session = {"seconds": 3600, "usd_per_hour": 10.0, "at": "2026-01-01"}
    write_json(tmp_path / spending.FILE, {"usd": 10, "sessions": {"x": session}})
    parts = [tmp_path / "stages/one"]
    with pytest.raises(BudgetSpent, match=r"raise it, e\.g\. budget\.max_usd=20"):
        refuse_if_spent(load_recipe("demo", ["budget.max_usd=10"]), Run(tmp_path), parts)
    refuse_if_spent(load_recipe("demo", ["budget.max_usd=11"]), Run(tmp_path), parts)
    write_json(parts[0] / "part.json", {})  # what is trained may still be exported
    refuse_if_spent(load_recipe("demo", ["budget.max_usd=10"]), Run(tmp_path), parts)


def test_a_machine_of_several_says_both_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Node.here() == Node() and not Node.here().several
    monkeypatch.setenv(NODE, "1")
    with pytest.raises(UserError, match="set both"):
        Node.here()
    monkeypatch.setenv(HEAD, "10.0.0.1")
    options = Node.here().launch_options("sft")
    assert options[:4] == ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    assert options[5] != Node.here().launch_options("pretrain")[5], "each entry meets at its own port"


@pytest.mark.slow
def test_training_ends_with_a_checkpoint_and_goes_on_when_it_is_raised(
    beside_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (beside_base / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
    part = beside_base / "runs/paid/stages/short"
    metrics = part / "metrics.jsonl"

    def clock() -> float:  # an hour goes by with every step that is logged
        return 3600.0 * len(metrics.read_text().splitlines()) if metrics.is_file() else 0.0

    monkeypatch.setattr(spending, "since_start", clock)
    assert main("pretrain", "", pretrain, ["r.yaml"]) == 76
    status = json.loads((beside_base / "runs/paid/status.json").read_text())
    assert status["status"] == 76 and "stopped after step 2, with a checkpoint: $20.00" in status["message"]
    [checkpoint] = (part / "checkpoints").glob("checkpoint-*")
    assert (checkpoint / "MANIFEST.json").is_file() and not (part / "part.json").exists()
    assert checkpoint.name == "checkpoint-2"

    assert main("pretrain", "", pretrain, ["r.yaml"]) == 76
    assert "not begun" in json.loads((beside_base / "runs/paid/status.json").read_text())["message"]
    script = "from shridhar_ft.cli import run_command; import sys; sys.exit(run_command(['run', 'r.yaml']))"
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 76 and "budget.max_usd=10" in ran.stderr, "`run` refuses at once, without torch"

    assert main("pretrain", "", pretrain, ["r.yaml", "budget.max_usd=1000"]) == 0
    made = json.loads((part / "part.json").read_text())
    assert made["steps"] == 6, "it went on from the checkpoint"
    assert json.loads(metrics.read_text().splitlines()[0])["step"] == 1, "and its log too"
