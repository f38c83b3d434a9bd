"""Words, runs of 13 words, and the measure of what train shares, each against plain Python."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data import words as words_module
from shridhar_ft.data.hashset import HashSet, Lookup
from shridhar_ft.data.overlap import RUN, run_hashes, runs_of, shared_runs, window_hashes
from shridhar_ft.data.records import Document, Message
from shridhar_ft.data.rows import RowStream, block_row, dialogue_row, save_split
from shridhar_ft.data.split import SPLITS
from shridhar_ft.data.words import words_of

WORD = re.compile(r"\w+")
TEXTS = st.lists(st.text("абвАБВ é_7 .,\n\u0301\u0323Σςσß—", max_size=40), max_size=6)


def plain_words(text):
    return [word.lower().replace("ς", "σ") for word in WORD.findall(text)]


def plain_runs(text):
    words = plain_words(text)
    return {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}


def number_of(values, numbers):
    """Equal values get equal numbers, in order of appearance."""
    return [numbers.setdefault(value, len(numbers)) for value in values]


# -------------------------------------------------------------------------------------------------- words


@given(TEXTS)
def test_words_are_those_of_the_regular_expression_and_equal_where_theirs_are(texts):
    words = words_of(texts)
    expected = [plain_words(text) for text in texts]
    assert np.diff(words.bounds).tolist() == [len(found) for found in expected]
    assert number_of(words.hashes.tolist(), {}) == number_of([word for found in expected for word in found], {})
    joined = "\n".join(texts)
    assert words.starts.tolist() == [match.start() for match in WORD.finditer(joined)]


@given(st.text(max_size=60))
def test_any_text_has_the_words_of_the_regular_expression(text):
    text = text.encode("utf-8", "ignore").decode()
    assert words_of([text]).starts.tolist() == [match.start() for match in WORD.finditer(text)]


def test_marks_divide_words_and_letters_outside_the_basic_plane_are_letters():
    assert len(words_of(["кр\u0323па\u0304 𐍈𐌰 𠀀 😀 x²"]).hashes) == 5


@given(TEXTS, st.integers(3, 40))
def test_long_texts_in_slices_have_the_same_words(texts, at_once):
    texts = [re.sub(r"\S{2,}", lambda match: match[0][:1], text) for text in texts]
    whole = words_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "AT_ONCE", at_once)
        sliced = words_of(texts)
    assert all(np.array_equal(one, other) for one, other in zip(whole, sliced, strict=True))


def test_hashes_are_the_same_on_every_machine_and_day():
    assert [hex(value) for value in words_of(["Слово, слово дело"]).hashes.tolist()] == [
        "0x38f762dc8b71dc0b",
        "0x38f762dc8b71dc0b",
        "0x1fc137d9d2f76ac7",
    ]


def test_hundreds_of_thousands_of_words_have_as_many_hashes():
    texts = [" ".join(f"{a}{b}" for b in range(300)) for a in ("а", "б", "аб", "ба", *range(1000, 1700))]
    distinct = {word for text in texts for word in text.split()}
    assert len(distinct) > 200_000
    assert len(np.unique(words_of(texts).hashes)) == len(distinct)


# --------------------------------------------------------------------------------------------------- runs


@given(st.lists(st.lists(st.sampled_from("абв"), max_size=30).map(" ".join), max_size=6))
def test_runs_of_many_texts_are_those_of_each(texts):
    runs = runs_of(texts)
    expected = [(number, value) for number, text in enumerate(texts) for value in run_hashes(text).tolist()]
    assert list(zip(runs.texts.tolist(), runs.hashes.tolist(), strict=True)) == expected
    assert len({value for _, value in expected}) == len(set().union(*map(plain_runs, texts)))


def test_case_and_punctuation_do_not_count_but_order_does():
    words = [f"слово{number}" for number in range(RUN)]
    assert len(run_hashes(" ".join(words[1:]))) == 0
    assert np.array_equal(run_hashes(" ".join(words)), run_hashes("«" + ", ".join(words).upper() + "!»"))
    assert not np.array_equal(run_hashes(" ".join(words)), run_hashes(" ".join(reversed(words))))


@given(st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=12), st.lists(st.integers(0, 70)))
def test_the_set_of_hashes_is_a_set(added, asked):
    hashes = HashSet(np.array(values, np.uint64) for values in added)
    there = {value for values in added for value in values}
    assert hashes.holds(np.array(asked, np.uint64)).tolist() == [value in there for value in asked]
    assert hashes.sorted().tolist() == sorted(there)
    lookup = Lookup(hashes.sorted())
    asked = [value << 57 for value in asked] + asked  # those of one set differ in the first bits, or in the last
    known, places = lookup.find(np.array(asked, np.uint64))
    assert known.tolist() == [n for n, value in enumerate(asked) if value in there]
    assert lookup.hashes[places].tolist() == [value for value in asked if value in there]


@pytest.mark.parametrize("length", [1, 5, 13])
def test_windows_longer_than_the_text_are_none(length):
    assert len(window_hashes(words_of(["а б в г"]).hashes, length)) == max(0, 5 - length)


# --------------------------------------------------------------------------------- what the splits share


@given(st.data())
def test_shared_runs_are_those_of_a_set_of_tuples(tmp_path_factory, data):
    texts = st.lists(st.sampled_from("аб"), max_size=20).map(" ".join)
    folder = tmp_path_factory.mktemp("splits")
    rows = {}
    for split in SPLITS:
        books, dialogues = data.draw(st.lists(texts, max_size=3)), data.draw(st.lists(texts, max_size=3))
        rows[split] = {"books": books, "dialogues": ["\n".join(["вопрос", text]) for text in dialogues]}
        with RowStream(folder / f"{split}.arrow") as stream:
            for number, text in enumerate(books):
                stream.append(block_row(Document("s", "w", "w", ""), number, text, ""), len(text))
            for number, text in enumerate(dialogues):
                turns = [Message("user", "вопрос"), Message("assistant", text)]
                stream.append(dialogue_row("d", str(number), turns), len(text))
        save_split(folder / f"{split}.arrow", folder / split)
    train = set().union(*(plain_runs(text) for texts in rows["train"].values() for text in texts))
    found = shared_runs(folder)
    for kind, split in [(kind, split) for kind in ("books", "dialogues") for split in SPLITS[1:]]:
        runs = set().union(*map(plain_runs, rows[split][kind]))
        assert Counter(found[kind][split]) == Counter({"runs": len(runs), "in_train": len(runs & train)})
