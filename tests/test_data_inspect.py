"""Looking at sources: what is told of them, what is not shown, and a mapping that builds."""

import json
from pathlib import Path

import pytest
import yaml

from shridhar_ft.cli import run_command
from shridhar_ft.config_data import Dialogues
from shridhar_ft.data.column_stats import HELD, TableStats
from shridhar_ft.data.inspect import inspect
from shridhar_ft.data.inspect_view import lines
from shridhar_ft.data.sources.dialogues import read_dialogues
from shridhar_ft.errors import UserError

DUMP = """-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)
/*!40101 SET NAMES utf8 */;
CREATE TABLE `messages` (`id` int(11) NOT NULL, `text` text) ENGINE=InnoDB DEFAULT CHARSET=utf8;
CREATE TABLE `messages_in` (`id` int(11) NOT NULL, `chat_id` int(11) NOT NULL, `text` text NOT NULL,
  `date_send` timestamp NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8;
INSERT INTO `messages_in` VALUES {asked};
CREATE TABLE `messages_out` (`id` int(11) NOT NULL, `chat_id` int(11) NOT NULL, `text_send` text NOT NULL,
  `date_send` timestamp NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8;
INSERT INTO `messages_out` VALUES {answered};
-- Dump completed on 2020-01-01
"""


def row(number: int, minute: int, text: str) -> str:
    return f"({number},{number % 5},'{text} номер {number}','2020-01-01 00:{minute:02d}:{number:02d}')"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    file = tmp_path / "talk.sql"
    asked = ",".join(row(number, 0, "Тайный вопрос") for number in range(40))
    answered = ",".join(row(number, 1, "Скрытый ответ") for number in range(40))
    file.write_text(DUMP.format(asked=asked, answered=answered))
    return file


def test_a_dump_is_told_table_by_table(dump: Path) -> None:
    [source] = inspect([str(dump)])["sources"]
    assert (source["format"], source["encoding"], source["bytes"]) == ("mysql_dump", "utf8", dump.stat().st_size)
    tables = {table["name"]: table for table in source["tables"]}
    assert {name: table["rows"] for name, table in tables.items()} == {
        "messages": 0,
        "messages_in": 40,
        "messages_out": 40,
    }
    text = next(column for column in tables["messages_in"]["columns"] if column["name"] == "text")
    assert text["type"] == "text" and text["cyrillic"] == 1.0 and text["empty"] == 0
    assert len(tables["messages_in"]["samples"]) == 3
    assert tables["messages"]["columns"][1]["name"] == "text"


def test_the_mapping_that_is_proposed_reads_the_dump(dump: Path) -> None:
    found = inspect([str(dump)])
    [proposed] = found["mapping"]["dialogues"]
    assert yaml.safe_load(found["yaml"])["data"] == found["mapping"]
    read = list(read_dialogues(Dialogues(**proposed), "data.dialogues.0"))
    assert len(read) == 5
    assert all({message.role for message in dialogue.messages} == {"user", "assistant"} for dialogue in read)


def test_without_samples_no_text_is_shown(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Глава 1\nОдна сокровенная мысль о терпении и труде.\n" * 30)
    found = inspect([str(dump), str(tmp_path / "book.txt")], samples=False)
    for told in (json.dumps(found, ensure_ascii=False), "\n".join(lines(found))):
        assert "вопрос" not in told and "ответ" not in told and "сокровенная" not in told
    assert "сокровенная" in "\n".join(lines(inspect([str(tmp_path / "book.txt")])))


def test_books_are_told_with_their_encoding_and_a_bad_one_with_what_is_wrong(tmp_path: Path) -> None:
    text = "Утро было тихое, и дорога вела к реке, где никто не ждал. " * 60
    (tmp_path / "a.txt").write_bytes(text.encode("cp1251"))
    (tmp_path / "b.txt").write_bytes(text.encode("utf-8").decode("cp1251", "ignore").encode("utf-8"))
    good, bad = inspect([str(tmp_path)])["sources"]
    assert (good["encoding"], good["characters"], good["cyrillic"]) == ("cp1251", len(text), 1.0)
    assert "error" in bad and "cp1251" in bad["error"]


def test_rows_of_files_are_told_too(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Да {n}?"}, {"role": "assistant", "content": "Да."}]}
        for n in range(9)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.csv").write_text("вопрос;ответ\n" + "Что это такое?;Это ответ\n" * 7)
    found = inspect([str(tmp_path)])
    assert {source["path"].rpartition("/")[2]: source["tables"][0]["rows"] for source in found["sources"]} == {
        "d.jsonl": 9,
        "t.csv": 7,
    }
    assert found["mapping"]["dialogues"][0] == {
        "format": "jsonl",
        "paths": [str(tmp_path / "d.jsonl")],
        "shape": "messages",
    }


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        inspect([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        inspect([str(tmp_path / "empty")])


def test_values_are_held_by_row() -> None:
    table = TableStats("t")
    table.see({"a": [1, 2]})
    table.see({"a": [3], "b": ["x"]})
    assert table.held == {"a": [1, 2, 3], "b": [None, None, "x"]}
    table.see({"a": list(range(1000)), "b": ["y"] * 1000})
    assert len(table.held["a"]) == len(table.held["b"]) == HELD and table.rows == 1003


def test_the_commands_answer_in_json(dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command(["data", "inspect", str(dump), "--json", "--no-samples"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["format"] == "mysql_dump"
    book = tmp_path / "book.txt"
    book.write_text("Терпе\xadние и труд всё перетрут, говорили старые люди в нашей деревне.\n" * 20)
    assert run_command(["data", "diff", str(book), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"]["soft_hyphens"]["changed"] == 20
    assert run_command(["data", "diff", str(book), "--step", "soft_hyphen"]) == 2


def test_of_several_files_the_bad_ones_are_told_and_not_mapped(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "below").mkdir()
    found = inspect([str(tmp_path)])
    assert [Path(source["path"]).name for source in found["sources"] if "error" in source] == ["empty.txt", "x.yaml"]
    assert list(found["mapping"]) == ["dialogues"]
    assert found["folders_passed_over"] == [str(tmp_path / "below")]
    with pytest.raises(UserError, match=r"x\.yaml: neither its name nor its beginning tells what it is"):
        inspect([str(tmp_path / "x.yaml")])
    with pytest.raises(UserError, match=r"empty\.txt: the file is empty"):
        inspect([str(tmp_path / "empty.txt")])


def test_parts_without_their_first_one_are_told(dump: Path, tmp_path: Path) -> None:
    raw = dump.read_bytes()
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, name in enumerate("abc"):
        (folder / f"talk_a{name}").write_bytes(raw[number * 1000 : (number + 1) * 1000 if name != "c" else None])
    assert inspect([str(folder)])["sources"][0]["parts"] == 3
    (folder / "talk_aa").unlink()
    with pytest.raises(UserError, match=r"talk_aa.*missing"):
        inspect([str(folder)])
