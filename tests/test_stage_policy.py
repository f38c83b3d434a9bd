"""What a stage carries over, which windows it reads, when it stops, and the gate that it must pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk

from shridhar_ft.callbacks import at_plateau
from shridhar_ft.config import load_recipe
from shridhar_ft.config_training import Plateau
from shridhar_ft.entry import main
from shridhar_ft.errors import UserError
from shridhar_ft.guarded import ROWS_READ
from shridhar_ft.measuring import gate
from shridhar_ft.pretrain import pretrain
from shridhar_ft.shipped import shipped

RECIPE = """
name: policy
data:
  books: {{paths: "{data}/books"}}
tokenizer: {{train: {{vocab_size: 600}}}}
model:
  from_config:
    model_type: llama
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 2
    num_attention_heads: 4
    tie_word_embeddings: true
train: {{learning_rate: 1e-3, batch_size: 2, log_every: 1, evaluate_every: 2, warmup: 0, max_steps: 4}}
stages:
  - {{name: a, context: 64}}
  - {{name: b, context: 128, rope: {{type: yarn}}}}
eval: {{max_windows: 2}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
    return tmp_path


def train(*overrides: str) -> int:
    return main("pretrain", "", pretrain, ["r.yaml", *overrides])


def part(stage: str) -> dict:
    return json.loads(Path(f"runs/policy/stages/{stage}/part.json").read_text())


def logged(stage: str, key: str) -> list:
    lines = [json.loads(line) for line in Path(f"runs/policy/stages/{stage}/metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def optimizer(stage: str, step: int) -> dict:
    return torch.load(f"runs/policy/stages/{stage}/checkpoints/checkpoint-{step}/optimizer.pt", weights_only=True)


# ------------------------------------------------------------------------------------------------ carries over


@pytest.mark.slow
def test_the_moments_go_on_where_they_are_carried_over(here: Path) -> None:
    assert train("stages.1.carry.optimizer=true", "train.save_every=1", "train.keep_checkpoints=9") == 0
    assert float(optimizer("a", 4)["state"][0]["step"]) == 4
    assert float(optimizer("b", 1)["state"][0]["step"]) == 5
    assert train("name=policy", "stages.1.carry.optimizer=false", "train.save_every=1", "train.keep_checkpoints=9") == 0
    assert float(optimizer("b", 1)["state"][0]["step"]) == 1


@pytest.mark.slow
def test_moments_of_other_weights_are_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert train("stages.1.carry.optimizer=true") == 0
    checkpoint = here / "runs/policy/stages/a/checkpoints/checkpoint-4"
    (here / "runs/policy/stages/b/part.json").unlink()
    (here / "runs/policy/stages/b/checkpoints/checkpoint-4").rename(here / "away")
    (here / "runs/policy/stages/b/checkpoints/checkpoint-2").rename(here / "away2")
    (checkpoint / "optimizer.pt").write_bytes(b"no longer")
    assert train("stages.1.carry.optimizer=true") == 2
    assert "carry.optimizer: " in (said := capsys.readouterr().err) and "optimizer.pt has 9 bytes" in said


@pytest.mark.slow
def test_one_schedule_may_span_two_stages(here: Path) -> None:
    assert train("stages.1.carry.schedule=true", "train.schedule=linear") == 0
    rates = [*logged("a", "learning_rate"), *logged("b", "learning_rate")]
    assert rates == pytest.approx([1e-3 * (8 - step) / 8 for step in range(8)])
    capable = load_recipe("r.yaml", ["stages.1.carry.schedule=true"])
    assert capable.stages[1].carry.schedule
    with pytest.raises(UserError, match=r"give stages\.0 max_steps or max_tokens, and no max_epochs"):
        load_recipe("r.yaml", ["stages.1.carry.schedule=true", "stages.0.max_epochs=1"])
    with pytest.raises(UserError, match=r"carry.schedule: one schedule has one warmup"):
        load_recipe("r.yaml", ["stages.1.carry.schedule=true", "stages.1.warmup=0.5"])


@pytest.mark.slow
def test_a_stage_may_read_what_the_one_before_did_not(here: Path) -> None:
    assert train("stages.1.carry.data=true") == 0
    windows = load_from_disk("runs/policy/stages/a/windows/train")
    read = np.load(f"runs/policy/stages/a/checkpoints/checkpoint-4/{ROWS_READ}")
    assert read.sum() == part("a")["windows_read"] == 8 < len(read)
    left = sum(len(row["input_ids"]) for row, was_read in zip(windows, read, strict=True) if not was_read)
    assert part("b")["tokens_per_epoch"] == left
    with pytest.raises(UserError, match="set packing to split"):
        load_recipe("r.yaml", ["stages.1.carry.data=true", "stages.1.packing=works"])


def test_the_first_stage_has_nothing_to_take_over(here: Path) -> None:
    with pytest.raises(UserError, match="'a' is the first stage; there is nothing to take over"):
        load_recipe("r.yaml", ["stages.0.carry.data=true"])


# ---------------------------------------------------------------------------------------------- windows, positions


@pytest.mark.slow
def test_short_pieces_are_replayed_inside_a_long_stage(here: Path) -> None:
    assert train("stages.1.replay={context: 32, share: 0.5}") == 0
    ledger = json.loads(Path("runs/policy/stages/b/receipts/ledger.json").read_text())["measured"]
    rows = load_from_disk("runs/policy/stages/b/windows/train")
    assert sum(rows["replayed"]) * 2 == len(rows) and ledger["replayed"] > 0
    assert max(max(row["lengths"]) for row in rows if row["replayed"]) <= 32
    assert not any(load_from_disk("runs/policy/stages/b/windows/validation")["replayed"])


@pytest.mark.slow
def test_skip_wise_windows_are_short_and_their_positions_go_far(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shridhar_ft import trainer

    seen: list[np.ndarray] = []
    drawn = trainer.skipped_positions
    monkeypatch.setattr(trainer, "skipped_positions", lambda *given: seen.append(drawn(*given)) or seen[-1])
    assert train("stages.1.context=512", "stages.1.pose={window: 64}") == 0
    assert part("b")["context"] == 512 and part("b")["window"] == 64
    assert max(len(row["input_ids"]) for row in load_from_disk("runs/policy/stages/b/windows/train")) == 64
    assert max(places.max() for places in seen) > 256 and all(len(places) <= 64 for places in seen)
    probe = json.loads(Path("runs/policy/stages/b/receipts/isolation.json").read_text())
    assert probe["ok"] and probe["measured"]["largest_difference_beyond_the_skip"] > probe["claimed"]["tolerance"] / 10
    rope = json.loads(Path("runs/policy/stages/b/receipts/rope.json").read_text())
    assert rope["claimed"]["rope_parameters"]["factor"] == 8.0, "the factor is that of the positions, not of the window"


@pytest.mark.slow
def test_a_stopped_skip_wise_stage_goes_on_to_the_same_weights(here: Path) -> None:
    settings = ["stages.1.context=512", "stages.1.pose={window: 64}", "train.gradient_accumulation=2"]
    assert train(*settings) == 0
    whole = part("b")["hash"]
    folder = here / "runs/policy/stages/b"
    (folder / "part.json").unlink()
    (folder / "checkpoints/checkpoint-4").rename(here / "gone")
    assert train(*settings) == 0
    assert part("b")["hash"] == whole


# ---------------------------------------------------------------------------------------------------- stop rules


@pytest.mark.slow
def test_a_stage_stops_at_its_tokens(here: Path) -> None:
    assert train("stages.0.max_tokens=300") == 0
    assert part("a")["steps"] == 3  # 2 windows of 64 tokens a step


@pytest.mark.slow
def test_a_stage_stops_where_the_loss_no_longer_falls_and_a_kill_then_costs_nothing(here: Path) -> None:
    flat = ["train.max_steps=40", "stages.0.learning_rate=1e-9", "stages.0.plateau={evaluations: 2}"]
    assert train(*flat, "stages.1.max_steps=1") == 0
    ended = part("a")
    assert ended["steps"] == 6  # the first evaluation is the best, and two more do not fall below it
    (here / "runs/policy/stages/a/part.json").unlink()
    assert train(*flat, "stages.1.max_steps=1") == 0
    assert (part("a")["steps"], part("a")["hash"]) == (6, ended["hash"])


def test_a_plateau_is_counted_from_the_best_loss() -> None:
    def reached(*losses: float) -> bool:
        return at_plateau([{"eval_loss": loss} for loss in losses], Plateau(evaluations=2, improvement=0.1))

    assert not reached() and not reached(3.0) and not reached(3.0, 2.95)
    assert reached(3.0, 2.95, 2.91)
    assert not reached(3.0, 3.5, 2.8) and not reached(3.0, 3.5, 2.8, 2.9) and reached(3.0, 3.5, 2.8, 2.9, 2.75)


# ---------------------------------------------------------------------------------------------------------- gate


def measured(*losses: float) -> dict:
    buckets = [{"from": 8 * i, "to": 8 * i + 8, "loss": loss, "tokens": 8} for i, loss in enumerate(losses)]
    return {"validation": {"loss": float(np.mean(losses)), "tokens": 8 * len(losses), "by_position": buckets}}


def test_the_gate_tells_worse_from_noise() -> None:
    before = measured(3.0, 2.9, 2.8, 2.7)
    assert gate(before, measured(2.9, 2.8, 2.7, 2.6), 32, "stop")[2]
    assert gate(before, measured(3.1, 2.8, 2.9, 2.65), 32, "stop")[2], "no larger than its own error"
    claimed, found, ok = gate(before, measured(3.1, 3.0, 2.95, 2.8), 32, "stop")
    assert not ok and found["worse"] and found["change"] == pytest.approx(0.1125)
    assert gate(before, measured(3.1, 3.0, 2.95, 2.8), 32, "tell")[2]
    assert not gate(before, measured(float("nan"), 3.0, 2.95, 2.8), 32, "stop")[2], "a loss that is no number is worse"
    assert not gate(before, measured(2.5, 2.4, 2.3, 3.2), 32, "stop")[2], "better, and ruined far out"
    assert not gate(before, measured(3.3, 2.8, 3.1, 2.5), 32, "stop")[2], "an error of its own making excuses nothing"
    assert gate({}, {}, 32, "stop") is None and claimed["measured_on"] == "validation"


@pytest.mark.slow
def test_a_stage_that_made_it_worse_stops_the_run_unless_it_shall_be_told(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    ruined = ["stages.1.learning_rate=3.0", "train.schedule=constant"]
    assert train(*ruined) == 1
    assert "the gate receipt does not hold" in capsys.readouterr().err
    assert not json.loads(Path("runs/policy/stages/b/receipts/gate.json").read_text())["ok"]
    assert not Path("runs/policy/stages/b/part.json").exists()
    assert train(*ruined, "stages.1.gate=tell") == 0
    assert "worse than before the stage (gate: tell)" in capsys.readouterr().err
    assert part("b")["steps"] == 4
