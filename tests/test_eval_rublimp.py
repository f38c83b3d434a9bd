"""RuBLiMP's files: three rows of the same form read, drawn and scored, and files that are not so refused."""

import shutil
from pathlib import Path

import pytest

from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.measures import score
from shridhar_ft.evaluation.ru_pairs import Settings, make
from shridhar_ft.evaluation.rublimp import read_paradigm, rublimp_files

ROWS = Path(__file__).parent / "fixtures/rublimp"
CSV = "subject_predicate_agreement.csv"


def test_rows_are_pairs_good_first() -> None:
    (file,) = rublimp_files(ROWS)
    assert read_paradigm(file)[1] == ("Дети бежали по дороге.", "Дети бежал по дороге.")


def test_a_mark_at_the_beginning_does_not_hide_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("source_sentence,target_sentence\nда,нет\n", encoding="utf-8-sig")
    assert read_paradigm(tmp_path / "x.csv") == [("да", "нет")]


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        rublimp_files(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no \.csv"):
        rublimp_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source_sentence,bad\nа,б\n".encode(), "no column target_sentence"),
        (b"", "no column source_sentence, target_sentence"),
        ("source_sentence,target_sentence\nа,б\n".encode("cp1251"), "not UTF-8"),
        ("source_sentence,target_sentence\nа\n".encode(), "record 1 has no target_sentence"),
    ],
    ids=["column", "empty", "encoding", "row"],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(text)
    with pytest.raises(UserError, match=words):
        read_paradigm(tmp_path / "x.csv")


def test_its_pairs_are_scored_beside_the_own_ones(tokenizer, llama, tmp_path: Path) -> None:
    pytest.importorskip("pymorphy3", reason="needs the extra eval")
    from shridhar_ft.evaluation.hf_reader import HfReader

    header, *rows = (ROWS / CSV).read_text(encoding="utf-8").splitlines()
    (tmp_path / CSV).write_text("\n".join([header, *rows * 4]), encoding="utf-8")  # ten pairs make a paradigm
    shutil.copy(tmp_path / CSV, tmp_path / "negation.csv")
    task = make(Settings(rublimp_each=11), Materials(rublimp=tmp_path), 1)
    reader = HfReader(llama(), tokenizer, "tiny", "")
    items = task.items(reader)
    assert len(items) == 22 and {item["set"] for item in items} == {"rublimp"}
    assert "RuBLiMP: 22 pairs of 2 of its 45 paradigms" in task.notes
    records = list(task.measure(reader, items))
    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    assert set(found) == {"RuBLiMP, sum log-probability", "RuBLiMP, mean log-probability"}


def test_the_floor_of_each_way_is_the_base_by_the_same_way() -> None:
    def records(**right: float) -> list[dict]:
        return [
            {"key": str(n), "set": "own", "paradigm": "p", "unigram": 0.0, "bigram": 0.1, **right} for n in range(10)
        ]

    task = make(Settings(), Materials(), 1)
    ours, base = records(sum=1.0, mean=1.0), records(sum=0.75, mean=0.25)
    found = {measure.name: score(measure, ours, 1) for measure in task.measures(ours)}
    task.scores(ours, found, base)
    floors = {name: (one.floor, one.floor_of) for name, one in found.items()}
    assert floors["own pairs, sum log-probability"] == (0.75, "base model")
    assert floors["own pairs, mean log-probability"] == (0.25, "base model")
    assert floors["own pairs: p"] == (0.75, "base model")
