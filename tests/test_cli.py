"""The commands: help that fits a screen, JSON answers, and wrong input told in one sentence with status 2."""

import json
import signal
from pathlib import Path

import pytest
import typer

from shridhar_ft.cli import app, run_command

COMMANDS = [
    [],
    ["run"],
    ["data"],
    ["data", "build"],
    ["data", "diff"],
    ["data", "inspect"],
    ["tokenizer"],
    ["tokenizer", "train"],
    ["recipe"],
    ["recipe", "check"],
    ["recipe", "schema"],
    ["plan"],
    ["doctor"],
    ["export"],
    ["eval"],
    ["report"],
    ["status"],
    ["pull"],
    ["cloud"],
    ["rehearse"],
    ["chat"],
]


def walk(command: object, path: tuple[str, ...] = ()) -> list[list[str]]:
    found = [list(path)]
    for name, child in getattr(command, "commands", {}).items():
        found += walk(child, (*path, name))
    return found


def test_the_list_of_commands_is_complete() -> None:
    assert sorted(COMMANDS) == sorted(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "shridhar-ft")
def test_help_is_at_most_40_lines_and_has_an_example(command: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run_command([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    assert "Example: shridhar-ft" in " ".join(text.split())


def test_what_a_library_prints_is_not_in_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("shridhar_ft.config.Recipe.without_effect", lambda recipe: print("noise") or [])
    assert run_command(["recipe", "check", "demo", "--json"]) == 0
    written = capsys.readouterr()
    assert json.loads(written.out)["ok"]
    assert "noise" in written.err


def test_check_answers_in_json(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["recipe", "check", "demo", "sft.rank=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["sft"]["rank"] == 4


def test_schema_names_every_section(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"Stage", "Rope", "Split", "Sft"} <= set(schema["$defs"])
    assert "tokens" in schema["$defs"]["Stage"]["properties"]["context"]["description"]


# ------------------------------------------------------------------------------------------------ bad input


def books(folder: Path, text: bytes) -> str:
    (folder / "books").mkdir()
    (folder / "books" / "one.txt").write_bytes(text)
    return f"data.books.paths={folder / 'books'}"


def empty(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [f"data.books.paths={folder / 'empty'}"]


def dialogues(folder: Path, text: str) -> list[str]:
    (folder / "d.jsonl").write_text(text, encoding="utf-8")
    return ["data.dialogues=[{paths: d.jsonl}]"]


PROSE = "Утро было тихое, и дорога вела к реке. " * 40
ANSWERED = '{"messages": [{"role": "user", "content": "Да?"}, {"role": "assistant", "content": "Да."}]}\n'
ASKED = '{"messages": [{"role": "user", "content": "Да?"}]}\n'
STAGES = "stages=[{name: a, context: 512}, {name: b, context: 64}]"

BAD = {
    "missing folder": (lambda f: ["data.books.paths=nowhere"], ["data.books.paths", "nowhere"]),
    "empty folder": (empty, ["data.books.paths", "holds no *.txt"]),
    "no text": (lambda f: [books(f, bytes(range(256)) * 40)], ["one.txt", "it is no text", "data.books"]),
    "two encodings": (
        lambda f: [books(f, PROSE.encode() + PROSE.encode("cp1251"))],
        ["one.txt", "byte", "data.books.encoding="],
    ),
    "broken JSON line": (lambda f: dialogues(f, ANSWERED + '{"messages": [\n'), ["d.jsonl:2"]),
    "no assistant": (lambda f: dialogues(f, ASKED * 3), ["data.dialogues.0", "assistant"]),
    "unknown key": (lambda f: ["train.learning_rat=1"], ["train.learning_rat", "'learning_rate'"]),
    "shrinking stages": (lambda f: [STAGES], ["stages.1.context", "64"]),
    "base not there": (
        lambda f: ["model={base: no/such-base}", "tokenizer={}"],
        ["model.base", "no/such-base"],
    ),
    "GPT-2": (lambda f: ["model={from_config: {model_type: gpt2}}"], ["gpt2", "RoPE"]),
    "misspelt size": (lambda f: ["model={from_config: {model_type: llama, hiden_size: 64}}"], ["'hidden_size'"]),
    "vocabulary too large": (lambda f: ["tokenizer.train.vocab_size=60000"], ["tokenizer.train.vocab_size", "yields"]),
    "train split shorter than a window": (lambda f: ["stages.2.context=60000"], ["stages.2.context", "60000"]),
    "long text shorter than a window": (lambda f: ["eval.context=20000"], ["eval.long_text", "20000"]),
    "FSDP without a GPU": (lambda f: ["launch.config=accelerate_configs/fsdp2.yaml"], ["FSDP on a CPU", "cpu_zero3"]),
    "one GPU without a GPU": (
        lambda f: ["launch.config=accelerate_configs/single_gpu.yaml"],
        ["it is for a GPU", "cpu.yaml"],
    ),
    "GPUs without a GPU": (lambda f: ["launch.config=accelerate_configs/zero2.yaml"], ["8 processes", "cpu*.yaml"]),
    "no such accelerate config": (lambda f: ["launch.config=nowhere.yaml"], ["launch.config", "cpu.yaml"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_half_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make, told = BAD[name]
    assert run_command(["run", "demo", "name=bad", *make(tmp_path)]) == 2
    sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shridhar-ft: ")]
    assert len(sentences) == 1, sentences
    for piece in told:
        assert piece in sentences[0]
    made = {path.name for path in (tmp_path / "runs").glob("*/*")} if (tmp_path / "runs").exists() else set()
    assert not {path for path in made if path.endswith(".tmp")}
    # Whole parts may stand (the data of a vocabulary that was too large), a trained one may not.
    assert made <= {"data", "tokenizer", "recipe.yaml", "environment.json", "status.json"}
    for part in ("data", "tokenizer"):
        assert part not in made or (tmp_path / "runs/bad" / part / "part.json").is_file()


def test_a_run_folder_of_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["data", "build", "demo", "name=first"]) == 0
    (tmp_path / "runs/first").rename(tmp_path / "runs/second")
    capsys.readouterr()
    for command in (["run", "demo", "name=second"], ["export", "runs/second"], ["chat", "runs/second"]):
        assert run_command(command) == 2
        assert "holds the run 'first'" in capsys.readouterr().err


def test_an_error_is_json_too(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["recipe", "check", "demmo", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == 2 and "'demo'" in told["error"]


@pytest.mark.parametrize("group", [[], ["data"], ["recipe"]])
def test_a_group_without_a_command_shows_its_help(group: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run_command(group) == 2
    assert capsys.readouterr().out.startswith("Usage: shridhar-ft")


def test_a_misspelt_command_or_option_is_status_2(capsys: pytest.CaptureFixture) -> None:
    assert run_command(["runn", "demo"]) == 2
    assert "runn" in capsys.readouterr().err
    assert run_command(["run", "demo", "--jsonn"]) == 2
    assert "--jsonn" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build_with_75_and_the_command_that_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shridhar_ft.data.build.ensure", lambda *_: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert run_command(["data", "build", "demo", "--json"]) == 75
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == 75
    assert "to go on: shridhar-ft data build demo --json" in said.err


@pytest.mark.parametrize(
    ("setting", "told"),
    [("budget.machine=lambda-8xh10", "did you mean 'lambda-8xh100'"), ("eval.suite=nosuch", "no suite")],
)
def test_a_machine_or_suite_that_is_not_there_makes_a_recipe_wrong(setting: str, told: str, capsys) -> None:
    assert run_command(["recipe", "check", "demo", setting]) == 2
    assert told in capsys.readouterr().err
