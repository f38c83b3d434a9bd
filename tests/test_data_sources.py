"""Readers: what they make of each shape, and the sentence for each kind of bad input."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shridhar_ft.config_data import Books, Dialogues
from shridhar_ft.data.records import Message
from shridhar_ft.data.sources.books import read_books
from shridhar_ft.data.sources.dialogues import read_dialogues
from shridhar_ft.errors import UserError

KEY = "data.dialogues.0"
ASKED = [("user", "Кто ты?"), ("assistant", "Странник.")]
TURNS = [{"role": role, "content": content} for role, content in ASKED]


def write(path, rows, encoding="utf-8"):
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=2)
    path.write_text(text, encoding=encoding)
    return path


def read(path, **source):
    return list(read_dialogues(Dialogues(paths=[str(path)], **source), KEY))


def said(dialogue):
    return [(message.role, message.content) for message in dialogue.messages]


def refusal(path, **source):
    with pytest.raises(UserError) as error:
        read(path, **source)
    return str(error.value)


# ------------------------------------------------------------------------------------------------- books


def shelf(folder, **settings):
    return list(read_books(Books(paths=[str(folder)], **settings)))


def test_a_file_is_a_work(tmp_path):
    (tmp_path / "b.txt").write_text("\ufeffДом\r\nи сад", encoding="utf-8", newline="")
    (tmp_path / "a.txt").write_text("Мост")
    works = shelf(tmp_path)
    assert [(w.work, w.id, w.source, w.text) for w in works] == [
        ("a", "a", "a.txt", "Мост"),
        ("b", "b", "b.txt", "Дом\r\nи сад"),
    ]


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16", "cp866", "UTF8"])
def test_books_in_other_encodings(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("Дом и сад", encoding=encoding)
    assert shelf(tmp_path, encoding=encoding)[0].text == "Дом и сад"


def test_books_are_read_lazily(tmp_path):
    (tmp_path / "a.txt").write_text("Мост")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    works = read_books(Books(paths=[str(tmp_path)]))
    assert next(works).work == "a"
    with pytest.raises(UserError):
        next(works)


@pytest.mark.parametrize(
    ("raw", "encoding", "sentence"),
    [
        ("Дом".encode("cp1251"), "utf-8", "byte 0 (0xC4) is not UTF-8; if .* data.books.encoding=cp1251"),
        ("Дом".encode() + b"\xff", "utf-8", "byte 6 (0xFF) is not UTF-8"),
        (b"ab\x98", "cp1251", "byte 2 (0x98) is not cp1251; if .* data.books.encoding=utf-8"),
        ("Дом и сад".encode("utf-16-le"), "utf-8", "zero bytes.* data.books.encoding=utf-16"),
        (b" \n\xef\xbb\xbf"[:2], "utf-8", "the file is empty; put the text in"),
        (b"", "utf-8", "the file is empty"),
        (b"a", "cp1521", "data.books.encoding: 'cp1521' is no text encoding; did you mean"),
        (b"a", "hex", "data.books.encoding: 'hex' is no text encoding"),
    ],
)
def test_bad_books(tmp_path, raw, encoding, sentence):
    (tmp_path / "kniga.txt").write_bytes(raw)
    with pytest.raises(UserError) as error:
        shelf(tmp_path, encoding=encoding)
    pattern = sentence.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, str(error.value)), error.value
    assert "kniga.txt" in str(error.value) or "encoding:" in str(error.value)


def test_two_files_of_one_name(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("Мост")
    with pytest.raises(UserError, match="would both be the work 'a'; rename one"):
        list(read_books(Books(paths=[str(tmp_path / "x"), str(tmp_path / "y")])))


def test_no_books(tmp_path):
    with pytest.raises(UserError, match=r"data.books.paths: the folder .* holds no \*.txt"):
        shelf(tmp_path)


# ------------------------------------------------------------------------------------------------ shapes

SHARE = {"conversations": [{"from": "human", "value": "Кто ты?"}, {"from": "gpt", "value": "Странник."}]}
ALPACA = {"instruction": "Кто ты?", "input": "", "output": "Странник."}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"conversations": TURNS},
        SHARE,
        ALPACA,
        {"instruction": "Кто ты?", "output": "Странник.", "input": None},
        {"messages": [{"role": "Human", "content": "Кто ты?"}, {"role": "CHATGPT", "content": "Странник."}]},
    ],
)
def test_each_shape_is_told_by_its_columns(tmp_path, row, suffix):
    (dialogue,) = read(write(tmp_path / f"talks{suffix}", [row]))
    assert said(dialogue) == ASKED
    assert (dialogue.source, dialogue.id) == (f"talks{suffix}", "talks-000000")


def test_files_of_one_source_may_differ_in_shape(tmp_path):
    write(tmp_path / "a.json", [ALPACA])
    write(tmp_path / "b.jsonl", [SHARE])
    assert [said(dialogue) for dialogue in read(tmp_path)] == [ASKED, ASKED]


def test_alpaca_input_and_system(tmp_path):
    row = ALPACA | {"input": "Ответь кратко.", "system": "Будь добр."}
    assert said(read(write(tmp_path / "a.json", [row]))[0]) == [
        ("system", "Будь добр."),
        ("user", "Кто ты?\n\nОтветь кратко."),
        ("assistant", "Странник."),
    ]


def test_mapped_columns_decide_the_shape(tmp_path):
    rows = [
        {"instruction": "Who?", "output": "A walker", "original_instruction_ru": "Кто ты?",
         "original_output_ru": "Странник."},
        {"original_instruction_ru": "Кто", "original_input_ru": "ты?", "original_output_ru": None},
    ]  # fmt: skip
    columns = {f"{name}": f"original_{name}_ru" for name in ("instruction", "input", "output")}
    first, second = read(write(tmp_path / "a.json", rows), columns=columns)
    assert said(first) == ASKED
    assert said(second) == [("user", "Кто\n\nты?"), ("assistant", "")]


PLAY = {"id": "play:0", "messages": [{"speaker": "Петя", "text": "Кто ты?"}, {"speaker": "Аня", "text": "Странник."}]}


def test_speakers_and_roles_can_be_mapped(tmp_path):
    path = write(tmp_path / "play.jsonl", [PLAY])
    columns = {"role": "speaker", "text": "text"}
    (dialogue,) = read(path, columns=columns, roles={"Петя": "user", "Аня": "assistant"})
    assert said(dialogue) == ASKED and dialogue.id == "play:0"
    (dialogue,) = read(path, columns=columns, roles={"*": "user", "Аня": "assistant"})
    assert said(dialogue) == ASKED


def test_null_content_and_null_turns_are_empty(tmp_path):
    rows = [{"messages": [{"role": "user", "content": None}, *TURNS]}, {"messages": None}]
    first, second = read(write(tmp_path / "a.jsonl", rows))
    assert first.messages[0] == Message("user", "") and second.messages == ()


def test_the_rows_own_ids(tmp_path):
    rows = [ALPACA | {"id": id_} for id_ in ("x-1", 7, None, "")] + [ALPACA]
    ids = [dialogue.id for dialogue in read(write(tmp_path / "a.jsonl", rows))]
    assert ids == ["x-1", "7", "a-000002", "a-000003", "a-000004"]


# ------------------------------------------------------------------------------------------- JSON itself

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(TEXT, TEXT.map(lambda text: text + "!")), min_size=1, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    suffix=st.sampled_from([".json", ".jsonl"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_was_written_is_read(tmp_path, rows, indent, ascii_only, suffix, encoding):
    values = [{"instruction": question, "output": answer} for question, answer in rows]
    if suffix == ".json":
        text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    else:
        text = "\n\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in values)
    path = tmp_path / f"talks{suffix}"
    path.write_bytes(text.encode(encoding))
    found = [tuple(message.content for message in d.messages) for d in read(path, encoding=encoding)]
    assert [(q.strip(), a) for q, a in found] == [(q.strip(), a) for q, a in rows]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1}\n{"a": \n', "talks.json:2: not valid JSON .*JSON Lines hold one whole row a line"),
        ("Привет", "talks.json:1: not valid JSON"),
        ('[{"instruction": "a", "output": "b"},\n {"instr', "talks.json:2: not valid JSON"),
        ('[{"instruction": "a", "output": "b"}\n {}]', "talks.json:2: not valid JSON .*comma or ]"),
        ('[{"instruction": "a", "output": "b"}]\n{}', "talks.json:2: something follows the list's closing ]"),
        ('[{"instruction": "a", "output": "b"},\n]', "talks.json:2: not valid JSON"),
        ("[]", "talks.json: there are no rows; .*data.dialogues.0.paths"),
        (" \n", "talks.json: there are no rows"),
        ('[{"instruction": "a", "output": "b"},\n"c"]', "talks.json:2: the row is text, not an object"),
        ("[" * 100_000, "talks.json:1: not"),
    ],
)
def test_broken_json(tmp_path, text, sentence):
    (tmp_path / "talks.json").write_text(text.replace('{"a": 1}', json.dumps(ALPACA, ensure_ascii=False)))
    assert re.search(sentence, refusal(tmp_path / "talks.json"))


def test_format_given_against_the_file(tmp_path):
    path = write(tmp_path / "a.jsonl", [ALPACA])
    assert "a.jsonl:1: not valid JSON (expected a list that opens with [)" in refusal(path, format="json")


def test_rows_are_read_lazily(tmp_path):
    path = write(tmp_path / "a.jsonl", [ALPACA])
    path.write_text(path.read_text() + "{broken")
    dialogues = read_dialogues(Dialogues(paths=[str(path)]), KEY)
    assert said(next(dialogues)) == ASKED
    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        next(dialogues)


def test_bytes_of_another_encoding_are_named_by_line_and_place(tmp_path):
    good = json.dumps(ALPACA, ensure_ascii=False).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(good + '{"instruction": "Дом"}'.encode("cp1251"))
    place = len(good) + len('{"instruction": "')
    sentence = refusal(tmp_path / "a.jsonl")
    assert f"a.jsonl:2: byte {place} (0xC4) is not UTF-8" in sentence
    assert "data.dialogues.0.encoding=cp1251" in sentence


# ------------------------------------------------------------------------------------------ bad rows, bad settings


@pytest.mark.parametrize(
    ("rows", "source", "sentences"),
    [
        ([{"asked": "a", "told": "b"}], {},
         ["a.jsonl:1", "asked, told", "data.dialogues.0.columns.messages=", "columns.instruction="]),
        ([ALPACA, {"instruction": "a", "outputs": "b"}], {},
         ["a.jsonl:2", "no 'output'", "data.dialogues.0.columns.output=outputs"]),
        ([ALPACA], {"columns": {"instruction": "instructions", "output": "output"}},
         ["a.jsonl:1", "no 'instructions'", "data.dialogues.0.columns.instruction=instruction"]),
        ([{"instruction_ru": "a", "original_output_ru": "b"}], {"shape": "alpaca"},
         ["a.jsonl:1", "no 'instruction'", "data.dialogues.0.columns.instruction=instruction_ru"]),
        ([PLAY], {}, ["a.jsonl:1", "no 'role' or 'from'", "speaker, text", "data.dialogues.0.columns.role="]),
        ([PLAY], {"columns": {"role": "speaker"}},
         ["a.jsonl:1", "no 'content' or 'value'", "data.dialogues.0.columns.text=text"]),
        ([PLAY], {"columns": {"role": "speaker", "text": "text"}},
         ["a.jsonl:1", "the speaker 'Петя' has no role", "data.dialogues.0.roles={Петя: assistant}"]),
        ([{"messages": TURNS}, {"mesages": TURNS}], {},
         ["a.jsonl:2", "no 'messages'", "data.dialogues.0.columns.messages=mesages"]),
        ([{"messages": "Кто ты?"}], {}, ["a.jsonl:1", "text, not a list", "data.dialogues.0.columns.messages"]),
        ([{"messages": ["Кто ты?"]}], {}, ["a.jsonl:1", "a turn is text, not an object"]),
        ([{"messages": [{"role": "user", "content": ["a"]}]}], {}, ["a.jsonl:1", "is a list, not text"]),
        ([{"messages": [{"role": 7, "content": "a"}]}], {}, ["a.jsonl:1", "who speaks is a number"]),
        ([ALPACA | {"output": 5}], {}, ["a.jsonl:1", "the output is a number, not text"]),
        ([{"messages": TURNS[:1]}], {},
         ["data.dialogues.0: no dialogue of", "a.jsonl", "data.dialogues.0.roles={NAME: assistant}"]),
        ([ALPACA | {"output": ""}], {}, ["data.dialogues.0: no dialogue of", "data.dialogues.0.columns"]),
        ([ALPACA], {"columns": {"input": "imput"}},
         ["data.dialogues.0.columns.input: no row has the column 'imput'", "did you mean 'input'?"]),
        ([ALPACA], {"columns": {"input": "input", "role": "role"}}, ["data.dialogues.0.columns: role", "two sources"]),
        ([ALPACA], {"shape": "alpaca", "columns": {"role": "from"}},
         ["data.dialogues.0.columns.role has no effect on the shape alpaca"]),
        ([ALPACA], {"shape": "messages"}, ["a.jsonl:1", "no 'messages' or 'conversations'"]),
        ([SHARE], {"shape": "messages"}, ["a.jsonl:1", "no 'role'", "data.dialogues.0.columns.role="]),
        ([ALPACA], {"encoding": "utf8x"}, ["data.dialogues.0.encoding: 'utf8x'", "did you mean"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_mend(tmp_path, rows, source, sentences):
    found = refusal(write(tmp_path / "a.jsonl", rows), **source)
    assert all(sentence in found for sentence in sentences), found


def test_a_row_of_a_json_list_is_named_by_its_line(tmp_path):
    (tmp_path / "a.json").write_text('[\n{"instruction": "a", "output": "b"},\n\n{"instruction": "c"}\n]')
    assert "a.json:4: there is no 'output'" in refusal(tmp_path / "a.json")


def test_many_columns_are_not_all_listed(tmp_path):
    found = refusal(write(tmp_path / "a.jsonl", [{f"text_{n}": "секрет" for n in range(40)}]))
    assert "and 28 more" in found and "секрет" not in found


def test_no_files(tmp_path):
    assert "data.dialogues.0.paths" in refusal(tmp_path / "nowhere.jsonl")
