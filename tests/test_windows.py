"""Windows: the ledger balances, loss falls where it should, long conversations go on, nothing is lost."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_training import Replay
from shridhar_ft.data import windows
from shridhar_ft.data.long_conversations import cut_conversation
from shridhar_ft.data.windows import IGNORED, Encoded, Layout, load_windows, save_windows


def pack_windows(documents, window: int, why_masked: str, *options):
    """Rows as arrays, and the ledger."""
    table, ledger = windows.pack_windows(documents, Layout(window, *options), why_masked)
    return [{name: np.array(value) for name, value in row.items()} for row in table.to_pylist()], ledger


def encoded(length: int, start: int = 0, learned: bool = True) -> Encoded:
    return Encoded(np.arange(start, start + length, dtype=np.int32), np.full(length, learned))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
    st.integers(8, 40),
    st.randoms(),
)
def test_every_token_is_accounted_for(sizes: list[int], context: int, random) -> None:
    documents = [
        Encoded(np.full(size, index, dtype=np.int32), np.array([random.random() < 0.5 for _ in range(size)]))
        for index, size in enumerate(sizes)
    ]
    rows, ledger = pack_windows(documents, context, "not learned")
    assert ledger.balanced
    assert ledger.came_in == sum(sizes)
    assert sum(len(row["input_ids"]) for row in rows) == sum(sizes)
    assert ledger.trained == sum(int((row["labels"] != IGNORED).sum()) for row in rows)
    for row in rows:
        assert sum(row["lengths"]) == len(row["input_ids"]) <= context
        openings = np.cumsum(row["lengths"]) - row["lengths"]
        assert (row["labels"][openings] == IGNORED).all()
        kept = row["labels"] != IGNORED
        assert (row["labels"][kept] == row["input_ids"][kept]).all()


def test_a_long_book_fills_windows_in_order() -> None:
    rows, ledger = pack_windows([encoded(25)], 10, "x")
    assert [row["input_ids"].tolist() for row in rows] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert ledger.as_dict()["reasons"]["masked"] == {"x": 0, "opens a piece": 3}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(8, 40), st.booleans())
def test_what_begins_inside_a_document_is_opened_where_the_base_leans_on_it(sizes, context, replays) -> None:
    documents = [encoded(size) for size in sizes]
    replay = Replay(context=8, share=0.3) if replays and context > 8 else None
    plain, ledger = windows.pack_windows(documents, Layout(context, replay=replay), "x")
    opened, same = windows.pack_windows(documents, Layout(context, replay=replay, opening=1000), "x")
    assert ledger == same and plain.drop(["input_ids"]) == opened.drop(["input_ids"]), "loss and ledger stay"
    for before, row in zip(plain.to_pylist(), opened.to_pylist(), strict=True):
        expected, begin = np.array(before["input_ids"]), 0
        for start, length in zip(row["starts"], row["lengths"], strict=True):
            expected[begin] = 1000 if start else expected[begin]
            begin += length
        assert row["input_ids"] == expected.tolist()
    assert Layout(8).as_list() == [8] and Layout(8, opening=0).as_list() == [8, {"opening": 0}]


@given(st.lists(st.integers(1, 60), max_size=20), st.integers(8, 40), st.sampled_from(["split", "drop"]))
def test_kept_tokens_stand_once_and_in_order_and_dropped_ones_are_counted(lengths, context, overlong) -> None:
    starts = np.cumsum([0, *lengths])
    documents = [encoded(length, start) for length, start in zip(lengths, starts[:-1], strict=True)]
    rows, ledger = pack_windows(documents, context, "x", overlong)
    assert ledger.balanced and ledger.came_in == sum(lengths)
    kept = [d for d in documents if len(d.ids) <= context or overlong == "split"]
    found = [int(token) for row in rows for token in row["input_ids"]]
    assert sorted(found) == [int(token) for document in kept for token in document.ids]
    assert sum(ledger.dropped.values()) == sum(lengths) - len(found)
    for row in rows:
        assert len(row["input_ids"]) <= context
        for piece in np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1]):
            assert (np.diff(piece) == 1).all()  # runs on inside its document
            assert len({int(np.searchsorted(starts, token, "right")) for token in piece}) == 1


def test_a_document_longer_than_the_window_is_dropped_only_when_asked(tmp_path: Path) -> None:
    documents = [encoded(25), encoded(10, 100), encoded(4, 200)]
    rows, ledger = pack_windows(documents, 10, "x", "drop")
    assert [row["input_ids"].tolist() for row in rows] == [list(range(100, 110)), list(range(200, 204))]
    assert ledger.as_dict()["reasons"]["dropped"] == {"document longer than the window": 25}
    assert pack_windows(documents, 10, "x")[1].as_dict()["dropped"] == 0
    for overlong, count in (("split", 4), ("drop", 2)):
        save_windows(tmp_path / "windows", documents, Layout(10, overlong), "x", "one")
        rows, stored = load_windows(tmp_path / "windows")
        assert len(rows) == stored["windows"] == count
    assert stored["filled"] == 0.7 and stored["dropped"] == 25


def test_windows_put_together_in_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [encoded(length, 100 * length) for length in range(1, 40)]
    at_once = windows.pack_windows(documents, Layout(16), "x")
    monkeypatch.setattr(windows, "BATCH_TOKENS", 50)
    in_batches = windows.pack_windows(documents, Layout(16), "x")
    assert in_batches[0].column(0).num_chunks > 5
    assert in_batches[0].to_pylist() == at_once[0].to_pylist() and in_batches[1] == at_once[1]


def encode(messages: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Two tokens a turn and one a letter; learned is what the assistant says."""
    ids, learned = [0], [False]
    for message in messages:
        ids += [1, *map(ord, message["content"]), 2]
        learned += [False, *[message["role"] == "assistant"] * (len(message["content"]) + 1)]
    return np.array(ids, dtype=np.int32), np.array(learned)


def said(text: str, first: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if first == "user" else ["system", "user", "assistant"]
    return [
        {"role": roles[i] if i < len(roles) else ["user", "assistant"][(i - len(roles)) % 2], "content": c}
        for i, c in enumerate(text)
    ]


def test_a_conversation_that_fits_stays_whole() -> None:
    parts = list(cut_conversation(said("abcd"), encode, 100))
    assert len(parts) == 1 and parts[0].whole
    assert parts[0].ids.tolist() == encode(said("abcd"))[0].tolist()


def test_a_longer_one_goes_on_exchange_by_exchange_with_its_system_text() -> None:
    parts = list(cut_conversation(said("sabcdef", first="system"), encode, 16))
    texts = ["".join(chr(i) for i in part.ids if i > 2) for part in parts]
    assert texts == ["sabcd", "sef"]
    assert all(part.whole and len(part.ids) <= 16 for part in parts)


def test_an_exchange_longer_than_the_window_goes_on_in_the_next() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * 30}]
    parts = list(cut_conversation(messages, encode, 10))
    ids, learned = encode(messages)
    assert [len(part.ids) for part in parts] == [10, 10, 10, len(ids) - 30] and not any(part.whole for part in parts)
    assert np.concatenate([part.ids for part in parts]).tolist() == ids.tolist()
    assert np.concatenate([part.learned for part in parts]).tolist() == learned.tolist()


@given(st.lists(st.text("xyz", min_size=1, max_size=8), min_size=1, max_size=9), st.integers(4, 60))
def test_no_word_is_lost(contents: list[str], context: int) -> None:
    messages = [{"role": ["user", "assistant"][i % 2], "content": c} for i, c in enumerate(contents)]
    parts = list(cut_conversation(messages, encode, context))
    assert "".join(chr(i) for part in parts for i in part.ids if i > 2) == "".join(contents)
    assert all(len(part.ids) <= context for part in parts)


def test_a_long_conversation_is_encoded_a_few_times_only() -> None:
    lengths: list[int] = []

    def counting(messages: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        lengths.append(len(messages))
        return encode(messages)

    list(cut_conversation(said("ab" * 1000), counting, 2000))
    assert sum(lengths) < 5 * 2000


def test_windows_are_kept_while_their_source_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "windows"
    save_windows(folder, [encoded(25)], Layout(10), "x", "one")
    stamp = (folder / "ledger.json").stat().st_mtime_ns
    save_windows(folder, pytest.fail, Layout(10), "x", "one")  # nothing is read
    assert (folder / "ledger.json").stat().st_mtime_ns == stamp
    save_windows(folder, [encoded(30)], Layout(10), "x", "two")
    rows, ledger = load_windows(folder)
    assert len(rows) == ledger["windows"] == 3
    save_windows(tmp_path / "none", [], Layout(10), "x", "one")
    assert len(load_windows(tmp_path / "none")[0]) == 0


def test_labels_are_the_ids_but_at_openings_and_where_nothing_is_learned() -> None:
    question = Encoded(np.array([5, 6, 7, 8], dtype=np.int32), np.array([False, False, True, True]))
    answer = Encoded(np.array([9, 10, 11], dtype=np.int32), np.array([True, True, False]))
    (row,), ledger = pack_windows([question, answer], 8, "not the assistant's")
    assert row["input_ids"].tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert row["labels"].tolist() == [-100, -100, 7, 8, -100, 10, -100]
    assert row["lengths"].tolist() == [4, 3]
    assert ledger.as_dict() == {
        "in": 7,
        "trained": 3,
        "masked": 4,
        "truncated": 0,
        "dropped": 0,
        "replayed": 0,
        "reasons": {
            "masked": {"not the assistant's": 3, "opens a piece": 1},
            "truncated": {},
            "dropped": {},
        },
    }


def test_a_ledger_that_lost_a_token_is_not_balanced() -> None:
    _, ledger = pack_windows([encoded(25)], 10, "x")
    ledger.trained -= 1
    assert not ledger.balanced


def test_a_system_text_as_long_as_the_window_stands_whole_in_every_part() -> None:
    messages = [{"role": "system", "content": "s" * 40}, *said("abcd")]
    parts = list(cut_conversation(messages, encode, 16))
    texts = "".join(chr(i) for part in parts for i in part.ids if i > 2)
    assert texts == "s" * 40 + "ab" + "s" * 40 + "cd"


def test_windows_come_back_from_disk_as_they_were_packed(tmp_path: Path) -> None:
    documents = [encoded(13, start=100), encoded(9, start=200, learned=False), encoded(2, start=300)]
    rows, ledger = pack_windows(documents, 10, "x")
    save_windows(tmp_path / "windows", documents, Layout(10), "x", "one")
    loaded, stored = load_windows(tmp_path / "windows")
    assert [dict(row) for row in loaded] == [{key: value.tolist() for key, value in row.items()} for row in rows]
    assert {key: stored[key] for key in ledger.as_dict()} == ledger.as_dict()


def test_another_window_length_packs_anew(tmp_path: Path) -> None:
    save_windows(tmp_path / "windows", [encoded(30)], Layout(10), "x", "one")
    save_windows(tmp_path / "windows", [encoded(30)], Layout(15), "x", "one")
    assert load_windows(tmp_path / "windows")[1]["windows"] == 2


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(16, 40),
    st.integers(8, 15),
    st.floats(0.05, 0.9),
)
def test_replayed_windows_hold_short_pieces_and_are_the_wanted_share(lengths, window, short, share) -> None:
    starts = np.cumsum([0, *lengths])
    documents = [encoded(length, start) for length, start in zip(lengths, starts[:-1], strict=True)]
    plain, _ = pack_windows(documents, window, "x")
    rows, ledger = pack_windows(documents, window, "x", "split", Replay(context=short, share=share))
    assert [row["input_ids"].tolist() for row in rows[: len(plain)]] == [row["input_ids"].tolist() for row in plain]
    replayed = rows[len(plain) :]
    assert all(row["replayed"] for row in replayed) and not any(row["replayed"] for row in rows[: len(plain)])
    assert len(replayed) == max(1, round(len(plain) * share / (1 - share)))
    assert all(row["lengths"].max() <= short and len(row["input_ids"]) <= window for row in replayed)
    assert ledger.balanced and ledger.replayed == sum(len(row["input_ids"]) for row in replayed)
    assert ledger.came_in == sum(lengths) + ledger.replayed
    for row in rows:  # where each piece says it comes from, it stands
        for piece, document, start in zip(
            np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1]), row["documents"], row["starts"], strict=True
        ):
            assert (piece == documents[document].ids[start : start + len(piece)]).all()
    assert [int(row["row"]) for row in rows] == list(range(len(rows)))


def test_short_pieces_are_spread_over_the_text_and_read_again_when_many_are_wanted() -> None:
    rows, _ = pack_windows([encoded(80)], 20, "x", "split", Replay(context=10, share=0.5))
    assert sorted(int(token) for row in rows[4:] for token in row["input_ids"]) == list(range(80))
    rows, _ = pack_windows([encoded(80)], 20, "x", "split", Replay(context=10, share=0.2))
    assert len(rows) == 5
    rows, _ = pack_windows([encoded(20)], 20, "x", "split", Replay(context=10, share=0.75))
    assert [row["input_ids"].tolist() for row in rows] == [list(range(20))] * 4
