"""The whole build on small shelves: rows, receipts, report, stability, refusals, and reading back."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from shridhar_ft.config import Recipe
from shridhar_ft.data.build import build, ensure, inputs_fingerprint
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.overlap import RUN, run_hashes
from shridhar_ft.data.split import SPLITS
from shridhar_ft.errors import UserError
from shridhar_ft.receipts import read_receipts
from shridhar_ft.runfolder import Run, read_json
from shridhar_ft.shipped import shipped

DEMO = shipped("recipes/demo/data")
COLUMNS = ["source", "id", "work", "text", "messages", "title", "author", "chapter"]


def recipe(books=None, dialogues=(), **data):
    """A recipe of which only `data` matters; what trains is there because a recipe has to train something."""
    source = [{"paths": [str(path)]} if isinstance(path, Path) else path for path in dialogues]
    data |= {"dialogues": source} | ({"books": {"paths": [str(books)]}} if books else {})
    training = {"stages": [{"name": "only", "context": 64}]} if books else {"sft": {}, "stages": []}
    model = {"from_config": {"model_type": "llama"}} if books else {"base": "some/base"}
    tokenizer = {"train": {}} if books else {}
    return Recipe.model_validate({"name": "t", "data": data, "model": model, "tokenizer": tokenizer, **training})


def write_book(path, chapters=30, paragraphs=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    words = (f"{path.stem}{n}" for n in range(10**6))
    text = [
        "\n".join([f"Глава {n + 1}", *(" ".join(next(words) for _ in range(20)) + "." for _ in range(paragraphs))])
        for n in range(chapters)
    ]
    path.write_text("\n\n".join(text) + "\n")
    return path


def write_dialogues(path, count=120, mark=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "instruction": f"Вопрос {mark}{n} о пути",
            "output": f"Ответ {mark}{n}" + "".join(f" слово{n}{mark.strip()}{k}" for k in range(3 * (n % 7))),
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "t")


def silent(_line):
    pass


def rows_of(run):
    return {split: load_split(run, split).to_list() for split in SPLITS}


# ----------------------------------------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("demo") / "runs" / "demo")
    said = []
    report = build(recipe(DEMO / "books", [DEMO / "dialogues"]), run, said.append)
    return run, report, said


def test_the_three_splits_load_and_have_the_columns(demo):
    run, report, _ = demo
    for split in SPLITS:
        loaded = datasets.load_from_disk(str(run.data / split))
        assert loaded.column_names == COLUMNS
        kinds = Counter("dialogues" if row["messages"] else "books" for row in loaded)
        assert kinds["books"] and kinds["dialogues"]
        assert {kind: report["splits"][split][kind]["rows"] for kind in kinds} == kinds


def test_no_row_is_lost_or_in_two_splits(demo):
    run, report, _ = demo
    ids = Counter(row["id"] for rows in rows_of(run).values() for row in rows)
    assert set(ids.values()) == {1}
    assert len(ids) == report["books"]["rows"] + report["dialogues"]["rows"]


def test_every_character_of_the_demo_is_accounted_for(demo):
    run, report, _ = demo
    read = sum(len(path.read_text(encoding="utf-8")) for path in (DEMO / "books").glob("*.txt"))
    kept = sum(len(row["text"]) for rows in rows_of(run).values() for row in rows)
    characters = report["books"]["characters"]
    assert (characters["in"], characters["kept"]) == (read, kept)
    assert read + sum(characters["added"].values()) == kept + sum(characters["removed"].values())
    assert {"contents", "front_matter", "soft_hyphens"} <= set(characters["removed"])


def test_the_receipts_hold(demo):
    run, report, _ = demo
    receipts = read_receipts(run.root)
    assert set(receipts) == {"data/receipts/ledger.json", "data/receipts/split.json"}
    assert all(receipt["ok"] for receipt in receipts.values())
    ledger = receipts["data/receipts/ledger.json"]["measured"]
    assert ledger["books"]["difference"] == ledger["dialogues"]["difference"] == 0
    split = receipts["data/receipts/split.json"]["measured"]
    assert sum(split["books"]["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert split["books"]["runs_of_13_words"]["test"]["runs"] > 100
    assert read_json(run.data / "report.json") == report
    assert read_json(run.data / "part.json")["splits"] == report["splits"]


def test_what_is_said_tells_numbers_and_quotes_nothing(demo):
    _, _, said = demo
    text = "\n".join(said)
    assert "4 works" in text and "dialogues" in text and "13-word runs" in text
    assert all(line.startswith("data:") for line in said)
    assert "источник" not in text


def test_the_demos_flaws_are_gone(demo):
    run, _, _ = demo
    text = "\n".join(row["text"] for rows in rows_of(run).values() for row in rows)
    assert not any(flaw in text for flaw in ("\xad", "\xa0", "\u2028", "\ufffc", "ISBN", "Содержание", "....", "Тираж"))
    assert "кр\u0323па\u0304" in text


# ------------------------------------------------------------------------------------------- reading back


def test_works_and_conversations_come_in_reading_order(tmp_path, run):
    write_book(tmp_path / "books" / "a.txt")
    write_book(tmp_path / "books" / "b.txt")
    build(recipe(tmp_path / "books", [write_dialogues(tmp_path / "d.jsonl")]), run, silent)
    numbers = {}
    for split in SPLITS:
        rows = load_split(run, split)
        found = list(works(rows))
        assert [work.name for work in found] == ["a", "b"]
        assert [block.text for work in found for block in work.blocks] == [text for text in rows["text"] if text]
        for work in "ab":
            ids = [row["id"] for row in rows if row["work"] == work]
            assert ids == sorted(ids)
            numbers.setdefault(work, []).extend(int(id_.removeprefix(f"{work}/")) for id_ in ids)
        talks = list(conversations(rows))
        assert all([m["role"] for m in messages] == ["user", "assistant"] for _, messages in talks)
        assert [id_ for id_, _ in talks] == sorted(id_ for id_, _ in talks)
    assert all(sorted(found) == list(range(len(found))) for found in numbers.values())


def test_blocks_joined_are_the_book(tmp_path, run):
    path = write_book(tmp_path / "books" / "a.txt")
    build(recipe(tmp_path / "books"), run, silent)
    rows = sorted((row["id"], row["text"]) for rows in rows_of(run).values() for row in rows)
    assert "\n".join(text for _, text in rows) == path.read_text().strip()


def test_a_kind_that_is_not_there_and_a_share_of_zero_give_empty_splits(tmp_path, run):
    books = write_book(tmp_path / "a.txt")
    build(recipe(books, split={"train": 1, "validation": 0, "test": 0}), run, silent)
    assert len(load_split(run, "test")) == 0 and load_split(run, "test").column_names == COLUMNS
    assert list(works(load_split(run, "test"))) == list(conversations(load_split(run, "train"))) == []
    build(recipe(dialogues=[write_dialogues(tmp_path / "d.jsonl")]), run, silent)
    assert list(works(load_split(run, "train"))) == [] and len(list(conversations(load_split(run, "train")))) > 80


def test_a_split_of_data_not_built_is_refused(run):
    with pytest.raises(UserError, match="the data is not built; build it with `shridhar-ft data build RECIPE`"):
        load_split(run, "train")


# ------------------------------------------------------------------------------------- stability, currency


def where(run, prefix):
    return {
        row["id"]: split for split, rows in rows_of(run).items() for row in rows if row["source"].startswith(prefix)
    }


def test_nothing_moves_when_a_work_or_a_file_is_added(tmp_path, run):
    write_book(tmp_path / "books" / "m.txt")
    first = write_dialogues(tmp_path / "m.jsonl")
    build(recipe(tmp_path / "books", [first]), run, silent)
    before = where(run, "m")
    write_book(tmp_path / "books" / "a.txt", chapters=50)
    second = write_dialogues(tmp_path / "a.jsonl", mark="другой ")
    build(recipe(tmp_path / "books", [second, first]), run, silent)
    assert where(run, "m") == before


def test_order_in_the_file_does_not_matter(tmp_path, run):
    path = write_dialogues(tmp_path / "d.jsonl")
    build(recipe(dialogues=[path]), run, silent)
    before = {str(m): split for split in SPLITS for _, m in conversations(load_split(run, split))}
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    build(recipe(dialogues=[path]), run, silent)
    assert {str(m): split for split in SPLITS for _, m in conversations(load_split(run, split))} == before


def test_data_are_built_again_only_when_settings_or_files_change(tmp_path, run):
    wanted = recipe(write_book(tmp_path / "x" / "a.txt").parent)
    said = []
    assert ensure(wanted, run, said.append) == run.data
    assert "up to date" not in "".join(said)
    said.clear()
    ensure(wanted, run, said.append)
    assert said == ["data: up to date"]
    (tmp_path / "x").rename(tmp_path / "y")
    moved = recipe(tmp_path / "y")
    assert inputs_fingerprint(moved) == inputs_fingerprint(recipe(tmp_path / "y" / "a.txt"))
    ensure(moved, run, said.append)
    assert said == ["data: up to date"] * 2
    for changed in (recipe(tmp_path / "y", clean={"nfc": False}), recipe(tmp_path / "y", split={"seed": 1})):
        assert inputs_fingerprint(changed) != inputs_fingerprint(moved)
    before = inputs_fingerprint(moved)
    write_book(tmp_path / "y" / "a.txt", chapters=31)
    assert inputs_fingerprint(moved) != before


# --------------------------------------------------------------------------------------- duplicates, leaks


def test_exact_duplicates_are_dropped_across_files_and_counted(tmp_path, run):
    first, second = write_dialogues(tmp_path / "a.jsonl"), write_dialogues(tmp_path / "b.jsonl", count=150)
    said = []
    report = build(recipe(dialogues=[first, second]), run, said.append)["dialogues"]
    assert report["dialogues"] == {"in": 270, "kept": 150, "dropped": {"duplicate": 120}, "turns": {}, "found": {}}
    assert [file["rows"] for file in report["files"]] == [120, 30]
    assert report["characters"]["removed"]["duplicate"] > 1000
    assert "dialogues dropped: 120 duplicate" in "\n".join(said)


def test_dropped_dialogues_are_counted_by_reason(tmp_path, run):
    path = write_dialogues(tmp_path / "d.jsonl")
    bad = [{"instruction": "", "output": "Сам себе"}, {"instruction": "Кто там?", "output": None}]
    path.write_text(path.read_text() + "\n".join(json.dumps(row) for row in bad))
    report = build(recipe(dialogues=[path]), run, silent)["dialogues"]
    assert report["dialogues"]["dropped"] == {"no user turn": 1, "no assistant turn": 1}
    assert report["characters"]["removed"]["no user turn"] == 8


def test_runs_of_13_words_that_train_shares_are_counted(tmp_path, run):
    common = " ".join(f"слово{n}" for n in range(RUN + 2))
    rows = [{"instruction": f"Вопрос {n}", "output": f"Ответ {n}: {common}"} for n in range(200)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    build(recipe(dialogues=[tmp_path / "d.json"], split={"decontaminate": False}), run, silent)
    found = read_json(run.data / "receipts" / "split.json")["measured"]["dialogues"]
    # Three runs lie within the common words; the others hold a number of their own.
    for split in ("validation", "test"):
        count = len(load_split(run, split))
        assert found["runs_of_13_words"][split] == {"runs": 3 + 4 * count, "in_train": 3}


def test_runs_do_not_mind_capitals_and_punctuation():
    words = [f"слово{n}" for n in range(RUN)]
    assert len(run_hashes(" ".join(words[1:]))) == 0
    assert np.array_equal(run_hashes(" ".join(words)), run_hashes("«" + ", ".join(words).upper() + "!»"))
    assert not np.array_equal(run_hashes(" ".join(words)), run_hashes(" ".join(reversed(words))))
    assert len(run_hashes("крпа " * RUN)) == 1


# ------------------------------------------------------------------------------------------------ refusals


def refused(run, wanted):
    with pytest.raises(UserError) as error:
        build(wanted, run, silent)
    assert not run.data.exists() and not run.root.exists()
    return str(error.value)


def test_a_shelf_too_small_for_its_splits(tmp_path, run):
    (tmp_path / "a.txt").write_text("Одна короткая мысль о терпении.")
    sentence = refused(run, recipe(tmp_path / "a.txt"))
    assert "of 1 chapter blocks none fell into" in sentence and "add text to data.books" in sentence
    sentence = refused(run, recipe(dialogues=[write_dialogues(tmp_path / "d.jsonl", count=2)]))
    assert "of 2 conversations none fell into" in sentence and "data.split." in sentence


def test_a_book_of_nothing_but_contents(tmp_path, run):
    (tmp_path / "a.txt").write_text("Содержание\nУтро ... 3\nМост ... 9\n")
    assert "a.txt: nothing but contents and front matter" in refused(run, recipe(tmp_path / "a.txt"))


def test_a_source_of_which_nothing_is_left(tmp_path, run):
    (tmp_path / "d.json").write_text('[{"instruction": "", "output": "Сам"}]')
    sentence = refused(run, recipe(dialogues=[tmp_path / "d.json"]))
    assert "data.dialogues.0: none of its 1 dialogues is left (1 no user turn)" in sentence
    assert "data.dialogues.0.roles" in sentence


def test_a_bad_second_source_is_named_by_its_key_and_the_old_data_stay(tmp_path, run):
    good = write_dialogues(tmp_path / "good.jsonl")
    build(recipe(dialogues=[good]), run, silent)
    before = (run.data / "part.json").read_text()
    (tmp_path / "bad.jsonl").write_text(good.read_text() + "{")
    with pytest.raises(UserError, match=r"bad.jsonl:121: not valid JSON"):
        build(recipe(dialogues=[good, tmp_path / "bad.jsonl"]), run, silent)
    with pytest.raises(UserError, match=r"data\.dialogues\.1\.paths: .* does not exist"):
        build(recipe(dialogues=[good, tmp_path / "none.jsonl"]), run, silent)
    assert (run.data / "part.json").read_text() == before
    assert sorted(path.name for path in run.root.iterdir()) == ["data"]


def test_importing_the_data_package_is_light():
    modules = ["build", "load", "pack", "split", "clean", "blocks", "sources.books", "sources.dialogues"]
    code = "import sys\n" + "".join(f"import shridhar_ft.data.{module}\n" for module in modules)
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------- what a review found


TWICE = """-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)
/*!40101 SET NAMES utf8 */;
CREATE TABLE `m` (`id` int, `talk` int, `who` varchar(9), `text` text) ENGINE=InnoDB DEFAULT CHARSET=latin1;
INSERT INTO `m` VALUES {rows};
-- Dump completed on 2020-01-01
"""


def as_mysql_read_it(text):
    """UTF-8 taken for MySQL's latin1: cp1252, and the five bytes that this lacks as themselves."""
    return "".join(
        chr(byte) if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else bytes([byte]).decode("cp1252")
        for byte in text.encode()
    )


def test_a_dump_that_was_encoded_twice_is_refused_and_read_back_when_asked(tmp_path, run):
    texts = [f"Вопрос номер {n} о пути и терпении" for n in range(400)]
    rows = [
        f"({n},{n // 2},'{'user' if n % 2 == 0 else 'assistant'}','{as_mysql_read_it(text)}')"
        for n, text in enumerate(texts)
    ]
    (tmp_path / "d.sql").write_text(TWICE.format(rows=",".join(rows)), encoding="utf-8")
    source = {
        "paths": [str(tmp_path / "d.sql")],
        "columns": {"conversation": "talk", "role": "who", "order": "id", "text": "text"},
    }
    near = {"near": False}
    with pytest.raises(UserError, match=r"data\.dialogues\.0\.encoding=double undoes it"):
        build(recipe(dialogues=[source], duplicates=near), run, silent)
    build(recipe(dialogues=[{**source, "encoding": "double"}], duplicates=near), run, silent)
    read = {m["content"] for split in SPLITS for _, talk in conversations(load_split(run, split)) for m in talk}
    assert read == set(texts)


def test_rows_that_were_decoded_wrongly_are_refused(tmp_path, run):
    path = write_dialogues(tmp_path / "d.jsonl")
    wrong = path.read_text().encode().decode("cp1251", "replace")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["output"] = row["output"].encode().decode("cp1251", "ignore")
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert "Рћ" in wrong
    with pytest.raises(UserError, match=r"UTF-8 that was read as cp1251.*data\.clean\.mojibake"):
        build(recipe(dialogues=[path]), run, silent)


def test_files_of_one_name_are_kept_apart(tmp_path, run):
    one = write_dialogues(tmp_path / "a" / "x.jsonl", mark="первый ")
    other = write_dialogues(tmp_path / "a" / "y.jsonl", mark="второй ")
    third = write_dialogues(tmp_path / "b" / "x.jsonl", mark="третий ")
    build(recipe(dialogues=[{"paths": [str(one), str(other)]}]), run, silent)
    before = where(run, "y")
    report = build(recipe(dialogues=[{"paths": [str(one), str(other), str(third)]}]), run, silent)
    assert where(run, "y") == before
    assert [file["rows"] for file in report["dialogues"]["files"]] == [120, 120, 120]
    ids = [row["id"] for rows in rows_of(run).values() for row in rows]
    assert len(set(ids)) == len(ids) == 360


def test_a_quotation_in_train_goes_whichever_work_comes_first(tmp_path, run):
    book = write_book(tmp_path / "books" / "m.txt", chapters=60)
    build(recipe(tmp_path / "books"), run, silent)
    held = {row["text"] for split in SPLITS[1:] for row in rows_of(run)[split]}
    for name in ("a", "z"):
        host = write_book(tmp_path / "books" / f"{name}.txt", chapters=40)
        host.write_text(host.read_text() + book.read_text()[: len(book.read_text()) // 4])
        build(recipe(tmp_path / "books"), run, silent)
        host.unlink()
        now = rows_of(run)
        assert held <= {row["text"] for split in SPLITS[1:] for row in now[split]}


def test_names_that_utf8_cannot_hold_are_mended(tmp_path, run):
    rows = [{"title": "Книга \ud83d", "text": " ".join(f"слово{n}и{k}" for k in range(300))} for n in range(1)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"paths": [str(tmp_path / "t.jsonl")], "columns": {"title": "title"}}]
    wanted = recipe(write_book(tmp_path / "books" / "a.txt"), texts=texts)
    build(wanted, run, silent)
    assert {row["work"] for rows in rows_of(run).values() for row in rows} == {"a", "Книга ?"}
