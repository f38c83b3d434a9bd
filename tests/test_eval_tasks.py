"""Dialogue, term cloze and the harness's items on a tiny model: what is asked, what is recorded, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymorphy3", reason="needs the extra eval")

from shridhar_ft.evaluation.dialogue import Settings as DialogueSettings
from shridhar_ft.evaluation.dialogue import make as make_dialogue
from shridhar_ft.evaluation.dialogue import repeated, same_language
from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.lm_eval import write_tasks
from shridhar_ft.evaluation.materials import Materials, Term, Text, Unmeasured, read_glossary
from shridhar_ft.evaluation.measures import score
from shridhar_ft.evaluation.reader import ending
from shridhar_ft.evaluation.ru_pairs import Settings as PairSettings
from shridhar_ft.evaluation.ru_pairs import make as make_pairs
from shridhar_ft.evaluation.suite import Wanted
from shridhar_ft.evaluation.term_cloze import Settings as TermSettings
from shridhar_ft.evaluation.term_cloze import lemma_of
from shridhar_ft.evaluation.term_cloze import make as make_terms

TERMS = ("терпение", "смирение", "молчание", "прощение", "доверие", "сомнение", "уныние", "учение")


@pytest.fixture
def reader(tokenizer, llama) -> HfReader:
    return HfReader(llama(max_position_embeddings=1024), tokenizer, "tiny", "")


def talks(count: int) -> list[list[dict[str, str]]]:
    return [
        [
            {"role": "user", "content": f"Что такое {TERMS[n % 8]}?"},
            {"role": "assistant", "content": f"Ответ {n}: тишина."},
        ]
        for n in range(count)
    ]


def books() -> Materials:
    lines = [
        f"Он часто думал про {term} и долго говорил с другом." for n, term in enumerate(TERMS) for _ in range(9 + n)
    ]
    return Materials(
        held_out=[Text("книга", "\n".join(f"{line[:-1]} номер {n}." for n, line in enumerate(lines)))],
        train=[Text("книга", "\n".join(lines))],
        glossary=[Term(term, f"слово для {n}") for n, term in enumerate(TERMS)],
    )


def test_dialogue_measures(reader: HfReader) -> None:
    task = make_dialogue(DialogueSettings(conversations=6, answer_tokens=8), Materials(dialogues=talks(8)), 1)
    items = task.items(reader)
    records = [record for item in items for record in task.measure(reader, [item])]
    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    task.scores(records, found, [])
    loss = found["loss on the assistant's words"]
    assert loss.low <= loss.value <= loss.high
    assert loss.floor is not None
    item, record = items[0], records[0]
    reader.read(item["prompt"])
    wanted = reader.after([*reader.encode(item["answer"]), reader.tokenizer.eos_token_id]).sum()
    assert record["nats"] == pytest.approx(float(wanted), rel=1e-5)
    assert found["answers in the right language"].ceiling == 1.0


def test_an_answer_ends_with_what_the_chat_template_closes_it_with(reader: HfReader) -> None:
    """Llama 3.1 lists the end of a text before that of a turn: the smallest of the ends is not the right one."""
    end = reader.tokenizer.eos_token_id
    other = next(token for token in range(end) if token not in reader.ends)
    reader.ends = {other, end}
    assert reader.closing() == [end]
    task = make_dialogue(DialogueSettings(conversations=6, answer_tokens=8), Materials(dialogues=talks(8)), 1)
    item = task.items(reader)[0]
    (record,) = task.measure(reader, [item])
    reader.read(item["prompt"])
    assert record["nats"] == pytest.approx(float(reader.after([*reader.encode(item["answer"]), end]).sum()), rel=1e-5)
    reader.ends = {other}
    assert reader.closing() == []
    task.items(reader)
    assert any("no token that ends one" in note for note in task.notes)


@pytest.mark.parametrize(
    ("first", "second", "ends", "wanted"),
    [
        ([1, 7, 5, 9, 3], [1, 8, 8, 5, 9, 3], {3, 9}, [9]),  # the first one behind the answer
        ([9, 1, 7, 5, 9], [9, 1, 8, 5, 9], {2, 9}, [9]),
        ([9, 1, 7, 5], [9, 1, 8, 5], {9}, []),  # not one that stands before the answer
    ],
)
def test_the_end_of_an_answer(first: list[int], second: list[int], ends: set[int], wanted: list[int]) -> None:
    assert ending([first, second], ends) == wanted


def test_sentences_beyond_the_window_are_refused_and_never_scored(tokenizer, llama) -> None:
    short = HfReader(llama(max_position_embeddings=16), tokenizer, "short", "")
    pair = {"key": "1", "set": "own", "paradigm": "p", "cluster": "c", "unigram": 0.5, "bigram": 0.5}
    sentence = "Он часто думал про терпение и долго говорил с другом."
    with pytest.raises(Unmeasured, match="the model's window 16"):
        list(make_pairs(PairSettings(), Materials(), 1).measure(short, [{**pair, "good": sentence, "bad": sentence}]))
    task = make_terms(TermSettings(items=30), books(), 1)
    with pytest.raises(Unmeasured, match="the model's window 16"):
        list(task.measure(short, task.items(short)[:1]))
    with pytest.raises(AssertionError, match="beyond the window"):
        short.nats([np.arange(17)])


def test_definitions_that_do_not_fit_are_left_out_of_the_ceiling(reader: HfReader) -> None:
    texts = books()
    texts.glossary = [Term(term.term, "слово " * (600 if n == 0 else 1)) for n, term in enumerate(texts.glossary)]
    task = make_terms(TermSettings(items=30), texts, 1)
    records = list(task.measure(reader, task.items(reader)))
    opened = [record["open"] for record in records]
    assert any(value is None for value in opened) and any(value is not None for value in opened)
    (measure,) = task.measures(records)
    found = score(measure, records, 1)
    notes = task.scores(records, {measure.name: found}, [])["notes"]
    assert any("too long ones" in note for note in notes)


def test_dialogue_needs_conversations_and_a_template(reader: HfReader) -> None:
    with pytest.raises(Unmeasured, match="0 held-out conversations"):
        make_dialogue(DialogueSettings(), Materials(), 1).items(reader)
    template, reader.tokenizer.chat_template = reader.tokenizer.chat_template, None
    try:
        with pytest.raises(Unmeasured, match="no chat template"):
            make_dialogue(DialogueSettings(), Materials(dialogues=talks(8)), 1).items(reader)
    finally:
        reader.tokenizer.chat_template = template


def test_repetition_and_language() -> None:
    assert repeated("раз два три четыре пять шесть") == 0
    assert repeated("да да да да да да да да") == pytest.approx(0.8)
    assert same_language("Hello, how are you", "Здравствуй") == 0
    assert same_language("Здравствуй, friend", "Да") == 1
    assert same_language("123", "Да") == 0


def test_term_cloze_offers_terms_of_one_form(reader: HfReader) -> None:
    task = make_terms(TermSettings(items=30), books(), 1)
    items = task.items(reader)
    assert len(items) == 30
    for item in items:
        assert len(set(item["words"])) == len(set(item["choices"])) == 4
        assert all(lemma_of(word) in TERMS for word in item["words"])
        assert item["good"] == item["choices"][0]
    records = [record for item in items[:8] for record in task.measure(reader, [item])]
    whole, alone = (
        [-reader.nats([np.array([*reader.opening, *reader.encode(text)])])[0].sum() for text in texts]
        for texts in (items[0]["choices"], items[0]["words"])
    )
    gains = [a - b for a, b in zip(whole, alone, strict=True)]
    assert records[0]["right"] == float(gains.index(max(gains)) == 0)
    (measure,) = task.measures(records)
    found = score(measure, records, 1)
    task.scores(records, {measure.name: found}, [])
    assert found.floor >= 0.25
    assert found.ceiling_of.startswith("definitions in the context")


def test_rivals_are_near_and_unseen_terms_stand_apart(reader: HfReader) -> None:
    texts = books()
    often = " ".join(["Думал про мнение."] * 400)
    texts.train += [Text("книга", often)]
    texts.glossary += [Term("мнение", "x"), Term("старание", "y"), Term("святое имя", "z")]
    texts.held_out += [
        Text("книга", "\n".join(f"Он часто думал про старание и долго спал {n} ночей." for n in range(6)))
    ]
    task = make_terms(TermSettings(items=30), texts, 1)
    items = task.items(reader)
    seen, unseen = ([item for item in items if item["seen"] == which] for which in (True, False))
    assert len(seen) >= 20 and unseen and {item["cluster"] for item in unseen} == {"старание"}
    assert not any("мнение" in item["words"] for item in seen), "forty times as common as the others"
    assert "1 glossary terms of several words are left out: no other takes their form" in task.notes
    records = [{**item, "right": float(item["seen"]), "plain": 0.0, "open": None} for item in items]
    (measure,) = task.measures(records)
    found = score(measure, records, 1)
    details = task.scores(records, {measure.name: found}, [])
    assert found.value == 1.0, "unseen terms are no part of the score"
    assert details["unseen terms"]["right"] == 0.0 and details["unseen terms"]["n"] == len(unseen)


def test_a_glossary_is_read_with_and_without_definitions(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("Бхакти — преданность\n\nсанкхья: счёт\nкарма\n", encoding="utf-8")
    assert read_glossary(tmp_path / "g.txt") == [
        Term("бхакти", "преданность"),
        Term("санкхья", "счёт"),
        Term("карма", ""),
    ]


def test_items_for_the_harness(reader: HfReader, tmp_path: Path) -> None:
    suite = [Wanted("term_cloze", TermSettings(items=25)), Wanted("dialogue", DialogueSettings())]
    said = write_tasks(reader, suite, books(), tmp_path, 1)
    assert said["tasks"] == {"term_cloze": 25}
    assert "no way" in said["left_out"]["dialogue"]
    assert (tmp_path / "utils.py").is_file()
    file = tmp_path / "term_cloze.jsonl"
    assert f'test: "{file.resolve().as_posix()}"' in (tmp_path / "term_cloze.yaml").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 25
    assert all(len(row["texts"]) == 8 and row["tokens"] < 1024 for row in rows)
