"""Rows of every format: what each reader makes of its files, which tables and rows are taken, and what is refused."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shridhar_ft.config_data import Dialogues, Texts
from shridhar_ft.data.sources import json_list, text_stream
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.csv_rows import read_csv
from shridhar_ft.data.sources.datasets_rows import read_dataset
from shridhar_ft.data.sources.dialogues import read_dialogues, row_files
from shridhar_ft.data.sources.filters import Filters, forms
from shridhar_ft.data.sources.json_rows import read_json
from shridhar_ft.data.sources.texts import read_texts
from shridhar_ft.errors import UserError

KEY = "data.dialogues.0"
ASKED = [("user", "Кто ты?"), ("assistant", "Странник.")]
ROWS = [{"instruction": "Кто ты?", "output": "Странник."}, {"instruction": "Куда?", "output": "Домой, в сад"}]
TURNS = [{"role": role, "content": content} for role, content in ASKED]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def read(source, counts=None, **settings):
    paths = {} if source is None else {"paths": [str(source)]}
    return list(read_dialogues(Dialogues(**paths, **settings), KEY, counts))


def said(dialogue):
    return [(message.role, message.content) for message in dialogue.messages]


def refusal(source, **settings):
    with pytest.raises(UserError) as error:
        read(source, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_csv(path, rows, **dialect):
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), **dialect)
        writer.writeheader()
        writer.writerows(rows)
    return path


# ------------------------------------------------------------------------------------------------- formats


def as_json(folder):
    (folder / "talks.json").write_text(json.dumps(ROWS))
    return folder / "talks.json"


def as_jsonl(folder):
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder / "talks.jsonl"


def as_packed(folder):
    (folder / "talks.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    return folder / "talks.jsonl.gz"


def as_csv(folder):
    return write_csv(folder / "talks.csv", ROWS)


def as_tsv(folder):
    return write_csv(folder / "talks.tsv", ROWS, delimiter="\t")


def as_parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "talks.parquet")
    return folder / "talks.parquet"


def as_datasets(folder):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "talks")
    return folder / "talks"


def as_dump(folder):
    values = ",".join(f"('{row['instruction']}','{row['output']}')" for row in ROWS)
    (folder / "talks.sql").write_text(
        "-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)\n/*!40101 SET NAMES utf8 */;\n"
        "CREATE TABLE `talks` (\n  `instruction` text,\n  `output` text\n) ENGINE=InnoDB DEFAULT CHARSET=utf8;\n"
        f"INSERT INTO `talks` VALUES {values};\n-- Dump completed on 2020-01-01  0:00:00\n"
    )
    return folder / "talks.sql"


@pytest.mark.parametrize(
    "make",
    [as_json, as_jsonl, as_packed, as_csv, as_tsv, as_parquet, as_datasets, as_dump],
    ids=lambda make: make.__name__,
)
def test_the_same_rows_are_the_same_dialogues_in_every_format(tmp_path, make):
    counts = RowCounts()
    dialogues = read(make(tmp_path), counts)
    assert [said(dialogue) for dialogue in dialogues] == [
        [("user", row["instruction"]), ("assistant", row["output"])] for row in ROWS
    ]
    assert [dialogue.id for dialogue in dialogues] == ["talks-000000", "talks-000001"]
    assert counts.rows_in == 2 and not counts.dropped and list(counts.notes)


@pytest.mark.parametrize("make", [as_csv, as_parquet, as_dump], ids=lambda make: make.__name__)
def test_formats_are_told_by_the_beginning_too(tmp_path, make):
    file = make(tmp_path)
    if make is as_csv:
        assert "neither name nor beginning tells the format" in refusal(file.rename(tmp_path / "talks_aa"))
        assert len(read(tmp_path / "talks_aa", format="csv")) == 2
    else:
        assert len(read(file.rename(tmp_path / "talks_aa"))) == 2


def test_a_folder_is_all_its_files_of_rows(tmp_path):
    as_csv(tmp_path).rename(tmp_path / "b.csv")
    as_jsonl(tmp_path).rename(tmp_path / "a.jsonl")
    (tmp_path / "README.md").write_text("no rows")
    assert [dialogue.source for dialogue in read(tmp_path)] == ["a.jsonl"] * 2 + ["b.csv"] * 2
    assert [file.name for file in row_files(Dialogues(paths=[str(tmp_path)]), KEY)] == ["a.jsonl", "b.csv"]


def test_the_files_of_a_datasets_folder_count_for_its_fingerprint(tmp_path):
    files = row_files(Dialogues(paths=[str(as_datasets(tmp_path))]), KEY)
    assert "state.json" in [file.name for file in files] and all(file.is_file() for file in files)


def test_nested_turns_of_parquet_and_datasets(tmp_path):
    import datasets

    pq.write_table(pa.Table.from_pylist([{"messages": TURNS}]), tmp_path / "a.parquet")
    # What older versions of datasets made of a list of objects.
    columns = {"role": [["user", "assistant"]], "content": [["Кто ты?", "Странник."]]}
    datasets.Dataset.from_dict({"messages": [{name: values[0] for name, values in columns.items()}]}).save_to_disk(
        tmp_path / "b"
    )
    for name in ("a.parquet", "b"):
        (dialogue,) = read(tmp_path / name)
        assert said(dialogue) == ASKED


def test_splits_of_a_datasets_folder(tmp_path):
    import datasets

    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "talks")
    assert [d.id for d in read(tmp_path / "talks")] == ["talks-000000", "talks-000001", "talks-000002"]
    assert len(read(tmp_path / "talks", splits=["test"])) == 1
    assert (
        "data.dialogues.0.splits: " in (told := refusal(tmp_path / "talks", splits=["tset"])) and "train, test" in told
    )


def test_a_streamed_dataset_is_read_in_batches():
    import datasets

    stream = datasets.Dataset.from_list([{"n": n, "messages": TURNS} for n in range(2500)]).to_iterable_dataset()
    batches = list(read_dataset({"train": stream}, "owner/name", ["n"], KEY))
    assert [batch.number for batch in batches] == [0, 1000, 2000]
    assert batches[1].table == "name" and batches[1].columns == {"n": list(range(1000, 2000))}


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    told = refusal(None, hub="no-such-owner/no-such-name")
    assert told.startswith("data.dialogues.0.hub: no-such-owner/no-such-name does not load")


def test_a_folder_is_not_taken_for_a_dataset_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "no folder here" in refusal(None, hub="owner/name")


# ---------------------------------------------------------------------------------------- JSON list as a stream


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.lists(TEXT, max_size=3), max_size=3), max_size=8),
    indent=st.sampled_from([None, 2]),
    chunk=st.integers(1, 40),
    lines=st.booleans(),
)
def test_json_is_read_alike_in_pieces_of_any_size(tmp_path, monkeypatch, rows, indent, chunk, lines):
    monkeypatch.setattr(text_stream, "CHUNK", chunk)
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, ensure_ascii=False, indent=indent)
    (tmp_path / "a.json").write_text(text)
    if rows:
        found = list(read_json(tmp_path / "a.json", "auto", "utf-8", KEY))
        assert [row.value for row in found] == rows
        if indent and not lines:
            starts = [n for n, line in enumerate(text.split("\n"), 1) if line.startswith("  {")]
            assert [row.where for row in found] == [f"{tmp_path}/a.json:{line}" for line in starts]


@pytest.mark.parametrize("chunk", [1, 7, 20, 1 << 20])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"a": 1},\n{"b": tru}]', ":2: not valid JSON (Expecting value, column 7)"),
        ('[{"a": 1},\n{"b": 2}, {"c": tru}]', ":2: not valid JSON (Expecting value, column 17)"),
        ('[{"a": "x\ny"}]', ":1: not valid JSON (Invalid control character at, column 10)"),
        ('[{"a": 1},\n 12]', ":2: the row is a number"),
        ('[{"a": "', ":1: not valid JSON (Unterminated string starting at, column 8)"),
        ('[{"a": 1}]]', ":1: something follows"),
    ],
)
def test_a_broken_list_is_named_by_its_line_in_pieces_of_any_size(tmp_path, monkeypatch, text, told, chunk):
    monkeypatch.setattr(text_stream, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        list(read_json(tmp_path / "a.json", "json", "utf-8", KEY))
    assert told in str(error.value)


def test_memory_does_not_grow_with_a_json_list(tmp_path):
    row = json.dumps({"instruction": "а" * 2000, "output": "б" * 2000}, ensure_ascii=False)
    with (tmp_path / "a.json").open("w", encoding="utf-8") as handle:
        handle.write("[" + ",".join([row] * 4000) + "]")  # 32 MB
    tracemalloc.start()
    assert sum(1 for _ in read_json(tmp_path / "a.json", "auto", "utf-8", KEY)) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_a_fault_early_in_a_list_does_not_read_the_file_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(text_stream, "CHUNK", 100)
    (tmp_path / "a.json").write_text('[{"a" 1},' + '{"a": 1},' * 10_000)
    taken = []
    chunks = (taken.append(piece) or piece for piece in text_stream.text_chunks(tmp_path / "a.json", "utf-8", KEY))
    with pytest.raises(UserError, match="not valid JSON"):
        list(json_list.read_list(chunks, tmp_path / "a.json"))
    assert len(taken) < 10


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_row_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, name):
    for module in (text_stream, json_list):
        monkeypatch.setattr(module, "LONGEST_ROW", 5000)
    monkeypatch.setattr(text_stream, "CHUNK", 1000)
    opening = {"a.json": '[{"a": "', "a.jsonl": '{"a": "', "a.csv": 'text\n"'}[name]
    (tmp_path / name).write_text(opening + "а" * 100_000)
    assert "the row is longer than" in refusal(tmp_path / name)


def test_packed_files_that_are_damaged_are_told(tmp_path):
    packed = gzip.compress("\n".join(map(json.dumps, ROWS)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-12])
    assert "the gzip packing is damaged" in refusal(tmp_path / "a.jsonl.gz")


# ------------------------------------------------------------------------------------------------------- CSV

CELL = st.text(st.sampled_from(list("аб,;|\t\"' \n\r0")) | st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda text: "\0" not in text
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=80),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    ends=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_was_written_as_csv_is_read(tmp_path, cells, delimiter, ends, quoting, encoding):
    if quoting == csv.QUOTE_MINIMAL:  # Python's writer leaves a lone \r bare, which no reader takes
        cells = [tuple(cell.replace("\r", "") for cell in row) for row in cells]
    handle = io.StringIO(newline="")
    writer = csv.writer(handle, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerows([("имя", "b", "c"), *cells])
    (tmp_path / "a.csv").write_bytes(handle.getvalue().encode(encoding))
    rows = list(read_csv(tmp_path / "a.csv", encoding, KEY))
    assert [tuple(row.value.values()) for row in rows] == cells
    assert all(list(row.value) == ["имя", "b", "c"] for row in rows)


def test_rows_of_csv_are_named_by_the_line_where_they_begin(tmp_path):
    (tmp_path / "a.csv").write_text('q,a\n"x\n\ny",1\n\nz,2\n')
    assert [row.where.rpartition(":")[2] for row in read_csv(tmp_path / "a.csv", "utf-8", KEY)] == ["2", "6"]


def test_large_cells_are_read(tmp_path):
    long = "слово " * 100_000
    path = write_csv(tmp_path / "a.csv", [{"question": "Кто?", "answer": long}])
    assert said(read(path)[0])[1] == ("assistant", long)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question,answer\n1,2\n3\n", "a.csv:3: the row has 1 cells and the first line names 2 columns"),
        ("q,a\n1,2,3\n", "a.csv:2: the row has 3 cells"),
        ('q,a\n"x"y,2\n', "a.csv:2: the row's quotes are wrong"),
        ('question,answer\n1,2\n"x,2\n3,4\n', "a.csv:3: the row's quotes are wrong"),
        ("q,a\n", "a.csv: there are no rows below the names"),
        ("q,q\n1,2\n", "a.csv:1: the first line must name the columns, each once (q stands there twice)"),
        ("1,2\n3,4\n", "a.csv:1: the first line must name the columns, each once (only numbers"),
        ("тайна " * 20 + ",b\n3,4\n", "a.csv:1: the first line must name the columns, each once (a text stands there)"),
    ],
)
def test_bad_csv(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    found = refusal(tmp_path / "a.csv")
    assert told in found and "тайна" not in found


def test_csv_in_another_encoding(tmp_path):
    talk = (
        "Кто ты такой?;Странник, иду домой через лес\nДалеко ли до дома?;Три дня пути, если не пойдёт дождь\n"
        "А что несёшь в мешке?;Хлеб, соль и книгу\nПочитай вслух!;Присядем у огня, тогда и почитаю\n"
    )
    (tmp_path / "a.csv").write_bytes(("question;answer\n" + talk).encode("cp1251"))
    counts = RowCounts()
    assert said(read(tmp_path / "a.csv", counts)[0])[1] == ("assistant", "Странник, иду домой через лес")
    assert counts.notes == {"a.csv": "csv, cp1251"}


def test_damaged_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    assert "a.parquet: not readable as Parquet" in refusal(tmp_path / "a.parquet")


# ---------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("question", ["instruction", "prompt", "question"])
@pytest.mark.parametrize("answer", ["output", "response", "answer", "completion"])
def test_usual_names_of_question_and_answer_need_no_mapping(tmp_path, question, answer):
    path = write_csv(tmp_path / "a.csv", [{question: "Кто ты?", answer: "Странник."}])
    assert said(read(path)[0]) == ASKED


def test_a_translated_set_is_read_by_its_russian_columns_and_filtered(tmp_path):
    def row(n, consistent, **more):
        other = {f"original_instruction_{code}": "?" for code in ("de", "fr", "sw")}
        return {"instruction": "?", "output": "!", **other, "original_instruction_ru": f"Вопрос {n}",
                "original_output_ru": f"Ответ {n}", "is_consistent": consistent, **more}  # fmt: skip

    rows = [row(0, True), row(1, False), row(2, None), row(3, True, original_input_ru="о саде")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    columns = {name: f"original_{name}_ru" for name in ("instruction", "input", "output")}
    counts = RowCounts()
    found = read(tmp_path / "a.json", counts, shape="alpaca", columns=columns, filter={"is_consistent": True})
    assert [said(dialogue)[0][1] for dialogue in found] == ["Вопрос 0", "Вопрос 3\n\nо саде"]
    assert [dialogue.id for dialogue in found] == ["a-000000", "a-000003"], "ids do not hang on the filter"
    assert counts.rows_in == 4 and counts.dropped == {"filtered by is_consistent": 2}


# --------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("wanted", "meets", "does_not"),
    [
        (True, [True, 1, 1.0, b"\x01", "true", "True", "1"], [False, 0, None, b"\x00", "false", 2, "yes", ""]),
        (False, [False, 0, b"\x00", "false", "0"], [True, None, 1, "", "no"]),
        (7, [7, 7.0, "7", b"\x07"], [8, "seven", None, "", True]),
        (2**60 + 1, [2**60 + 1, str(2**60 + 1)], [2**60, str(2**60)]),
        (1.5, [1.5, "1.5", "1.50"], [1, "1,5"]),
        ("vk", ["vk", b"vk"], ["VK", "ok", None, ""]),
        (None, [None, ""], [0, False, "null", "0"]),
        ("", [""], [None, " ", 0]),
        (["vk", None], ["vk", None], ["ok", 0]),
        ([1, "fb"], [1, "1", True, "fb"], [2, None]),
    ],
)
def test_what_a_condition_means(wanted, meets, does_not):
    filters = Filters(Dialogues(paths=["x"], filter={"c": wanted}), KEY)
    assert all(filters.fails("t", {"c": value}) is None for value in meets)
    assert all(filters.fails("t", {"c": value}) == "filtered by c" for value in does_not)


@given(
    st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.binary(max_size=9))
    )
)
def test_a_batch_is_filtered_as_its_rows_are(values):
    from collections import Counter

    from shridhar_ft.data.sources.batches import Batch

    for wanted in (True, None, 0, "1", ["", 1]):
        filters = Filters(Dialogues(paths=["x"], filter={"c": wanted}), KEY)
        dropped = Counter()
        places = filters.places(Batch("t", "t.sql", "t.sql:1", 0, {"c": values}), dropped)
        assert places == [n for n, value in enumerate(values) if filters.fails("t", {"c": value}) is None]
        assert dropped["filtered by c"] == len(values) - len(places)
    assert all(forms(value) & forms(value) for value in values)


def test_conditions_of_source_and_table_hold_both(tmp_path):
    rows = [{"question": "Кто?", "answer": f"{a}{b}", "a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    for name in ("x", "y"):
        write_csv(tmp_path / f"{name}.csv", rows)
    counts = RowCounts()
    found = read(tmp_path, counts, filter={"a": 1}, tables=[{"name": "x"}, {"name": "y", "filter": {"b": 1}}])
    assert [(d.source, said(d)[1][1]) for d in found] == [("x.csv", "10"), ("x.csv", "11"), ("y.csv", "11")]
    assert counts.dropped == {"filtered by a": 4, "filtered by b": 1}


def test_a_filter_on_no_column_names_the_nearest(tmp_path):
    path = write_csv(tmp_path / "a.csv", [ROWS[0] | {"is_consistent": "true"}])
    told = refusal(path, filter={"consistent": None})
    assert told == "data.dialogues.0.filter: no row has the column 'consistent'; did you mean 'is_consistent'?"
    told = refusal(path, filter={"is_consistent": False})
    assert "none of its 1 rows is left (1 filtered by is_consistent)" in told


def test_only_the_named_tables_are_read(tmp_path):
    write_csv(tmp_path / "b.csv", ROWS)
    (tmp_path / "a.csv").write_text("broken\nrows,here\n")
    assert len(read(tmp_path, tables=[{"name": "b"}])) == 2
    told = refusal(tmp_path, tables=[{"name": "bb"}])
    assert told.startswith("data.dialogues.0.tables.0: there is no table 'bb'")


# ----------------------------------------------------------------------------------------------------- texts


def works(path, counts=None, **settings):
    return list(read_texts(Texts(paths=[str(path)], **settings), "data.texts.0", counts))


def test_a_row_is_a_work_of_its_own_without_titles(tmp_path):
    counts = RowCounts()
    path = write_csv(tmp_path / "shelf.csv", [{"text": "Дом и сад"}, {"text": " "}, {"text": "Мост"}])
    found = works(path, counts)
    assert [(w.source, w.id, w.work, w.text) for w in found] == [
        ("shelf.csv", "shelf-000000", "shelf-000000", "Дом и сад"),
        ("shelf.csv", "shelf-000002", "shelf-000002", "Мост"),
    ]
    assert counts.rows_in == 3 and counts.dropped == {"no text": 1}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_of_one_title_are_one_work_in_their_order(tmp_path, suffix):
    rows = [
        {"book": "Сад", "who": "Анна", "page": "Первая.", "n": "1"},
        {"book": "Сад", "who": "Анна", "page": "Вторая.", "n": "2"},
        {"book": "Мост", "who": "", "page": "Третья.", "n": "1"},
        {"book": "", "who": "", "page": "Без имени.", "n": "1"},
    ]
    path = tmp_path / f"shelf{suffix}"
    write_csv(path, rows) if suffix == ".csv" else pq.write_table(pa.Table.from_pylist(rows), path)
    columns = {"text": "page", "title": "book", "author": "who"}
    assert [(w.work, w.title, w.author, w.text) for w in works(path, columns=columns)] == [
        ("Сад", "Сад", "Анна", "Первая.\nВторая."),
        ("Мост", "Мост", "", "Третья."),
        ("shelf-000003", "", "", "Без имени."),
    ]
    assert [w.work for w in works(path, columns=columns, filter={"n": 2})] == ["Сад"]


@pytest.mark.parametrize(
    ("rows", "settings", "told"),
    [
        ([{"txt": "Дом"}], {}, "there is no 'text' among the columns; data.texts.0.columns.text: did you mean 'txt'?"),
        ([{"text": "а", "t": "x"}, {"text": "б", "t": "y"}, {"text": "в", "t": "x"}], {"columns": {"title": "t"}},
         "shelf.csv:4: the title in data.texts.0.columns.title had ended and begins again"),
        ([{"text": " "}], {}, "none of its 1 rows holds a text (1 no text)"),
        ([{"text": "а"}], {"columns": {"role": "x"}}, "data.texts.0.columns.role has no effect on texts"),
    ],
)  # fmt: skip
def test_bad_texts(tmp_path, rows, settings, told):
    with pytest.raises(UserError) as error:
        works(write_csv(tmp_path / "shelf.csv", rows), **settings)
    assert told in str(error.value)
