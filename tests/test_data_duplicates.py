"""Passages and conversations that stood before: what goes, what stays, and that it stays the same."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Duplicates
from shridhar_ft.data.duplicates import SHINGLE, DuplicateFinder
from shridhar_ft.data.minhash import PERMUTATIONS, RECALL, Signatures, rows_of_a_band, signature
from shridhar_ft.data.overlap import window_hashes
from shridhar_ft.data.passages import Passage, passages_of
from shridhar_ft.data.records import Message
from shridhar_ft.data.words import words_of

EXACT, NEAR = "duplicate passages", "near-duplicate passages"


def sentences(seed, count=1, words=20):
    """Paragraphs of words that no other seed has."""
    draw = random.Random(seed)
    return [" ".join(f"с{draw.randrange(10**9)}" for _ in range(words)).capitalize() + "." for _ in range(count)]


def wrapped(text, width=60):
    """The text with its lines broken at a width."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def edited(text, every):
    """The text with every so manieth word changed."""
    return " ".join(f"иное{n}" if n % every == 1 else word for n, word in enumerate(text.split()))


def finder(**settings):
    return DuplicateFinder(Duplicates(**settings))


# ------------------------------------------------------------------------------------------------ passages


def test_a_paragraph_stands_once_whatever_its_case_and_punctuation():
    [one, other] = sentences(1, 2)
    seen = finder()
    assert seen.without_repeats([f"{one}\n{other}"])[0] == [f"{one}\n{other}"]
    again = "— " + one.upper().replace(".", "!..")
    kept, repeats = seen.without_repeats([f"Глава 1\n\n{again}\n\nНовое."])
    assert kept == ["Глава 1\n\nНовое."]
    assert repeats.passages == {EXACT: 1}
    assert repeats.examples == {EXACT: [again]}


def test_what_is_removed_is_counted_to_the_character():
    old = sentences(2, 6, 15)
    seen = finder()
    seen.without_repeats(["\n".join(old)])
    new = sentences(3)[0]
    blocks = [f"{old[0]}\n\n\nГлава\n\n{old[1]}\n{new}", f"{old[2]}\n\n{old[3]}\n", "\n" + old[4]]
    kept, repeats = seen.without_repeats(blocks)
    assert kept == [f"Глава\n\n{new}", "", ""]
    assert sum(map(len, blocks)) - sum(map(len, kept)) == repeats.removed.total()
    assert repeats.removed[EXACT] == sum(map(len, old[:5]))


def test_blocks_keep_their_number_and_an_emptied_one_is_empty():
    one, two, three = sentences(4, 3)
    seen = finder()
    seen.without_repeats([two])
    assert seen.without_repeats([one, f"\n{two}\n", three])[0] == [one, "", three]


def test_headings_refrains_and_formulae_stay():
    block = "Глава 1\n\nГосподи, помилуй!\n\nО чём говорил учитель в тот день на берегу реки?"
    seen = finder()
    for _ in range(3):
        assert seen.without_repeats([block]) == ([block], seen.without_repeats(["x"])[1])


def test_a_repetition_within_one_work_goes_too():
    [one] = sentences(5)
    kept, repeats = finder().without_repeats([f"{one}\nДа.", f"Нет.\n{one}"])
    assert kept == [f"{one}\nДа.", "Нет."]
    assert repeats.passages == {EXACT: 1}


@pytest.mark.parametrize("width", [50, 80])
def test_a_quotation_with_other_line_breaks_is_found(width):
    paragraphs = sentences(6, 5, 60)
    seen = finder()
    seen.without_repeats(["\n".join(paragraphs)])
    own = sentences(7, 5, 60)
    book = "\n\n".join(wrapped(text, width) for pair in zip(own, paragraphs, strict=True) for text in pair)
    kept, repeats = seen.without_repeats([book])
    assert kept == ["\n\n".join(wrapped(text, width) for text in own)]
    assert repeats.passages == {EXACT: 5}


def test_a_quotation_out_of_a_longer_paragraph_is_found_and_one_inside_new_words_is_left():
    source = " ".join(sentences(8, 3, 30))
    quotation = source.split(". ")[1] + "."
    seen = finder()
    seen.without_repeats([source])
    inside = f"{sentences(9, 1, 40)[0]} {quotation} {sentences(10, 1, 40)[0]}"
    assert seen.without_repeats([quotation, inside])[0] == ["", inside]


def test_paragraphs_joined_into_one_are_found():
    paragraphs = sentences(11, 3, 30)
    seen = finder()
    seen.without_repeats(["\n".join(paragraphs)])
    assert seen.without_repeats([" ".join(paragraphs)])[0] == [""]


@pytest.mark.parametrize("threshold, goes", [(0.5, True), (0.95, False)])
def test_an_edited_paragraph_goes_from_the_threshold_on(threshold, goes):
    [text] = sentences(12, 1, 120)
    seen = finder(threshold=threshold)
    seen.without_repeats([text])
    kept, repeats = seen.without_repeats([edited(text, 40)])  # of its 116 runs of five words, 15 are others
    assert (kept == [""]) is goes
    assert repeats.passages == ({NEAR: 1} if goes else {})


def test_each_switch_does_its_part():
    [text] = sentences(13, 1, 120)
    near = edited(text, 60)
    for settings, expected in [
        ({}, ["", ""]),
        ({"near": False}, ["", near]),
        ({"exact": False}, ["", ""]),
        ({"exact": False, "near": False}, [text, near]),
    ]:
        seen = finder(**settings)
        seen.without_repeats([text])
        assert seen.without_repeats([text, near])[0] == expected


def test_shorter_passages_are_looked_at_where_the_recipe_says_so():
    assert finder(min_words=5).without_repeats(["раз два три четыре пять", "раз два три четыре пять"])[0][1] == ""


@given(st.lists(st.lists(st.sampled_from([*sentences(14, 5, 14), "", "Глава", "Аминь."]), max_size=8), max_size=5))
def test_every_long_paragraph_stays_exactly_once_and_short_lines_all_stay(blocks):
    texts = ["\n".join(lines) for lines in blocks]
    kept, repeats = finder().without_repeats(texts)
    lines = [line for block in blocks for line in block if line]
    left = [line for block in kept for line in block.split("\n") if line]
    assert left == [line for n, line in enumerate(lines) if len(line) < 20 or line not in lines[:n]]
    assert sum(map(len, texts)) - sum(map(len, kept)) >= repeats.removed.total() >= 0


def test_paragraphs_of_a_wrapped_book_without_blank_lines_end_with_a_short_line():
    lines = [
        "Первый абзац этой книги идёт по нескольким строкам, и на каждой из них",
        "предложение обрывается там, где кончилась строка, как бывает в старых",
        "файлах.",
        "- Да? - спросил он.",
        "Другой абзац тоже занимает не одну строку, так что короткая строка перед",
        "ним и есть то, что его отделяет от первого.",
    ]
    assert passages_of([lines]) == [Passage(0, 0, 3), Passage(0, 3, 4), Passage(0, 4, 6)]
    assert passages_of([["Один абзац.", "", "Другой абзац."], ["Третий."]]) == [(0, 0, 1), (0, 2, 3), (1, 0, 1)]


# ------------------------------------------------------------------------------------------- conversations


def talk(*texts):
    return [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


def test_a_conversation_stands_once():
    seen = finder()
    question, answer = sentences(20, 2)
    assert seen.of_conversation(talk(question, answer)) is None
    assert seen.of_conversation(talk(question.upper(), answer)) == "duplicate"
    assert seen.of_conversation(talk(f"{question} {answer}", "Да")) == "near-duplicate"


def test_repeated_answers_do_not_make_a_conversation_a_duplicate():
    [template] = sentences(21, 1, 40)
    seen = finder()
    assert {seen.of_conversation(talk(question, template)) for question in sentences(22, 200, 30)} == {None}


def test_of_short_conversations_only_equal_ones_go():
    seen = finder()
    greeting = "Здравствуйте!", "Здравствуйте, чем помочь?"
    assert [seen.of_conversation(talk(*greeting)) for _ in range(3)] == [None, "duplicate", "duplicate"]
    assert seen.of_conversation(talk("Здравствуйте!", "Здравствуйте, чем вам помочь?")) is None
    assert seen.of_conversation(talk("Да", "?")) is None and seen.of_conversation(talk("Да", "!!")) == "duplicate"


def test_passages_and_conversations_do_not_see_each_other():
    [text] = sentences(23)
    seen = finder()
    seen.without_repeats([text])
    assert seen.of_conversation(talk(text, "Да")) is None


# ------------------------------------------------------------------------------------------------- MinHash


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_signatures_estimate_the_jaccard_similarity(similarity):
    draw = np.random.default_rng(1)
    errors = []
    for _ in range(50):
        union = draw.integers(0, 2**64, 400, np.uint64)
        shared = round(similarity * 400)
        half = (400 - shared) // 2
        first, second = union[: shared + half], np.concatenate([union[:shared], union[shared + half :]])
        errors.append((signature(first) == signature(second)).mean() - similarity)
    spread = (similarity * (1 - similarity) / PERMUTATIONS) ** 0.5
    assert abs(np.mean(errors)) < 4 * spread / 50**0.5
    assert np.std(errors) < 1.5 * spread


def test_a_signature_does_not_hang_on_order_repetition_or_chunks():
    hashes = np.random.default_rng(2).integers(0, 2**64, 1000, np.uint64)
    assert np.array_equal(signature(hashes), signature(np.concatenate([hashes[::-1], hashes[:300]])))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 1.0])
def test_bands_meet_as_often_as_promised(threshold):
    rows = rows_of_a_band(threshold)
    assert 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= RECALL
    assert rows_of_a_band(1.0) == PERMUTATIONS


def test_near_duplicates_are_found_among_thousands_that_share_a_template():
    draw = random.Random(3)
    template = [f"т{n}" for n in range(60)]
    texts = []
    for number in range(1500):
        words = [*template, *(f"с{draw.randrange(10**9)}" for _ in range(40))]
        texts.append(words if number % 3 else texts[-1][:-2] if texts else words)
    index = Signatures(0.8)
    found = [
        index.find_or_add(signature(window_hashes(words_of([" ".join(words)]).hashes, SHINGLE))) for words in texts
    ]
    copies = found[3::3]
    assert sum(copies) >= 0.97 * len(copies)
    assert not any(found[1::3]) and not any(found[2::3])
