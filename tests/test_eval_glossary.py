"""Glossary questions: alike rivals, four orders, what is scored, floors, and what is refused."""

import numpy as np
import pytest

from shridhar_ft.evaluation.glossary_questions import (
    NOTHING,
    Settings,
    defined,
    frequencies,
    make,
    orders,
)
from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.materials import Materials, Term, Text, Unmeasured
from shridhar_ft.evaluation.measures import score

TERMS = [
    Term(f"слово{chr(1072 + n)}", f"{'очень ' * (n % 5)}важное понятие под знаком {chr(1072 + n) * 3}")
    for n in range(24)
]


def texts() -> Materials:
    said = " ".join(term.term for n, term in enumerate(TERMS) for _ in range(n + 1))
    return Materials(train=[Text("книга", said)], glossary=[*TERMS, Term("без", "")])


@pytest.fixture
def reader(tokenizer, llama) -> HfReader:
    return HfReader(llama(max_position_embeddings=512), tokenizer, "tiny", "")


def test_both_directions_of_each_term_with_alike_rivals(reader: HfReader) -> None:
    task = make(Settings(terms=10), texts(), 1)
    items = task.items(reader)
    assert len(items) == 20 and len({item["key"] for item in items}) == 20
    lengths = sorted(len(term.definition) for term in TERMS)
    for item in items:
        assert len(set(item["choices"])) == 4
        if item["way"] == "definition":
            own, *others = map(len, item["choices"])
            spread = sorted(abs(length - own) for length in lengths)
            assert all(abs(other - own) <= spread[12] for other in others), "definitions of like length"
    assert items == make(Settings(terms=10), texts(), 1).items(reader)
    assert "only 10 terms are asked for" in task.notes[0]


def test_each_choice_stands_once_in_each_place() -> None:
    for first in range(4):
        assert {tuple(sorted(order)) for order in orders(first)} == {(0, 1, 2, 3)}
        assert all({order[place] for order in orders(first)} == {0, 1, 2, 3} for place in range(4))


def test_a_choice_is_scored_by_what_the_question_adds(reader: HfReader) -> None:
    task = make(Settings(terms=4), texts(), 1)
    item = next(item for item in task.items(reader) if item["way"] == "term")
    (record,) = task.measure(reader, [item])

    def log_p(before: str, choice: str) -> float:
        head, tail = reader.encode(before), reader.encode(f" {choice}")
        return -float(reader.nats([np.array([*reader.opening, *head, *tail])])[0][-len(tail) :].sum())

    right = 0
    for order in orders(item["first"]):
        listed = f"Термины: {', '.join(item['choices'][place] for place in order)}.\n"
        gains = [log_p(listed + item["question"], c) - log_p(listed + NOTHING["term"], c) for c in item["choices"]]
        right += gains.index(max(gains)) == 0
    assert record["right"] == right / 4
    assert item["choices"][0] not in item["question"]


def test_scores_have_floors_and_a_ceiling(reader: HfReader) -> None:
    task = make(Settings(terms=6), texts(), 1)
    items = task.items(reader)
    records = [record for at in range(0, len(items), 4) for record in task.measure(reader, items[at : at + 4])]
    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    assert set(found) == {"glossary: definition → term", "glossary: term → definition"}
    task.scores(records, found, [{**record, "right": 1.0} for record in records])
    for one in found.values():
        assert one.n == 6, "the four orders of a term are one item"
        assert (one.floor, one.floor_of) == (1.0, "the base model")
        assert one.ceiling is not None


def test_a_shared_word_is_a_floor(reader: HfReader) -> None:
    told = [Term(f"слово{chr(1072 + n)}", f"слов{chr(1072 + n)}{'абвгд'[n % 5]} здесь") for n in range(20)]
    told[0] = Term("смирение", "быть смиренным во всём")
    items = make(Settings(terms=20), Materials(glossary=told), 1).items(reader)
    assert {item["overlap"] for item in items if item["cluster"] == "смирение"} == {1.0}


def test_without_definitions_it_is_not_measured(reader: HfReader) -> None:
    with pytest.raises(Unmeasured, match="no glossary with definitions"):
        make(Settings(), Materials(glossary=[Term("карма", "")]), 1).items(reader)
    with pytest.raises(Unmeasured, match="defines 3 terms"):
        make(Settings(), Materials(glossary=TERMS[:3]), 1).items(reader)


def test_doubles_and_frequencies() -> None:
    twice = [Term("а", "одно"), Term("б", "Одно."), Term("а", "другое")]
    assert defined(twice) == [Term("а", "одно")]
    counted = frequencies(
        [Term("смирение духа", "x"), Term("карма", "y")], Materials(train=[Text("к", "смирения духом духа")])
    )
    assert counted == {"смирение духа": 1, "карма": 0}
