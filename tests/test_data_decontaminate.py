"""Splits that do not leak: planted quotations, templates, cuts in conversations; judged by plain Python."""

import random
import re
from collections import Counter
from textwrap import fill

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Duplicates, Split
from shridhar_ft.data.blocks import block_limit, cut_blocks
from shridhar_ft.data.decontaminate import STANDS_IN_HELD_OUT, STANDS_IN_TRAIN, Where, decontaminate
from shridhar_ft.data.duplicates import DuplicateFinder
from shridhar_ft.data.excise import cut_conversation, excise_block
from shridhar_ft.data.hashset import HashSet, Lookup
from shridhar_ft.data.overlap import RUN, run_hashes
from shridhar_ft.data.records import Document, Message
from shridhar_ft.data.rows import RowStream, block_row, dialogue_row, read_stream
from shridhar_ft.data.split import SPLITS, assign, content_key
from shridhar_ft.data.top_up import shares_to_move

WORD = re.compile(r"\w+")


def plain_runs(text):
    words = WORD.findall(text.lower())
    return {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}


def text_of(row):
    return row["text"] or "\n".join(turn["content"] for turn in row["messages"])


def runs_in(rows):
    return set().union(*(plain_runs(text_of(row)) for row in rows))


def write(folder, rows):
    """Streams of rows by split."""
    for split in SPLITS:
        with RowStream(folder / f"{split}.arrow") as stream:
            for row in rows[split]:
                stream.append(row, len(text_of(row)))


def read(folder):
    return {s: [row for batch in read_stream(folder / f"{s}.arrow") for row in batch.to_pylist()] for s in SPLITS}


def is_clean(rows):
    return not runs_in(rows["train"]) & (runs_in(rows["validation"]) | runs_in(rows["test"]))


def block(work, number, text):
    return block_row(Document(f"{work}.txt", work, work, ""), number, text, "Глава")


def talk(*texts, system=None):
    turns = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    return [Message("system", system), *turns] if system else turns


def dialogue(id_, *texts, system=None):
    return dialogue_row("d.jsonl", id_, talk(*texts, system=system))


def words(seed, count=20):
    draw = random.Random(f"words {seed}")
    return " ".join(f"с{draw.randrange(10**9)}" for _ in range(count)).capitalize() + "."


def characters(rows):
    return sum(len(row["text"]) + sum(len(turn["content"]) for turn in row["messages"]) for row in rows)


def unwanted(*texts):
    return Lookup(HashSet(map(run_hashes, texts)).sorted())


# ---------------------------------------------------------------------------------------- a planted shelf

FRONT = "Издательство просит присылать отзывы об этой книге по адресу, который стоит на последней её странице внизу."


def a_work(seed, chapters=12, paragraphs=10):
    draw = random.Random(f"work {seed}")
    return [
        f"Глава {chapter + 1}\n\n"
        + "\n".join(
            " ".join(words(f"{seed} {chapter} {number} {n}", draw.randint(8, 25)) for n in range(draw.randint(1, 4)))
            for number in range(paragraphs)
        )
        for chapter in range(chapters)
    ]


def verbatim(chapter):
    return chapter


def rewrapped(chapter):
    """Lines of other lengths, several paragraphs in one."""
    tokens = chapter.split()
    return "\n".join(" ".join(tokens[at : at + 37]) for at in range(0, len(tokens), 37))


def lightly_edited(chapter):
    return "\n".join(
        " ".join(f"иное{n}{word[-4:]}" if n % 20 == 19 else word for n, word in enumerate(line.split(" ")))
        for line in chapter.split("\n")
    )


def inside_new_words(chapter):
    return "\n".join(f"{words(n, 30)} {line} {words(-n, 30)}" for n, line in enumerate(chapter.split("\n")) if line)


def shelf(quote, first="a"):
    """Two works of which one holds a quarter of the other, and a third; all with the same front matter."""
    original = a_work("original")
    other = a_work("other")
    for place, chapter in zip((2, 6, 9), (1, 4, 10), strict=True):
        other.insert(place, quote(original[chapter]))
    names = ("a", "b") if first == "a" else ("b", "a")
    works = dict(zip(names, (original, other), strict=True)) | {"c": a_work("third")}
    return {name: FRONT + "\n\n" + "\n\n".join(works[name]) for name in sorted(works)}


def deal(works, split, folder):
    """What a build does with works."""
    seen = DuplicateFinder(Duplicates())
    rows = {name: [] for name in SPLITS}
    for name, text in works.items():
        blocks = cut_blocks(text, block_limit(len(text), split))
        drawn = assign([(content_key(one), len(one)) for one in blocks], split, group=name)
        for number, (where, one) in enumerate(zip(drawn, seen.without_repeats(blocks)[0], strict=True)):
            if one:
                rows[where].append(block(name, number, one))
    write(folder, rows)
    return rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("quote", [verbatim, rewrapped, lightly_edited, inside_new_words])
def test_no_run_of_a_planted_shelf_stands_in_train_and_elsewhere(tmp_path, quote, first, seed):
    split = Split(seed=seed)
    before = deal(shelf(quote, first), split, tmp_path)
    assert all(before.values())
    done = decontaminate(tmp_path, split)
    after = read(tmp_path)
    assert is_clean(after)
    assert [after[name] for name in SPLITS[1:]] == [before[name] for name in SPLITS[1:]], "held-out books stay"
    gone = {name: characters(before[name]) - characters(after[name]) for name in SPLITS}
    assert gone["train"] == sum(loss.removed.total() for loss in done.losses.values())
    assert gone["train"] < 0.15 * characters(before["train"])
    if quote in (verbatim, rewrapped):  # the copies went as duplicates already
        assert gone["train"] < 0.02 * characters(before["train"])
    total = sum(map(characters, after.values()))
    assert characters(after["train"]) / total == pytest.approx(0.8, abs=0.06)


def test_a_shelf_without_repeats_comes_out_as_it_went_in(tmp_path):
    rows = deal({"a": "\n\n".join(a_work("one")), "b": "\n\n".join(a_work("two"))}, Split(), tmp_path)
    done = decontaminate(tmp_path, Split())
    assert read(tmp_path) == rows
    assert (done.losses, done.examples, done.moved, done.between_held_out) == ({}, [], [], 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.arrow", "train.arrow", "validation.arrow"]


@pytest.mark.parametrize("added", ["0", "z"])
def test_nothing_moves_when_a_work_is_added(tmp_path, added):
    works = shelf(verbatim)
    split = Split()
    before = deal(works, split, tmp_path)
    with_more = {added: works["b"][:9000] + "\n\n" + "\n\n".join(a_work("new")), **works}
    after = deal(dict(sorted(with_more.items())), split, tmp_path)
    places = {row["id"]: name for name in SPLITS for row in before[name]}
    found = {row["id"]: name for name in SPLITS for row in after[name] if row["work"] != added}
    assert found.items() <= places.items()
    if added == "z":
        assert found == places
    else:
        assert len(found) > 0.8 * len(places), "blocks whose text stands in the new work first are gone"


# --------------------------------------------------------------------------------------------------- rules


def test_only_the_sentences_go_that_a_run_touches():
    shared = words("shared", 15)
    text = f"Глава\n\n{words(1)} {shared} {words(2)}\n{words(3)}\n\n{shared}\n\n{words(4)}"
    assert excise_block(text, unwanted(shared)) == (
        f"Глава\n\n{words(1)} {words(2)}\n{words(3)}\n\n{words(4)}",
        [shared, shared],
    )


def test_a_sentence_of_a_wrapped_book_goes_over_its_lines():
    shared = words("shared", 15)
    text = "\n\n".join(
        fill(f"{words(n, 20)} {shared if n == 1 else words(-n)} {words(n + 9, 20)}", 60) for n in range(3)
    )
    rest, gone = excise_block(text, unwanted(shared))
    assert [one.replace("\n", " ") for one in gone] == [shared]
    assert "\n" in gone[0]
    assert rest.replace("\n", " ") == text.replace("\n", " ").replace(f"{shared} ", "")
    assert rest.count("\n\n") == 2


def test_a_block_of_which_most_would_go_goes_whole():
    shared = words("shared", 40)
    assert excise_block(f"{words(1, 30)} {shared}", unwanted(shared)).text == ""
    assert excise_block(f"{words(1, 50)} {shared}", unwanted(shared)).text == words(1, 50)


def test_a_run_that_forms_where_text_went_goes_too():
    left, right, shared = words("left", 7)[:-1], words("right", 7), words("shared", 15)
    text = f"{words(1, 40)} {left}. {shared} {right} {words(2, 40)}"
    rest, gone = excise_block(text, unwanted(shared, f"{left} {right}"))
    assert rest == f"{words(1, 40)} {words(2, 40)}"
    assert len(gone) == 3


VOCABULARY = [f"{letter}." for letter in "абв"] + list("абв") + ["А", "\n", "\n\n"]


@given(*[st.lists(st.sampled_from(VOCABULARY), max_size=60).map(" ".join)] * 2)
def test_no_unwanted_run_is_left_in_any_block(text, held):
    rest, gone = excise_block(text, unwanted(held))
    assert not plain_runs(rest) & plain_runs(held)
    assert Counter(WORD.findall(rest)) + Counter(WORD.findall(" ".join(gone))) == Counter(WORD.findall(text))


TURN = st.lists(st.sampled_from("абв"), min_size=1, max_size=16).map(" ".join)


@given(st.lists(TURN, min_size=2, max_size=12), st.one_of(st.none(), TURN), st.lists(TURN, max_size=4).map(" ".join))
def test_no_unwanted_run_is_left_in_any_conversation(texts, system, held):
    turns = talk(*texts[: len(texts) // 2 * 2], system=system)
    cut = cut_conversation(turns, unwanted(held))
    for piece in cut.pieces:
        assert not plain_runs("\n".join(turn.content for turn in piece)) & plain_runs(held)
        roles = [turn.role for turn in piece]
        assert roles[roles[0] == "system" :] == ["user", "assistant"] * (len(roles) // 2)
    spoken = [turn for turn in turns if turn.role != "system"]
    left = [turn for piece in cut.pieces for turn in piece if turn.role != "system"]
    assert len(spoken) - len(left) == 2 * cut.exchanges
    if not plain_runs("\n".join(turn.content for turn in turns)) & plain_runs(held):
        assert cut == ([turns], 0, 0, 0)


def test_what_stands_before_and_after_an_exchange_becomes_two_conversations(tmp_path):
    shared = words("shared")
    other = [words(n) for n in range(8)]
    rows = {
        "train": [dialogue("t", *other[:4], "Вопрос", shared, *other[4:], system="Отвечай кратко.")],
        "validation": [dialogue("v", "Иное?", shared)],
        "test": [],
    }
    write(tmp_path, rows)
    done = decontaminate(tmp_path, Split())
    after = read(tmp_path)
    assert after["train"] == [
        dialogue("t#1", *other[:4], system="Отвечай кратко."),
        dialogue("t#2", *other[4:], system="Отвечай кратко."),
    ]
    assert after["validation"] == rows["validation"]
    loss = done.losses[Where("dialogues", "d.jsonl", "train")]
    assert loss.removed == {STANDS_IN_HELD_OUT: len("Вопрос") + len(shared)}
    assert loss.added == {"copies of a system turn": len("Отвечай кратко.")}
    assert (loss.counts["exchanges"], loss.counts["conversations"], loss.rows) == (1, 0, 1)


def test_a_system_turn_that_all_share_goes_from_the_side_with_fewer():
    system = words("system", 30)
    cut = cut_conversation(talk(*map(words, range(4)), system=system), unwanted(system))
    assert cut == ([talk(*map(words, range(4)))], 0, 1, 0)


def test_a_system_turn_inside_stays_with_its_exchange():
    a, b, c = (talk(words(n), words(-n)) for n in (1, 2, 3))
    inside = Message("system", "Теперь короче.")
    turns = [Message("system", "Отвечай."), *a, *b, inside, *c]
    cut = cut_conversation(turns, unwanted(b[1].content))
    assert cut.pieces == [[turns[0], *a], [inside, *c]]
    assert cut.copied == 0


def test_that_side_loses_a_run_on_which_fewer_conversations_hold_it(tmp_path):
    often, once = words("often"), words("once")
    rows = {
        "train": [dialogue(f"t{n}", words(f"q{n}"), often) for n in range(5)] + [dialogue("t", words("q"), once)],
        "validation": [dialogue("v1", words("v1"), often, words("v2"), words("v3")), dialogue("v2", words("v4"), once)],
        "test": [dialogue("x", words("x"), often)],
    }
    write(tmp_path, rows)
    done = decontaminate(tmp_path, Split(train=0.8, validation=0.2, test=0.0))
    after = read(tmp_path)
    assert [row["id"] for row in after["train"]] == [f"t{n}" for n in range(5)]
    assert after["validation"] == [dialogue("v1", words("v2"), words("v3")), rows["validation"][1]]
    assert after["test"] == []
    assert done.losses[Where("dialogues", "d.jsonl", "test")].counts["conversations"] == 1
    assert done.losses[Where("dialogues", "d.jsonl", "validation")].removed[STANDS_IN_TRAIN] == len(words("v1") + often)


def test_a_run_that_a_cut_in_held_out_dialogues_forms_goes_from_train(tmp_path):
    system, question, often = words("system", 7), words("question", 8), words("often")
    rows = {
        "train": [
            *(dialogue(f"t{n}", words(f"q{n}"), often) for n in range(2)),
            dialogue("t", question, words("answer"), words("more"), words("end"), system=system),
        ],
        "validation": [dialogue("v", words("v"), often, question, words("other answer"), system=system)],
        "test": [],
    }
    write(tmp_path, rows)
    decontaminate(tmp_path, Split())
    after = read(tmp_path)
    assert after["validation"] == [dialogue("v", question, words("other answer"), system=system)]
    assert is_clean(after)
    assert after["train"][:2] == rows["train"][:2]


def test_books_and_dialogues_lose_what_the_other_holds_out(tmp_path):
    one, two, three = words("one"), words("two"), words("three")
    rest = words("rest", 60)
    rows = {
        "train": [
            block("a", 0, f"{rest}\n{one}"),
            *(dialogue(f"t{n}", words(f"q{n}"), two, words(f"r{n}"), words(f"s{n}")) for n in range(4)),
        ],
        "validation": [dialogue("v", words("v"), one), block("a", 1, f"{two}\n{three}")],
        "test": [block("a", 2, f"{words('end')}\n{three}")],
    }
    write(tmp_path, rows)
    done = decontaminate(tmp_path, Split())
    after = read(tmp_path)
    assert after["train"][0] == block("a", 0, rest)
    assert after["train"][1:] == [dialogue(f"t{n}", words(f"r{n}"), words(f"s{n}")) for n in range(4)]
    assert after["validation"] == rows["validation"] and after["test"] == rows["test"]
    assert done.examples == [("a", one)], "dialogues are not shown"
    assert done.between_held_out == len(plain_runs(three)), "what validation and test share is told"


# ------------------------------------------------------------------------------------- many with templates


def with_templates(seed, count=1200, templates=80):
    """Conversations of which two thirds of the answers repeat."""
    draw = random.Random(seed)
    for number in range(count):
        turns = []
        for turn in range(draw.randint(1, 6)):
            answer = draw.randrange(templates) if draw.random() < 2 / 3 else f"{seed} {number} {turn}"
            turns += [words(f"q {seed} {number} {turn}", 12), words(f"a {answer}", draw.choice((6, 16, 20)))]
        yield dialogue(f"{seed}-{number}", *turns)


@pytest.mark.parametrize("seed", range(3))
def test_shares_hold_where_two_thirds_of_the_answers_repeat(tmp_path, seed):
    split = Split(seed=seed)
    rows = list(with_templates(seed))
    drawn = assign([(content_key(text_of(row)), len(text_of(row))) for row in rows], split, "d.jsonl")
    write(tmp_path, {name: [row for row, one in zip(rows, drawn, strict=True) if one == name] for name in SPLITS})
    done = decontaminate(tmp_path, split)
    after = read(tmp_path)
    assert is_clean(after)
    total = sum(map(characters, after.values()))
    for name in SPLITS:
        assert characters(after[name]) / total == pytest.approx(getattr(split, name), abs=0.03)
    assert sum(one.conversations for one in done.moved) > 0
    assert characters(after["train"]) > 0.6 * characters(rows), "templates did not empty train"
    lost = sum(loss.removed.total() - loss.added.total() for loss in done.losses.values())
    assert characters(rows) - total == lost
    assert len(rows) + sum(loss.rows for loss in done.losses.values()) == sum(map(len, after.values()))
    ids = [row["id"] for name in SPLITS for row in after[name]]
    assert len(ids) == len(set(ids))
    moved_back = {row["id"].split("#")[0] for row in after["train"]} - {
        row["id"] for row, one in zip(rows, drawn, strict=True) if one == "train"
    }
    assert not moved_back, "conversations move from train to held-out splits only"


def test_decontaminating_twice_changes_nothing(tmp_path):
    rows = list(with_templates(9, count=300))
    write(tmp_path, {"train": rows[60:], "validation": rows[:30], "test": rows[30:60]})
    decontaminate(tmp_path, Split())
    once = read(tmp_path)
    again = decontaminate(tmp_path, Split(train=1, validation=0, test=0))
    assert read(tmp_path) == once and not again.losses


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.integers(1, 10**5), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_top_up_is_asked_for_only_where_a_split_is_short(train, validation, test, kept_first, kept_second):
    drawn = {"train": train, "validation": validation, "test": test}
    left = {"train": train, "validation": int(validation * kept_first), "test": int(test * kept_second)}
    shares = shares_to_move(left, drawn, Split())
    total = sum(left.values())
    wanted = {name: min(0.1, drawn[name] / sum(drawn.values())) for name in SPLITS[1:]}
    short = [name for name in SPLITS[1:] if left[name] < (wanted[name] - 0.01) * total]
    assert bool(shares) == bool(short and train and left["validation"] + left["test"])
    assert all(share >= 0 for share in shares.values()) and sum(shares.values()) <= 0.53
