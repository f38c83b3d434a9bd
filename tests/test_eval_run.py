"""`shridhar-ft eval`: from a run to a table, resumed, the same twice, compared, and its refusals."""

import json
from pathlib import Path

import pytest
from eval_runs import make_run, write_suite

from shridhar_ft.cli import run_command
from shridhar_ft.evaluation.ends import REASONS
from shridhar_ft.evaluation.ngrams import GRAMS
from shridhar_ft.model.build import model_fingerprint
from shridhar_ft.shipped import shipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    make_run(folder)
    write_suite(folder / "suite.yaml")
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def results(*arguments: str, capsys: pytest.CaptureFixture) -> dict:
    assert run_command(["eval", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_score_has_its_interval_floor_and_ceiling_or_says_why_not(capsys) -> None:
    found = results("runs/tiny", "--suite", "suite.yaml", capsys=capsys)
    assert not found["unmeasured"]
    names = [score["name"] for score in found["scores"]]
    assert "retention at 768, choice" in names
    for score in found["scores"]:
        if score["value"] is not None:
            assert score["low"] <= score["value"] <= score["high"], score
        assert score["n"] > 0
        for end in ("floor", "ceiling"):
            assert score[end] is not None or score[f"{end}_of"] in REASONS, score
    (bits,) = (s for s in found["scores"] if s["name"] == "bits per byte, the author's held-out books")
    assert 0.5 < bits["floor"] < 4 and bits["floor_of"] == GRAMS, "the text itself has about two bits a byte"
    assert found["environment"]["packages"]["torch"]
    run_command(["eval", "runs/tiny", "--suite", "suite.yaml"])
    table = capsys.readouterr().out
    assert "floor" in table


def test_a_stopped_evaluation_goes_on_and_says_the_same(capsys, folder: Path) -> None:
    whole = results("runs/tiny", "--suite", "suite.yaml", capsys=capsys)
    file = folder / "runs/tiny/eval/items/retention.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    cut = [*lines[:6], lines[6][: len(lines[6]) // 2]]  # as a kill leaves it
    file.write_text("\n".join(cut), encoding="utf-8")
    run_command(["eval", "runs/tiny", "--suite", "suite.yaml"])
    assert "going on after 5 of" in capsys.readouterr().err
    again = json.loads((folder / "runs/tiny/eval/results.json").read_text(encoding="utf-8"))
    assert again["scores"] == whole["scores"]
    assert sorted(file.read_text(encoding="utf-8").splitlines()) == sorted(lines)


def test_the_scores_stand_in_the_model_card(folder: Path, capsys) -> None:
    card = folder / "runs/tiny/export/README.md"
    card.write_text("# tiny\n\n## Evaluation\n\nNot measured yet\n\n## Serving\n", encoding="utf-8")
    found = results("runs/tiny", "--suite", "suite.yaml", capsys=capsys)
    told = card.read_text(encoding="utf-8")
    assert "Not measured" not in told and all(f"| {score['name']} |" in told for score in found["scores"])
    assert found["made_from"]["model"] == model_fingerprint(folder / "runs/tiny/export/model")
    card.unlink()


def test_another_seed_begins_anew(capsys) -> None:
    before = results("runs/tiny", "--suite", "suite.yaml", capsys=capsys)
    assert run_command(["eval", "runs/tiny", "seed=5", "--suite", "suite.yaml"]) == 0
    assert "beginning anew" in capsys.readouterr().err
    after = results("runs/tiny", "seed=5", "--suite", "suite.yaml", capsys=capsys)
    assert before["scores"] != after["scores"]


def test_two_models_are_compared_pair_by_pair(capsys, folder: Path, llama) -> None:
    other = folder / "other"
    llama(seed=3, max_position_embeddings=768).save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (other / name).write_bytes((folder / "runs/tiny/export/model" / name).read_bytes())
    results("runs/tiny", "--suite", "suite.yaml", capsys=capsys)
    results("other", "--texts", "tiny", "--suite", "suite.yaml", "--base", "tiny", capsys=capsys)
    (theirs,) = (folder / "runs/tiny/eval/models").glob("other-*")
    found = results("--compare", "runs/tiny", str(theirs), capsys=capsys)
    rows = {row["name"]: row for row in found["differences"]}
    bits = rows["bits per byte, the author's held-out books"]
    assert bits["low"] <= bits["difference"] <= bits["high"]
    assert bits["difference"] == pytest.approx(bits["ours"] - bits["theirs"])
    floors = {s["name"]: s for s in json.loads((theirs / "results.json").read_text(encoding="utf-8"))["scores"]}
    assert floors["bits per byte, the author's held-out books"]["floor"] == pytest.approx(bits["ours"])
    same = results("--compare", "runs/tiny", "runs/tiny", capsys=capsys)
    assert all(row["difference"] in (0, None) and row["better"] == "neither" for row in same["differences"])


def test_a_base_that_was_measured_by_something_else_is_refused(capsys, folder: Path) -> None:
    write_suite(folder / "bytes.yaml", bits_per_byte={"passages": 4, "characters": 300})
    write_suite(folder / "longer.yaml", bits_per_byte={"passages": 4, "characters": 400})
    results("runs/tiny", "--suite", "bytes.yaml", capsys=capsys)
    for arguments, words in (
        (["seed=5", "--suite", "bytes.yaml"], "its seed is 108 and this one's 5"),
        (["--suite", "longer.yaml"], "its settings of bits_per_byte differ"),
        (["--suite", "suite.yaml"], "it has no loss_by_position"),
        (["eval.others=[suite.yaml]", "--suite", "bytes.yaml"], "its texts differ"),
    ):
        (folder / "book.txt").write_text("Он пошёл в лес. " * 40, encoding="utf-8")
        arguments = [argument.replace("[suite.yaml]", "[book.txt]") for argument in arguments]
        assert run_command(["eval", "runs/tiny", *arguments, "--base", "runs/tiny"]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_another_window_shares_no_window_and_gives_no_floor(capsys, folder: Path, llama) -> None:
    short = folder / "short"
    llama(seed=3, max_position_embeddings=512).save_pretrained(short)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (short / name).write_bytes((folder / "runs/tiny/export/model" / name).read_bytes())
    write_suite(folder / "two.yaml", loss_by_position={"windows": 2}, bits_per_byte={"passages": 4, "characters": 300})
    results("short", "--texts", "tiny", "--suite", "two.yaml", capsys=capsys)
    (theirs,) = (folder / "runs/tiny/eval/models").glob("short-*")
    own = results("runs/tiny", "--suite", "two.yaml", "--base", str(theirs), capsys=capsys)
    floors = {score["name"]: score["floor_of"] for score in own["scores"]}
    assert floors["loss (windows)"] == GRAMS, "the base read other windows"
    assert floors["bits per byte, the author's held-out books"] == "the base model on the same passages"
    found = results("--compare", "runs/tiny", str(theirs), capsys=capsys)
    assert found["left_out"]["loss_by_position"] == "the windows differ, so no item is shared"
    assert [row["name"] for row in found["differences"]] == ["bits per byte, the author's held-out books"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name what is measured"),
        (["nothing/here"], "no model there"),
        (["runs/tiny", "--suite", "nosuch"], "there is no suite 'nosuch'"),
        (["runs/tiny", "--suite", "bad.yaml"], "no task is called 'retension'"),
        (["runs/tiny", "--suite", "wrong.yaml"], "retention.depths"),
        (["runs/tiny", "--suite", "suite.yaml", "--base", "other/place"], "no results.json there"),
        (["missing.gguf"], "there is no such file"),
        (["--compare", "runs/tiny", "elsewhere"], "no results.json there"),
    ],
)
def test_refusals_are_one_sentence(arguments: list[str], words: str, capsys, folder: Path) -> None:
    write_suite(folder / "bad.yaml", retension={})
    write_suite(folder / "wrong.yaml", retention={"depths": 0})
    assert run_command(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_every_task_runs_and_goes_on(capsys, folder: Path) -> None:
    pytest.importorskip("pymorphy3", reason="needs the extra eval")
    books = shipped("recipes/demo/data")
    others = [*sorted((books / "books").glob("*.txt"))[:2], books / "long/dnevnik_lesnika.txt"]
    write_suite(
        folder / "all.yaml",
        ru_pairs={"each": 10},
        style_acceptance={"prompts": 3, "opening_words": 8, "words": 20},
        term_cloze={"items": 20},
        dialogue={"conversations": 4, "answer_tokens": 8},
    )
    arguments = ["runs/tiny", f"eval.others=[{', '.join(map(str, others))}]", "--suite", "all.yaml"]
    found = results(*arguments, capsys=capsys)
    assert set(found["details"]) | set(found["unmeasured"]) == set(found["suite"])
    assert "style_acceptance" in found["details"], found["unmeasured"]
    assert "ru_pairs" in found["details"], found["unmeasured"]
    assert "dialogue" in found["details"], found["unmeasured"]
    style = folder / "runs/tiny/eval/items/style_acceptance.jsonl"
    drawn = style.read_text(encoding="utf-8")
    style.write_text("".join(drawn.splitlines(keepends=True)[:2]), encoding="utf-8")
    assert results(*arguments, capsys=capsys)["scores"] == found["scores"]
    assert sorted(style.read_text(encoding="utf-8").splitlines()) == sorted(drawn.splitlines())
    same = results("--compare", "runs/tiny", "runs/tiny", capsys=capsys)
    assert {row["better"] for row in same["differences"]} == {"neither"}


def test_what_cannot_be_measured_is_said(capsys, folder: Path) -> None:
    write_suite(folder / "long.yaml", bits_per_byte={"characters": 10_000_000}, loss_by_position={})
    found = results("runs/tiny", "--suite", "long.yaml", capsys=capsys)
    assert "no held-out text is as long" in found["unmeasured"]["bits_per_byte"]
    assert "loss_by_position" not in found["unmeasured"]
