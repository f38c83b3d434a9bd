"""Turns put together into conversations: grouping, order, sessions, counts, and mappings that cannot be right."""

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_data import REAL_DATA

from shridhar_ft.config import load_recipe
from shridhar_ft.config_data import Dialogues
from shridhar_ft.data.sources import row, spill, turns
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.dialogues import read_dialogues
from shridhar_ft.data.sources.times import microseconds
from shridhar_ft.errors import UserError

KEY = "data.dialogues.0"
ALICE = REAL_DATA / "sql" / "alice"
IN = [
    {"id": 1, "chat": 7, "text": "Кто ты?", "at": "2018-02-01 10:00:00"},
    {"id": 2, "chat": 8, "text": "Где дом?", "at": "2018-02-01 10:00:30"},
    {"id": 3, "chat": 7, "text": "Куда идёшь?", "at": "2018-02-01 10:02:00"},
]
OUT = [
    {"id": 1, "chat": 7, "answer": "Странник.", "at": "2018-02-01 10:01:00"},
    {"id": 2, "chat": 7, "answer": "Домой.", "at": "2018-02-01 10:03:00"},
    {"id": 3, "chat": 8, "answer": "За рекой.", "at": "2018-02-01 10:04:00"},
]
TWO = {
    "columns": {"conversation": "chat", "time": "at", "order": "id"},
    "tables": [
        {"name": "asked", "role": "user"},
        {"name": "told", "role": "assistant", "columns": {"text": "answer"}},
    ],
}
ONE = {"columns": {"conversation": "chat", "order": "id", "role": "who"}}
SAID = [
    {"id": 2, "chat": 7, "text": "Странник.", "who": "bot"},
    {"id": 1, "chat": 7, "text": "Кто ты?", "who": "user"},
]


def write(path, rows):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def two(folder, asked=IN, told=OUT):
    write(folder / "asked.jsonl", asked)
    write(folder / "told.jsonl", told)
    return folder


def read(path, counts=None, **settings):
    return list(read_dialogues(Dialogues(paths=[str(path)], **settings), KEY, counts))


def said(dialogue):
    return [(message.role, message.content) for message in dialogue.messages]


def refusal(path, **settings):
    with pytest.raises(UserError) as error:
        read(path, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def id_of(*values):
    return xxhash.xxh3_128_hexdigest("\x1f".join(map(str, values)).encode())[:16]


# ------------------------------------------------------------------------------------------- two tables, one


def test_two_tables_are_put_together_by_time(tmp_path):
    counts = RowCounts()
    found = {dialogue.id: said(dialogue) for dialogue in read(two(tmp_path), counts, **TWO)}
    assert found == {
        id_of(7): [("user", "Кто ты?"), ("assistant", "Странник."), ("user", "Куда идёшь?"), ("assistant", "Домой.")],
        id_of(8): [("user", "Где дом?"), ("assistant", "За рекой.")],
    }
    assert (counts.rows_in, counts.conversations, counts.sessions_cut, +counts.dropped) == (6, 2, 0, Counter())


def test_one_table_says_the_role_in_a_column(tmp_path):
    (dialogue,) = read(write(tmp_path / "said.jsonl", SAID), **ONE)
    assert said(dialogue) == [("user", "Кто ты?"), ("assistant", "Странник.")]
    assert dialogue.source == "said.jsonl" and dialogue.id == id_of(7)


def test_ids_are_the_same_in_every_format(tmp_path):
    rows = [{"chat": 7, "part": "x", "text": text, "who": who} for text, who in (("а", "user"), ("б", "bot"))]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.csv").write_text("chat,part,text,who\n7,x,а,user\n7,x,б,bot\n")
    pq.write_table(pa.table({"chat": [7.0, 7.0], "part": ["x"] * 2, "text": ["а", "б"], "who": ["user", "bot"]}),
                   tmp_path / "c.parquet")  # fmt: skip
    columns = {"conversation": ["chat", "part"], "role": "who"}
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        (dialogue,) = read(tmp_path / name, columns=columns)
        assert (dialogue.id, said(dialogue)) == (id_of(7, "x"), [("user", "а"), ("assistant", "б")])


def test_a_dump_is_grouped_across_its_inserts_and_parts(tmp_path):
    def insert(table, rows):
        values = ",".join(
            f"({one['id']},{one['chat']},'{one.get('text') or one['answer']}','{one['at']}')" for one in rows
        )
        return f"INSERT INTO `{table}` VALUES {values};\n"

    def create(table, text):
        return (
            f"CREATE TABLE `{table}` (\n  `id` int(11) NOT NULL,\n  `chat` bigint(20) DEFAULT NULL,\n  `{text}` text,\n"
            f"  `at` datetime DEFAULT NULL\n) ENGINE=InnoDB DEFAULT CHARSET=utf8;\n"
        )

    dump = (
        "-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)\n/*!40101 SET NAMES utf8 */;\n"
        + create("asked", "text") + insert("asked", IN) + create("spare", "text")
        + create("told", "answer") + insert("told", OUT) + "-- Dump completed on 2020-01-01  0:00:00\n"
    ).encode()  # fmt: skip
    half = len(dump) // 2
    (tmp_path / "talks_aa").write_bytes(dump[:half])
    (tmp_path / "talks_ab").write_bytes(dump[half:])
    write(tmp_path / "asked.jsonl", IN)
    write(tmp_path / "told.jsonl", OUT)
    from_dump = read(tmp_path / "talks_*", **TWO)
    from_lines = read(tmp_path / "*.jsonl", **TWO)
    assert [(d.id, d.messages) for d in from_dump] == [(d.id, d.messages) for d in from_lines]
    assert {dialogue.source for dialogue in from_dump} == {"talks"}
    empty = {**TWO, "tables": [*TWO["tables"][:1], {"name": "spare", "role": "assistant"}]}
    assert "data.dialogues.0.tables.1: the table spare is empty" in refusal(tmp_path / "talks_*", **empty)


# ------------------------------------------------------------------------------------- against a plain reference

TURN = st.fixed_dictionaries(
    {
        "chat": st.integers(0, 4) | st.none(),
        "at": st.sampled_from(
            ["0000-00-00 00:00:00", None, *(f"2018-02-0{day} 0{h}:00:00" for day in (1, 2) for h in range(6))]
        ),
        "id": st.none() | st.integers(-5, 30) | st.sampled_from(["7", "12", "1.5", "б", "а"]),
        "text": st.sampled_from(["да", "нет", "может быть", " ", "", None]),
    }
)


def order_of(value):
    if value in (None, ""):
        return (2, 0, "")
    try:
        return (0, Decimal(value), "")
    except ArithmeticError:
        return (1, 0, value)


def plain(rows, gap):
    """Sessions of each conversation and the reasons for drops, of (table, row) in the order of reading."""
    dropped, chats = Counter(), {}
    for position, (table, turn) in enumerate(rows):
        if turn["chat"] is None:
            dropped["no conversation id"] += 1
        elif not (turn["text"] or "").strip():
            dropped["no text"] += 1
        else:
            time = (
                None if turn["at"] in (None, "0000-00-00 00:00:00") else datetime.fromisoformat(turn["at"]).timestamp()
            )
            chats.setdefault(turn["chat"], []).append([time, table, order_of(turn["id"]), position, turn["text"]])
    found = {}
    for chat, said in chats.items():
        for table in (0, 1):
            mine = sorted((one for one in said if one[1] == table), key=lambda one: one[2:4])
            for those in (mine, mine[::-1]):
                for before, one in pairwise(those):
                    one[0] = before[0] if one[0] is None else one[0]
        timed = any(one[0] is not None for one in said)
        dropped["no time"] += sum(timed and one[0] is None for one in said)
        left = sorted(
            (one for one in said if not timed or one[0] is not None), key=lambda one: (one[0] or 0, *one[1:4])
        )
        session = 1
        for before, one in zip([None, *left], left, strict=False):
            session += before is not None and timed and one[0] - before[0] > gap * 3600
            name = id_of(chat) + (f"#{session}" if session > 1 else "")
            found.setdefault(name, []).append((("user", "assistant")[one[1]], one[4]))
    return found, +dropped


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), TURN), max_size=40),
    batch=st.sampled_from([1, 3, 1000]),
    gathered=st.sampled_from([1, 500, 1 << 25]),
    partitions=st.sampled_from([1, 2, 7, 50]),
    gap=st.sampled_from([1, 3, 100]),
)
def test_grouping_equals_a_plain_reference_whatever_the_pieces(
    tmp_path, monkeypatch, rows, batch, gathered, partitions, gap
):
    monkeypatch.setattr(row, "BATCH_ROWS", batch)
    monkeypatch.setattr(spill, "GATHERED", gathered)
    monkeypatch.setattr(turns, "partitions_for", lambda size: partitions)
    certain = {"chat": 99, "at": "2018-02-01 00:00:00", "id": 1, "text": "да"}  # both sides, so that nothing is refused
    rows = [*rows, (0, certain), (1, certain)]
    rows = [(table, turn) for wanted in (0, 1) for table, turn in rows if table == wanted]
    for number, name in enumerate(("asked", "told")):
        write(tmp_path / f"{name}.jsonl", [turn for table, turn in rows if table == number])
    wanted, dropped = plain(rows, gap)
    counts = RowCounts()
    tables = [{"name": "asked", "role": "user"}, {"name": "told", "role": "assistant"}]
    found = read(tmp_path, counts, columns=TWO["columns"], tables=tables, session_gap=gap)
    assert {dialogue.id: said(dialogue) for dialogue in found} == wanted
    names = [dialogue.id for dialogue in found]
    assert names == sorted(names, key=lambda name: (name[:16], int(name[17:] or 1))), "an order of its own"
    assert +counts.dropped == dropped and counts.rows_in == len(rows)
    assert counts.conversations == len({name[:16] for name in names})
    assert counts.sessions_cut == len(names) - counts.conversations


# ------------------------------------------------------------------------------------------------ order and time


def ordered_texts(tmp_path, rows, **columns):
    rows = [{"chat": 1, "who": "user" if n else "bot", **one} for n, one in enumerate(rows)]
    mapped = {"conversation": "chat", "role": "who", **columns}
    (dialogue,) = read(write(tmp_path / "a.jsonl", rows), columns=mapped)
    return "".join(message.content for message in dialogue.messages)


@pytest.mark.parametrize(
    "orders",
    [
        [1, 2, 10],
        ["1", "2", "10"],
        ["9.5", 10, "11"],
        [-3, "0", 0.5],
        [2**60, 2**60 + 1, 2**60 + 2],
        [3, "а", "б"],
        [1, "а", None],
    ],
)
def test_order_is_that_of_numbers_then_texts_then_none(tmp_path, orders):
    rows = [{"n": order, "text": text} for order, text in zip(orders, "абв", strict=True)]
    assert ordered_texts(tmp_path, rows[::-1], order="n") == "абв"


def test_without_order_and_time_rows_stay_as_they_stand(tmp_path):
    assert ordered_texts(tmp_path, [{"text": text} for text in "бав"]) == "бав"


def test_at_the_same_time_the_recipes_first_table_speaks_first(tmp_path):
    at = {"at": "2018-02-01 10:00:00"}
    two(tmp_path, [IN[0] | at], [OUT[0] | at])
    assert [role for role, _ in said(read(tmp_path, **TWO)[0])] == ["user", "assistant"]
    turned = {**TWO, "tables": TWO["tables"][::-1]}
    assert [role for role, _ in said(read(tmp_path, **turned)[0])] == ["assistant", "user"]


def test_the_first_time_that_is_there_counts(tmp_path):
    rows = [
        {"sent": None, "ready": "2018-02-01 12:00:00", "text": "б"},
        {"sent": "2018-02-01 13:00:00", "ready": "2018-02-01 09:00:00", "text": "в"},
        {"sent": "0000-00-00 00:00:00", "ready": "2018-02-01 11:00:00", "text": "а"},
    ]
    assert ordered_texts(tmp_path, rows, time=["sent", "ready"]) == "абв"


def test_a_turn_without_time_stands_behind_the_one_before_it_in_its_table(tmp_path):
    rows = [
        {"id": 3, "at": "2018-02-01 12:00:00", "text": "г"},
        {"id": 2, "at": None, "text": "в"},
        {"id": 1, "at": "2018-02-01 10:00:00", "text": "б"},
        {"id": 0, "at": "", "text": "а"},
    ]
    assert ordered_texts(tmp_path, rows, time="at", order="id") == "абвг"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("2018-02-01 23:23:46", "2018-02-01T23:23:46"),
        ("2018-02-01 23:23:46.25", "2018-02-01T23:23:46.250"),
        ("2018-02-01T23:23:46Z", "2018-02-01T23:23:46"),
        ("2018-02-01T23:23:46+03:00", "2018-02-01T20:23:46"),
        ("2018-02-01", "2018-02-01"),
        ("20180201232346", "2018-02-01T23:23:46"),
        (datetime(2018, 2, 1, 23, 23, 46), "2018-02-01T23:23:46"),
        (1517527426, "2018-02-01T23:23:46"),
        ("1517527426", "2018-02-01T23:23:46"),
        (1517527426.5, "2018-02-01T23:23:46.500"),
        (1517527426250, "2018-02-01T23:23:46.250"),
        ("1517527426250000", "2018-02-01T23:23:46.250"),
        (1517527426250000000, "2018-02-01T23:23:46.250"),
        *(
            (none, None)
            for none in (None, "", "0000-00-00 00:00:00", "0000-00-00", 0, "завтра", [1], float("nan"), True)
        ),
    ],
)
def test_times_of_every_kind(value, wanted):
    expected = None
    if wanted:
        expected = round(datetime.fromisoformat(wanted).replace(tzinfo=UTC).timestamp() * 1_000_000)
    assert microseconds([value]).to_pylist() == [expected]
    assert microseconds(["2018-02-01 00:00:00", value]).to_pylist()[1] == expected


@given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1), st.sampled_from(" T"))
def test_times_are_the_same_alone_and_among_others(times, between):
    texts = [time.isoformat(between) for time in times]
    assert microseconds([*texts, "x"]).to_pylist() == [*microseconds(texts).to_pylist(), None]
    assert microseconds(times).to_pylist() == microseconds(texts).to_pylist()


def test_a_pause_begins_a_session(tmp_path):
    later = [one | {"at": "2018-02-03" + one["at"][10:], "id": one["id"] + 10} for one in (IN[0], OUT[0])]
    two(tmp_path, [*IN, later[0]], [*OUT, later[1]])
    counts = RowCounts()
    found = {dialogue.id: said(dialogue) for dialogue in read(tmp_path, counts, session_gap=6, **TWO)}
    assert set(found) == {id_of(7), id_of(8), f"{id_of(7)}#2"}
    assert found[f"{id_of(7)}#2"] == [("user", "Кто ты?"), ("assistant", "Странник.")]
    assert (counts.conversations, counts.sessions_cut) == (2, 1)
    assert len(read(tmp_path, session_gap=48, **TWO)) == 2


# -------------------------------------------------------------------------------------------- what is left out


def test_rows_that_cannot_be_used_are_counted_by_name(tmp_path):
    more = [
        {"chat": None, "text": "а", "at": "2018-02-01 10:00:00"},
        {"chat": "", "text": "а", "at": "2018-02-01 10:00:00"},
        {"chat": 7, "text": None, "at": "2018-02-01 10:00:00"},
        {"chat": 7, "text": " \n", "at": "2018-02-01 10:00:00"},
        {"chat": 7, "text": "а", "at": None},
        {"chat": 7, "text": "а", "at": "2018-02-01 10:00:00", "bad": 1},
    ]
    columns = {"conversation": "chat", "time": "at"}
    tables = [TWO["tables"][0] | {"filter": {"bad": None}}, TWO["tables"][1]]
    counts = RowCounts()
    found = read(two(tmp_path, IN + more), counts, columns=columns, tables=tables)
    assert sum(len(dialogue.messages) for dialogue in found) == 6
    assert counts.rows_in == 12
    assert +counts.dropped == {"no conversation id": 2, "no text": 2, "no time": 1, "filtered by bad": 1}


def test_rows_without_role_are_counted_unless_anyone_has_one(tmp_path):
    rows = [*SAID, {"id": 3, "chat": 7, "text": "…", "who": None}]
    counts = RowCounts()
    assert len(read(write(tmp_path / "a.jsonl", rows), counts, **ONE)[0].messages) == 2
    assert +counts.dropped == {"no role": 1}
    assert len(read(tmp_path / "a.jsonl", roles={"*": "user"}, **ONE)[0].messages) == 3


def test_what_a_service_says_is_left_out_and_counted(tmp_path):
    rows = [*SAID, {"id": 3, "chat": 7, "text": "Пользователь вошёл", "who": "notice"}]
    counts = RowCounts()
    [dialogue] = read(write(tmp_path / "a.jsonl", rows), counts, roles={"notice": "drop"}, **ONE)
    assert len(dialogue.messages) == 2
    assert +counts.dropped == {"said by someone whose role is drop": 1}
    turns = [{"role": row["who"], "content": row["text"]} for row in (SAID[1], SAID[0], rows[2])]
    [dialogue] = read(write(tmp_path / "b.jsonl", [{"messages": turns}]), counts, roles={"notice": "drop"})
    assert [message.role for message in dialogue.messages] == ["user", "assistant"] and counts.turns_dropped == 1


@pytest.mark.parametrize(
    ("values", "roles"),
    [
        ((0, 1), {0: "user", 1: "assistant"}),
        ((False, True), {"0": "user", "1": "assistant"}),
        ((False, True), {False: "user", True: "assistant"}),
        (("in", "out"), {"in": "user", "out": "assistant"}),
        (("0", "1"), {0: "user", 1: "assistant"}),
        ((b"\x00", b"\x01"), {0: "user", 1: "assistant"}),
        ((b"\x00", b"\x01"), {False: "user", True: "assistant"}),
    ],
)
def test_roles_are_told_by_numbers_bits_truths_and_names(tmp_path, values, roles):
    rows = {"chat": [1, 1], "text": ["а", "б"], "out": list(values)}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    columns = {"conversation": "chat", "role": "out"}
    assert said(read(tmp_path / "a.parquet", columns=columns, roles=roles)[0]) == [("user", "а"), ("assistant", "б")]


def test_nothing_is_left_in_the_folder_that_turns_are_sorted_in(tmp_path):
    two(tmp_path)
    (tmp_path / "spill").mkdir()
    dialogues = read_dialogues(Dialogues(paths=[str(tmp_path / "*.jsonl")], **TWO), KEY, None, tmp_path / "spill")
    next(dialogues)
    assert any((tmp_path / "spill").iterdir())
    dialogues.close()
    assert not any((tmp_path / "spill").iterdir())


def test_lone_halves_of_surrogate_pairs_come_through_for_cleaning(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"chat": 1, "text": "\\ud83d", "who": "user"}\n{"chat": 1, "text": "да", "who": "bot"}\n'
    )
    (dialogue,) = read(tmp_path / "a.jsonl", columns={"conversation": "chat", "role": "who"})
    assert dialogue.messages[0].content == "\ud83d"


# ------------------------------------------------------------------------------------------------- bad mappings

SECRET = "тайна, которую никто не должен прочесть ни в одном сообщении"


@pytest.mark.parametrize(
    ("rows", "source", "told"),
    [
        (SAID, {"columns": {"conversation": "chta", "role": "who"}},
         "data.dialogues.0.columns.conversation: a has no column 'chta'; did you mean 'chat'?"),
        (SAID, {"columns": {"conversation": "chat", "role": "who", "time": "date"}},
         "data.dialogues.0.columns.time: a has no column 'date'; there are id, chat, text, who"),
        (SAID, {"columns": {"conversation": "chat", "role": "who", "text": "txt"}},
         "columns.text: a has no column 'txt'; did you mean 'text'?"),
        (SAID, {"columns": {"conversation": "chat"}}, "data.dialogues.0: it is not said who speaks"),
        (SAID, {"shape": "turns", "columns": {"role": "who"}}, "data.dialogues.0.columns.conversation: the shape"),
        (SAID, {"columns": {"conversation": "chat", "role": "who", "input": "x"}},
         "data.dialogues.0.columns.input has no effect on the shape turns"),
        (SAID, {"columns": {"time": "at"}}, "data.dialogues.0.columns.time has no effect on the shape messages"),
        (SAID, {"session_gap": 2, **ONE}, "data.dialogues.0.session_gap needs the time"),
        (SAID, {"tables": [{"name": "a", "role": "user", "columns": {"role": "who"}}], **ONE},
         "data.dialogues.0.tables.0.columns.role has no effect"),
        ([SAID[0], SAID[1] | {"who": "Петя"}], ONE,
         "a.jsonl:1 or below: who of a: the speaker 'Петя' has no role; give it one (system, user, assistant) with "
         "data.dialogues.0.roles={Петя: assistant}"),
        ([SAID[0], SAID[1] | {"who": SECRET}], ONE, "who speaks is a text of 60 characters"),
        ([SAID[0], SAID[1] | {"who": [SECRET]}], ONE, "who speaks is a list, not a name"),
        ([SAID[0], SAID[1] | {"text": [SECRET]}], ONE, "text of a holds something else than text"),
        ([one | {"at": SECRET} for one in SAID], {"columns": {**ONE["columns"], "time": "at"}},
         "data.dialogues.0.columns.time: no value of at in a is a time such as"),
        ([one | {"who": "user"} for one in SAID], ONE,
         "every turn of a is the user's, nobody answers; say which value of the role column is the one who answers "
         "with data.dialogues.0.roles={VALUE: assistant}"),
        ([one | {"who": "bot"} for one in SAID], ONE, "every turn of a is the assistant's, nobody asks"),
        (SAID, {"tables": [{"name": "a", "role": "user"}], "columns": {"conversation": "chat"}},
         "data.dialogues.0: every turn of a is the user's, nobody answers; name the table in which the other side's "
         "messages stand with data.dialogues.0.tables=[…, {name: …, role: assistant}]"),
        ([SAID[0], SAID[1] | {"chat": 8}], ONE, "none of the 2 conversations has both sides"),
        ([one | {"text": ""} for one in SAID], ONE, "none of its 2 rows is a turn (2 no text)"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_right_is_one_sentence(tmp_path, rows, source, told):
    found = refusal(write(tmp_path / "a.jsonl", rows), **source)
    assert told in found and SECRET not in found


def test_a_table_whose_rows_cannot_be_used_is_named(tmp_path):
    told = refusal(two(tmp_path, told=[one | {"answer": None} for one in OUT]), **TWO)
    assert "every turn of asked is the user's, nobody answers; no row of told could be used (3 no text)" in told


# -------------------------------------------------------------------------------------------------- real data


@pytest.mark.skipif(not ALICE.is_dir(), reason="the real dump is not here")
def test_the_shipped_mapping_reads_the_dump_that_it_is_for():
    source = load_recipe("shridhar-gpt").data.dialogues[0]
    source.paths = [str(ALICE / "alice_*")]
    counts = RowCounts()
    found = [(d.source, len({message.role for message in d.messages})) for d in read_dialogues(source, KEY, counts)]
    assert {name for name, _ in found} == {"alice"}
    assert len(found) == counts.conversations + counts.sessions_cut > 3000
    assert sum(sides == 2 for _, sides in found) > 0.99 * len(found)
    assert set(+counts.dropped) <= {"no text", "no conversation id"}
