"""Needles: where they stand, what answers them, that prompts fit, and what is made of hits and misses."""

import pytest

from shridhar_ft.evaluation.ends import REASONS
from shridhar_ft.evaluation.haystack import Haystack
from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.materials import Materials, Text, Unmeasured
from shridhar_ft.evaluation.needles import CHOICES, KINDS, is_right, placed, question
from shridhar_ft.evaluation.retention import Settings, default_lengths, effective_length, make


@pytest.fixture
def reader(tokenizer, llama) -> HfReader:
    return HfReader(llama(max_position_embeddings=1024), tokenizer, "tiny", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_by_its_chain_and_by_nothing_else(kind) -> None:
    for seed in range(20):
        asked = question(kind, seed)
        assert asked == question(kind, seed) != question(kind, f"{seed}x")
        assert len({asked.answer, *asked.wrong}) == CHOICES
        if kind != "two_fact":
            holding = [fact for fact in (*asked.chain, *asked.beside) if asked.answer.strip() in fact]
            assert len(holding) == 1
            assert holding[0] in asked.chain
        else:
            who = asked.chain[0].split()[0]
            assert asked.chain[1].startswith(who)
            assert not any(fact.startswith(who) for fact in asked.beside)


def test_needles_stand_where_they_should() -> None:
    units = [f"Слово {number}. " for number in range(100)]
    asked = question("variable", 3)
    for depth, place in ((0.0, 0), (0.5, 50), (1.0, 100)):
        text = placed(units, asked, depth, seed=1)
        before = text.split(asked.chain[-1])[0]
        assert before.count("Слово") == place
        places = [text.index(fact) for fact in asked.chain]
        assert places == sorted(places), "the chain keeps its order"
        assert all(fact in text for fact in asked.beside)
        assert text.count("Слово") == 100
    absent = placed(units, asked, 0.5, seed=1, with_answer=False)
    assert asked.answer.strip() not in absent


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        (" 48213.", " 48213", True),
        (" 48 213", " 48213", False),
        (" ровно 48213, и ни", " 48213", True),
        (" 4821", " 48213", False),
        (" на мельнице.", " на мельнице", True),
        (" На  мельнице", " на мельнице", True),
        (" в лесу", " в лёсу", True),
        (" где-то на мельнице", " на мельнице", False),
        ("", " 48213", False),
    ],
)
def test_what_counts_as_right(said: str, answer: str, right: bool) -> None:
    assert is_right(said, answer) is right


def test_prompts_fit_and_are_full(reader: HfReader, corpus: list[str]) -> None:
    haystack = Haystack([Text("книга", corpus[0])], reader)
    for kind in KINDS:
        for length in (512, 1024):
            ids = haystack.prompt(question(kind, 1), length, 0.5, seed=1, answer_tokens=16)
            assert 0.8 * length < len(ids) <= length - 16
            text = reader.decode(ids)
            assert all(fact in text for fact in question(kind, 1).chain)
            assert text.endswith(question(kind, 1).ask)
    with pytest.raises(Unmeasured, match="take"):
        haystack.prompt(question("variable", 1), 96, 0.5, seed=1, answer_tokens=16)
    with pytest.raises(Unmeasured, match=r"longer eval\.long_text"):
        haystack.stretch(10_000_000, seed=1)


def test_lengths_beyond_window_and_prose_are_left_out_with_a_word(reader: HfReader, corpus: list[str]) -> None:
    task = make(Settings(lengths=[512, 4096], depths=1, seeds=1), Materials(long_text=[Text("книга", corpus[0])]), 1)
    items = task.items(reader)
    assert {item["length"] for item in items} == {512}
    assert "beyond the window" in task.notes[0]
    short = make(Settings(lengths=[512], depths=1, seeds=1), Materials(long_text=[Text("книга", "Мало слов.")]), 1)
    with pytest.raises(Unmeasured, match="too few"):
        short.items(reader)


def test_effective_length_and_default_lengths() -> None:
    assert effective_length({4096: 1.0, 8192: 0.9, 16384: 0.8, 32768: 1.0}) == 8192
    assert effective_length({4096: 0.5, 8192: 0.45}) == 8192
    assert effective_length({4096: 0.0, 8192: 0.5}) is None
    assert default_lengths(8192) == [2048, 4096, 8192]
    assert default_lengths(108_000) == [4096, 8192, 16384, 32768, 65536, 108_000]


def test_scores_know_hits_floors_and_ceilings() -> None:
    task = make(Settings(), Materials(), 1)
    records = [
        {
            "key": f"{how}{length}{i}",
            "how": how,
            "kind": "single_key",
            "length": length,
            "depth": i / 9,
            "tokens": length,
        }
        | {"exact": hit, "choice": hit}
        for how, length, hits in (
            ("facts", 4096, 10),
            ("facts", 8192, 5),
            ("absent", 4096, 3),
            ("absent", 8192, 1),
            ("alone", 4096, 10),
            ("alone", 8192, 9),
        )
        for i, hit in enumerate([1.0] * hits + [0.0] * (10 - hits))
    ]
    from shridhar_ft.evaluation.measures import score

    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    details = task.scores(records, found, [])
    kept = found["retention at 8,192, exact"]
    assert (kept.value, kept.n) == (0.5, 20)
    assert kept.low < 0.5 < kept.high
    assert (kept.floor, kept.floor_of) == (0.1, "the facts left out at 8,192 tokens")
    near = found["needles at 4,096, exact"]
    assert (near.floor, near.ceiling) == (0.3, 1.0)
    at_end = found["single_key at 8,192, exact"]
    assert (at_end.floor, at_end.ceiling, at_end.n) == (0.1, 0.9, 10)
    assert details["exact"]["effective_length"] == {"single_key": 4096}
    assert details["exact"]["worst_depth"]["share"] == 0.0
    assert details["exact"]["heat_map"]["shares"][0] == [1.0] * 10
    assert details["exact"]["supported"] is False


def test_controls_are_measured_at_the_base_length_and_at_the_longest(reader: HfReader, corpus: list[str]) -> None:
    texts = Materials(long_text=[Text("книга", corpus[0])])
    items = make(Settings(kinds=["single_key"], lengths=[256, 512, 1024], depths=2, seeds=1), texts, 1).items(reader)
    held = {how: {item["length"] for item in items if item["how"] == how} for how in ("facts", "absent", "alone")}
    assert held == {"facts": {256, 512, 1024}, "absent": {256, 1024}, "alone": {256, 1024}}


def test_retention_from_nothing_is_undefined_and_says_so() -> None:
    from shridhar_ft.evaluation.measures import score

    task = make(Settings(), Materials(), 1)
    cells = [
        ("facts", 4096, 0.0),
        ("facts", 8192, 1.0),
        *((how, n, 0.0) for how in ("absent", "alone") for n in (4096, 8192)),
    ]
    records = [
        {
            "key": f"{how}{n}{i}",
            "how": how,
            "kind": "single_key",
            "length": n,
            "depth": i,
            "tokens": n,
            "exact": hit,
            "choice": hit,
        }
        for how, n, hit in cells
        for i in range(3)
    ]
    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    task.scores(records, found, [])
    kept = found["retention at 8,192, exact"]
    assert kept.lacking == "undefined: nothing was found at 4,096 tokens"
    assert kept.floor is None and kept.floor_of in REASONS
