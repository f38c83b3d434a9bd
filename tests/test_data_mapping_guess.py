"""Proposed mappings: right for the usual tables and rows, none where nothing fits, and such as a recipe takes."""

import json

import pytest
from real_data import REAL_DATA

from shridhar_ft.config_data import Dialogues, Texts
from shridhar_ft.data.sources.mapping_guess import guess_mapping, guess_mappings
from shridhar_ft.data.sources.mysql.reader import Dump

DATA = REAL_DATA
TIMES = ["2018-02-01 10:00:00", "2018-02-01 10:01:00"]
SAID = ["Здравствуйте, как пройти к реке?", "Прямо, потом налево"]


def as_source(guess):
    """The proposal as a source of a recipe: it must be one."""
    ((kind, source),) = guess.items()
    return {"dialogues": Dialogues, "texts": Texts}[kind](paths=["x"], **source)


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"messages": [[{"role": "user", "content": "а"}]]}, {"shape": "messages"}),
        ({"id": [1], "conversations": [[{"from": "human", "value": "а"}]]}, {"shape": "sharegpt"}),
        ({"talk": [None, [{"speaker": "Петя", "text": "а"}]]},
         {"shape": "messages", "columns": {"messages": "talk", "role": "speaker", "text": "text"}}),
        ({"instruction": ["а"], "input": [""], "output": ["б"]}, {"shape": "alpaca"}),
        ({"prompt": ["а"], "completion": ["б"]}, {"shape": "alpaca"}),
        ({"my_question": ["а"], "my_answer": ["б"]},
         {"shape": "alpaca", "columns": {"instruction": "my_question", "output": "my_answer"}}),
        ({"instruction": ["q"], "output": ["a"], "original_instruction_de": ["q"], "original_instruction_ru": ["а"],
          "original_input_ru": [None], "original_output_de": ["a"], "original_output_ru": ["б"],
          "is_consistent": [True, None, False]},
         {"shape": "alpaca", "filter": {"is_consistent": True},
          "columns": {"instruction": "original_instruction_ru", "input": "original_input_ru",
                      "output": "original_output_ru"}}),
        ({"id": [1, 2], "chat_id": [7, 7], "is_bot": [b"\x00", b"\x01"], "created_at": TIMES, "body": SAID},
         {"columns": {"conversation": ["chat_id"], "text": "body", "time": "created_at", "order": "id",
                      "role": "is_bot"},
          "roles": {"0": "user", "1": "assistant"}, "session_gap": 6}),
        ({"n": [1, 2], "dialog": ["x", "x"], "role": ["user", "assistant"], "text": SAID, "norm": SAID},
         {"columns": {"conversation": ["dialog"], "text": "text", "order": "n", "role": "role"}}),
    ],
)  # fmt: skip
def test_dialogues_of_every_shape(columns, source):
    found = guess_mapping("t", columns)
    assert found == {"dialogues": source}
    assert as_source(found)


def test_long_texts_are_proposed_as_texts():
    columns = {
        "title": ["Сад", "Сад"],
        "author": ["Анна", "Анна"],
        "page": ["Слово за словом. " * 20] * 2,
        "no": [1, 2],
    }
    found = guess_mapping("t", columns)
    assert found == {"texts": {"columns": {"text": "page", "title": "title", "author": "author"}}}
    assert as_source(found)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"in": [], "text": []},
        {"in": [None], "text": [None]},
        {"id": [1], "name": ["Анна"]},
        {"id": [1], "rate": [0.5]},
    ],
)
def test_nothing_is_proposed_where_nothing_fits(columns):
    assert guess_mapping("t", columns) is None


@pytest.mark.parametrize(("asked", "told"), [("log_in", "log_out"), ("incoming", "outgoing"), ("Questions", "Answers")])
def test_two_tables_with_a_side_each_are_proposed_together(asked, told):
    rows = {"id": [1, 2], "user_id": [7, 7], "text": SAID, "date": TIMES}
    answers = {"id": [1, 2], "user_id": [7, 7], "body": SAID, "date": [None, TIMES[0]], "date_ready": TIMES}
    found = guess_mappings({"spare": {"id": [], "text": []}, told: answers, asked: rows})
    assert found == {
        "dialogues": {
            "columns": {"conversation": ["user_id"], "text": "text", "time": "date", "order": "id"},
            "tables": [
                {"name": asked, "role": "user"},
                {"name": told, "role": "assistant", "columns": {"text": "body", "time": ["date", "date_ready"]}},
            ],
            "session_gap": 6,
        }
    }
    assert as_source(found)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_the_real_dump_gets_the_mapping_that_is_right_for_it():
    dump = Dump(sorted((DATA / "sql" / "alice").glob("alice_*")), "data.dialogues.0")
    tables = {}
    for batch in dump.batches(None):
        tables.setdefault(batch.table, {name: values[:200] for name, values in batch.columns.items()})
    for name, table in dump.tables.items():
        tables.setdefault(name, {column.name: [] for column in table.columns})
    assert "messages" in tables
    found = guess_mappings(tables)
    source = as_source(found)
    assert [(table.name, table.role) for table in source.tables] == [
        ("messages_in", "user"),
        ("messages_out", "assistant"),
    ]
    assert source.columns.conversation == ["engine", "account_id", "ca_id"]
    assert (source.columns.text, source.columns.time, source.columns.order) == ("text", ["date_send"], "id")
    assert source.tables[1].columns.text == "text_send"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("multiwoz_ru", {"shape": "messages"}),
        ("rusdracor", {"shape": "messages", "columns": {"role": "speaker", "text": "text"}}),
    ],
)
def test_real_sets_of_dialogues(name, source):
    with (DATA / "dialogues" / f"{name}.jsonl").open(encoding="utf-8") as handle:
        rows = [json.loads(handle.readline()) for _ in range(20)]
    assert guess_mapping(name, {key: [row.get(key) for row in rows] for key in rows[0]}) == {"dialogues": source}
