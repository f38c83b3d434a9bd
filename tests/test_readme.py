"""The READMEs: what they tell people to type exists, and both languages tell the same."""

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import yaml
from typer.main import get_command

from shridhar_ft.cli import app, run_command
from shridhar_ft.config import load_recipe
from shridhar_ft.config_data import Clean, Dialogues
from shridhar_ft.config_training import Stage
from shridhar_ft.shipped import ROOT

READMES = ["README.md", "README.ru.md"]
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="a wheel carries no README")


def commands(file: str) -> list[list[str]]:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_the_first_forty_lines_say_what_it_costs_and_the_two_commands() -> None:
    head = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    for needed in ("make demo", "make test", "peak memory", "| `demo`"):
        assert needed in head
    assert "@" not in head, "a measured figure is missing"


@pytest.mark.parametrize("file", READMES)
def test_make_targets_exist(file: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    asked = [command[1] for command in commands(file) if command[0] == "make"]
    assert asked == ["demo", "test"]
    assert set(asked) <= set(targets)


@pytest.mark.parametrize("file", READMES)
def test_our_commands_parse_and_their_recipes_load(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ours = [command[1:] for command in commands(file) if command[0].endswith("shridhar-ft")]
    assert len(ours) >= 2
    for arguments in ours:
        if arguments[0] == "run":
            load_recipe(arguments[1], arguments[2:])
        assert run_command([arguments[0], "--help"]) == 0


@pytest.mark.parametrize("file", READMES)
def test_every_command_in_the_table_has_help(file: str, capsys: pytest.CaptureFixture) -> None:
    rows = re.findall(r"^\| `shridhar-ft ([a-z ]+?) [A-Z]", (ROOT / file).read_text(encoding="utf-8"), flags=re.M)
    named = get_command(app).commands  # type: ignore[attr-defined]
    known = {f"{name} {part}".strip() for name, command in named.items() for part in getattr(command, "commands", [""])}
    assert known - {"recipe schema"} == set(rows), "it shares a row with `recipe check`"
    for row in rows:
        assert run_command([*row.split(), "--help"]) == 0


def test_the_page_on_data_names_every_switch_format_and_shape() -> None:
    page = (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")
    [mapping] = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    [source] = yaml.safe_load(mapping)["dialogues"]
    assert Dialogues.model_validate(source).tables[1].columns.time == ["date_send", "date_ready"]
    formats, shapes = (get_args(Dialogues.model_fields[name].annotation) for name in ("format", "shape"))
    for name in (*Clean.model_fields, *formats, *shapes, *get_args(Stage.model_fields["packing"].annotation)):
        assert f"`{name}`" in page or name == "auto", name


@pytest.mark.parametrize("file", READMES)
def test_the_tree_names_what_is_there(file: str) -> None:
    tree = re.search(r"```\n(shridhar_ft/ .*?)```", (ROOT / file).read_text(encoding="utf-8"), flags=re.S)
    assert tree
    parent = Path()
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        parent = Path() if not line.startswith(" ") else Path("shridhar_ft")
        assert (ROOT / parent / name).exists(), name


def test_the_library_example_names_what_exists() -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert example
    imports = [line for line in example.group(1).splitlines() if line.startswith("from")]
    assert len(imports) == 3
    for line in imports:
        exec(line, {})
