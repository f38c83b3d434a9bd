"""Minimal pairs: what is spoilt and what is left alone, balance, floors."""

import pytest

pytest.importorskip("pymorphy3", reason="needs the extra eval")

from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.materials import Materials, Text
from shridhar_ft.evaluation.ngrams import Ngrams
from shridhar_ft.evaluation.pairs import Pair, pairs_of
from shridhar_ft.evaluation.ru_pairs import Settings, balanced, make, won


def never(word: str) -> int:
    return 0


def spoilt(sentence: str, paradigm: str) -> list[Pair]:
    return [pair for pair in pairs_of(sentence, never) if pair.paradigm == paradigm]


@pytest.mark.parametrize(
    ("sentence", "paradigm", "word"),
    [
        ("Он долго смотрел на доброго человека и молчал.", "adjective_noun", "доброго"),
        ("Вчера вечером старик вышел из дома и пропал.", "subject_verb", "вышел"),
        ("Старый мельник из дальней деревни пришел поздно вечером.", "subject_verb_far", "пришел"),
        ("Он читал вслух письмо, которое пришло из города.", "relative", "которое"),
        ("Они долго жили в степи без воды и хлеба.", "preposition_case", "воды"),
        ("Потом она опять стала писать длинные письма домой.", "aspect", "писать"),
        ("Никто не пришёл к нему в тот долгий вечер.", "negation", "не"),
    ],
)
def test_each_paradigm_spoils_the_word_it_should(sentence: str, paradigm: str, word: str) -> None:
    (pair,) = spoilt(sentence, paradigm)
    assert pair.good == sentence != pair.bad
    assert pair.good_word == word
    if paradigm == "negation":
        assert sorted(pair.good.split()) == sorted(pair.bad.split())
    else:
        assert pair.bad == sentence.replace(word, pair.bad_word, 1)


@pytest.mark.parametrize(
    ("sentence", "paradigm"),
    [
        ("Брат и сестра вышли из дома поздно вечером.", "subject_verb"),  # «сестра вышла» would be right elsewhere
        ("Никто мог не знать об этом деле вовсе.", "negation"),
        ("Стало быть, он уже давно уехал отсюда.", "aspect"),
        ("Он жил в доме с друзьями.", "preposition_case"),  # both prepositions take several cases
    ],
)
def test_what_is_in_doubt_is_left_alone(sentence: str, paradigm: str) -> None:
    assert spoilt(sentence, paradigm) == []


def test_the_commonest_spoilt_form_is_taken() -> None:
    sentence = "Они долго жили в степи без воды и хлеба."
    pairs = pairs_of(sentence, lambda word: {"воду": 7, "водой": 3}.get(word, 0))
    assert next(pair for pair in pairs if pair.paradigm == "preposition_case").bad_word == "воду"


def test_balance_leaves_nothing_to_counting() -> None:
    pairs = [
        Pair("p", f"предложение {n}", f"спорченное {n}", "часто" if n < 30 else "редко", "средне") for n in range(50)
    ]
    counts = {"часто": 9, "средне": 5, "редко": 1}
    kept = balanced(pairs, counts.__getitem__, 100, 1)
    right = [counts[pair.good_word] > counts[pair.bad_word] for pair in kept]
    assert len(kept) == 40
    assert sum(right) == 20


def test_a_tie_is_half() -> None:
    assert [won(bad, good) for bad, good in ((2.0, 1.0), (1.0, 2.0), (1.0, 1.0))] == [1.0, 0.0, 0.5]


def test_bigrams_know_neighbours_and_unigrams_do_not() -> None:
    counts = Ngrams(["белый снег лежал\nбелая зима пришла\nбелый снег белая"])
    assert counts.bigram("белый снег") > counts.bigram("белая снег")
    assert counts.unigram("белый снег") == pytest.approx(counts.unigram("белая снег"))
    assert counts.count("Снег") == 2


def test_records_agree_with_a_direct_computation(tokenizer, llama, corpus: list[str]) -> None:
    import torch

    reader = HfReader(llama(), tokenizer, "tiny", "")
    texts = Materials(held_out=[Text("книга", text) for text in corpus], train=[Text("книга", corpus[1])])
    task = make(Settings(each=10), texts, 1)
    items = task.items(reader)[:8]
    assert len(items) >= 4
    for item, record in zip(items, task.measure(reader, items), strict=True):
        for side in ("good", "bad"):
            ids = torch.tensor([[*reader.opening, *reader.encode(item[side])]])
            with torch.no_grad():
                loss = reader.model(ids, labels=ids, use_cache=False).loss
            assert record[side] == pytest.approx(float(loss) * (ids.shape[1] - 1), rel=1e-4)
        assert record["sum"] == float(record["good"] < record["bad"])
