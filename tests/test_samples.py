"""Samples of the run page: deterministic, kept by the part they are from, and never a dialogue said over."""

import json
from pathlib import Path

import pytest
from eval_runs import make_run

from shridhar_ft import samples
from shridhar_ft.config import load_recipe
from shridhar_ft.data.load import conversations, load_split
from shridhar_ft.runfolder import Run, write_json
from shridhar_ft.samples import ensure_samples
from shridhar_ft.tokenizer import load_tokenizer
from shridhar_ft.weights import Weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose first stage ended with random weights."""
    from shridhar_ft.model.build import build_model, stage_config

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("samples")
        patch.chdir(folder)
        run = make_run(folder)
        recipe = load_recipe(run.root / "recipe.yaml")
        config, _ = stage_config(recipe, 0, len(load_tokenizer(run.tokenizer)))
        stage = run.stage("8k")
        build_model(config, 1, "sdpa").save_pretrained(stage / "model")
        weights = Weights(str(stage / "model")).as_dict(run.root)
        write_json(stage / "part.json", {"fingerprint": "first", "weights": weights})
    return run


def test_samples_are_the_same_again_and_made_anew_only_for_what_changed(run: Run) -> None:
    told: list[str] = []
    first = ensure_samples(run, told.append)
    assert first is not None and first == json.loads((run.root / "samples.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in first["models"]] == ["stages/8k"] and first["random_base"]
    kinds = [prompt["kind"] for prompt in first["prompts"]]
    assert kinds == ["text"] * 3 + ["question"] * 2
    answers = first["models"][0]["answers"]
    assert all(answer.get("text") or answer.get("withheld") for answer in answers)
    held_out = " ".join(" ".join(row["text"] or "" for row in load_split(run, "test")).split())
    for prompt in first["prompts"][:3]:
        assert " ".join(prompt["text"].split()) in held_out and len(prompt["text"].split()) >= 20
        assert " ".join(prompt["true"].split()[:10]) in held_out
    ensure_samples(run, told.append)
    assert told == ["samples: stages/8k, 5 prompts", "samples: up to date"]
    (run.root / "samples.json").unlink()
    assert ensure_samples(run, told.append) == first
    part = json.loads((run.stage("8k") / "part.json").read_text(encoding="utf-8"))
    write_json(run.stage("8k") / "part.json", {**part, "fingerprint": "second"})
    again = ensure_samples(run, told.append)
    assert again is not None and again["models"][0]["made_from"] == "second"
    assert again["models"][0]["answers"] == answers


def test_an_answer_that_says_a_dialogue_over_is_not_kept(run: Run) -> None:
    said = next(
        message["content"]
        for _, messages in conversations(load_split(run, "train"))
        for message in messages
        if len(message["content"].split()) > 20
    )
    words = said.split()
    answers = {
        "long": f"Вот что я скажу: {' '.join(words[3:13]).upper()} и так далее без конца и без края",
        "short": " ".join(words[:5]),
        "other": "Семь железных кораблей ушли за край карты и вернулись ни с чем домой",
        "two": " ".join(words[:2]),
    }
    made = {"sft": [{"text": text} for text in answers.values()] + [{"text": None}]}
    shown = samples._guarded(run, made)["sft"]
    assert shown == [
        {"withheld": True},
        {"withheld": True},
        {"text": answers["other"]},
        {"text": answers["two"]},
        {"text": None},
    ]


def test_a_run_without_a_trained_part_has_no_samples(run: Run, tmp_path: Path) -> None:
    told: list[str] = []
    assert ensure_samples(Run(tmp_path), told.append) is None
    assert told == ["samples: the run has no recipe.yaml yet; none are made"]
