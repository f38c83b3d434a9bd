"""The whole way on the bundled sample, as a user runs it: processes, signals, resume, export, chat."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shridhar_ft.shipped import shipped

pytestmark = pytest.mark.slow

# The sample with few steps, and dropout so that a resume has random state to get right.
SHORT = [
    "name=short",
    "train.log_every=1",
    "stages.0.max_steps=6",
    "stages.1.max_steps=4",
    "stages.2.max_steps=4",
    "train.evaluate_every=2",
    "train.save_every=1",
    "sft.max_steps=4",
    "sft.dropout=0.1",
    "sft.save_every=1",
    "eval.max_windows=1",
    "model.from_config.attention_dropout=0.1",
    "launch.config=" + str(shipped("accelerate_configs/cpu.yaml")),
]

PARTS = ["data", "tokenizer", "stages/8k", "stages/32k", "stages/108k", "sft", "export"]


def command(folder: Path, *arguments: str, module: str = "shridhar_ft.cli") -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", *module.split(), *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(folder: Path, *arguments: str, status: int = 0, module: str = "shridhar_ft.cli") -> tuple[str, str]:
    process = command(folder, *arguments, module=module)
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return out, err


def part(folder: Path, name: str, run: str = "short") -> dict:
    return json.loads((folder / "runs" / run / name / "part.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the short run went from end to end."""
    folder = tmp_path_factory.mktemp("whole")
    out, _ = finished(folder, "run", "demo", *SHORT, "--json")
    assert json.loads(out)["certificate"]["ok"]
    assert "<svg" in (folder / json.loads(out)["report"]).read_text(encoding="utf-8")
    return folder


def test_every_receipt_is_there_and_holds(whole: Path) -> None:
    run = whole / "runs" / "short"
    stages = [
        f"stages/{name}/receipts/{kind}"
        for name in ("8k", "32k", "108k")
        for kind in ("ledger", "rope", "isolation", "handover", "gate", "rope_after", "rope_written")
    ]
    others = ["data/receipts/ledger", "data/receipts/split"]
    sft = [f"sft/receipts/{kind}" for kind in ("ledger", "rope", "isolation", "handover", "mask", "rope_after")]
    for name in [*stages, *others, *sft, "export/certificate"]:
        receipt = json.loads((run / f"{name}.json").read_text())
        assert receipt["ok"] is True, name
        assert receipt["claimed"] and receipt["measured"], name
    assert json.loads((run / "status.json").read_text())["status"] == 0


def test_each_stage_starts_from_the_weights_that_the_one_before_ended_with(whole: Path) -> None:
    run = whole / "runs" / "short"
    for before, after in (("stages/8k", "stages/32k"), ("stages/32k", "stages/108k"), ("stages/108k", "sft")):
        ended = part(whole, before)["hash"]
        handover = json.loads((run / after / "receipts" / "handover.json").read_text())
        assert handover["claimed"]["hash"] == handover["measured"]["hash"] == ended
        assert part(whole, after)["hash"] != ended


def test_losses_are_the_golden_ones(whole: Path) -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "short_demo.json").read_text())
    for name, losses in golden["losses"].items():
        for when in ("loss_before", "loss_after"):
            # Another processor rounds differently; a changed method differs by more.
            assert part(whole, name)[when] == pytest.approx(losses[when], rel=2e-3), (name, golden["environment"])


def test_no_token_is_lost(whole: Path) -> None:
    run = whole / "runs" / "short"
    counted = json.loads((run / "data/receipts/ledger.json").read_text())["measured"]["tokens"]["train"]
    for stage in ("8k", "32k", "108k"):
        ledger = json.loads((run / f"stages/{stage}/receipts/ledger.json").read_text())["measured"]
        assert ledger["in"] == counted["books"] == ledger["trained"] + ledger["masked"]
        assert ledger["truncated"] == ledger["dropped"] == 0
    mask = json.loads((run / "sft/receipts/mask.json").read_text())["measured"]["example"]
    assert mask.startswith("<|dialogue|>") and "<|end|>⟧" in mask


def test_the_exported_model_has_the_last_stages_rope_and_loads_with_transformers(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = whole / "runs/short/export/model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.rope_parameters["rope_type"] == "yarn"
    assert model.config.rope_parameters["factor"] == pytest.approx(13.5)
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 1728
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id
    card = (whole / "runs/short/export/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0") and "stages/108k" in card


def test_a_second_run_makes_nothing_again(whole: Path) -> None:
    before = {name: part(whole, name)["at"] for name in ("data", "tokenizer", "stages/8k", "sft", "export")}
    _, err = finished(whole, "run", "demo", *SHORT)
    assert err.count("up to date") == 5
    assert {name: part(whole, name)["at"] for name in before} == before


def test_chat_answers_once_as_json(whole: Path) -> None:
    out, _ = finished(
        whole,
        "chat",
        "runs/short",
        "--prompt",
        "Что такое <|end|> покой?",
        "--greedy",
        "--max-new-tokens",
        "5",
        "--json",
    )
    figures = json.loads(out)
    assert figures["answer_tokens"] <= 6
    assert figures["window"] == 1728
    assert figures["tokens_per_second"] > 0


def test_an_adapter_folder_exports_to_what_its_run_exported(whole: Path) -> None:
    out, _ = finished(whole, "export", "runs/short/sft/adapter", "--json")
    assert json.loads(out)["certificate"]["ok"]


@pytest.mark.parametrize(("module", "number"), [("stages/32k", signal.SIGINT), ("sft", signal.SIGTERM)])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    whole: Path, tmp_path: Path, module: str, number: signal.Signals
) -> None:
    later = PARTS[PARTS.index(module) :]
    shutil.copytree(whole / "runs/short", tmp_path / "runs/short")  # what came before need not be made again
    for name in later:
        shutil.rmtree(tmp_path / "runs/short" / name)
    process = command(tmp_path, "run", "demo", *SHORT)
    metrics = tmp_path / "runs/short" / module / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.read_text().strip()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "to go on: shridhar-ft run demo" in err
    assert json.loads((tmp_path / "runs/short/status.json").read_text())["status"] == 75

    _, err = finished(tmp_path, "run", "demo", *SHORT)
    assert f"{module}: going on after step" in err
    for name in later[:-1]:
        assert part(tmp_path, name)["hash"] == part(whole, name)["hash"], name


def test_two_processes_train_to_the_loss_of_one(whole: Path, tmp_path: Path) -> None:
    # Two ranks of batch 4 read what one of batch 8 reads; the order of windows differs, so losses agree roughly.
    config = str(shipped("accelerate_configs/cpu_ddp.yaml"))
    two = [
        "name=two",
        "stages.0.batch_size=4",
        f"launch.config={config}",
        "sft=null",
        "stages.1.max_steps=1",
        "stages.2.max_steps=1",
    ]
    out, err = finished(
        tmp_path,
        "run",
        "demo",
        *[s for s in SHORT if not s.startswith(("name", "sft", "launch", "stages.1", "stages.2"))],
        *two,
    )
    assert (out + err).count("stages/8k: attention") == 1, "the second process knows that it is the second"
    one, both = part(whole, "stages/8k")["loss_after"], part(tmp_path, "stages/8k", "two")["loss_after"]
    assert both["validation"] == pytest.approx(one["validation"], abs=0.05)


def test_sft_before_pretraining_is_refused_with_status_2_in_the_status_file(tmp_path: Path) -> None:
    _, err = finished(tmp_path, "demo", *SHORT, module="shridhar_ft.sft", status=2)
    assert "stage '108k' has not finished" in err
    assert json.loads((tmp_path / "runs/short/status.json").read_text())["status"] == 2
