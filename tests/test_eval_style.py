"""The verifier on two invented authors, the copy guard, the normalised score, Delta."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from shridhar_ft.evaluation.materials import Materials, Text, Unmeasured
from shridhar_ft.evaluation.measures import score
from shridhar_ft.evaluation.nonsense import BABBLED, SHUFFLED, Babble, shuffled
from shridhar_ft.evaluation.style import Judge, Settings, cut, make
from shridhar_ft.evaluation.verifier import Features, Verifier, auc, cosine_delta

HABITS = {
    "наш": ("и вот", "потому что", "не то чтобы", "как бы", "тоже"),
    "второй": ("однако", "впрочем", "ибо", "сей", "дабы"),
    "третий": ("ну", "значит", "это самое", "вроде", "короче"),
    "четвертый": ("следовательно", "во-первых", "вообще", "таким образом", "отчасти"),
}
SUBJECTS = ("дом", "лес", "сад", "река", "день", "ночь", "друг", "путь", "свет", "дождь", "город", "поле")


def written(author: str, word_count: int, seed: int) -> str:
    draw = np.random.default_rng(seed)
    said = []
    while len(" ".join(said).split()) < word_count:
        said.append(f"{draw.choice(HABITS[author])} {draw.choice(SUBJECTS)} {draw.choice(SUBJECTS)}")
    return ", ".join(said) + "."


@pytest.fixture(scope="module")
def texts() -> Materials:
    return Materials(
        train=[Text("книга", written("наш", 4000, 1))],
        calibration=[Text("книга", written("наш", 4000, 2))],
        held_out=[Text("книга", written("наш", 2000, 3))],
        others=[Text(name, written(name, 2000, seed)) for seed, name in enumerate(list(HABITS)[1:], start=10)],
    )


@pytest.fixture(scope="module")
def judge(texts: Materials) -> Judge:
    return Judge(texts, 100, seed=1)


def test_the_author_is_told_from_others(judge: Judge) -> None:
    own = judge.accepts(list(cut(written("наш", 8000, 99), 100)))
    # Nine tenths by the threshold, and less where the author is himself a chain of word pairs, as this one is.
    assert own.mean() > 0.65
    assert judge.others_accepted < 0.2
    assert judge.auc > 0.95
    assert set(judge.by_author) == set(HABITS) - {"наш"}


def test_the_dual_solution_is_that_of_plain_gradient_descent() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(40, 12)).astype(np.float32)
    labels = rows[:, 0] + 0.3 * draw.normal(size=40) > 0
    found = Verifier(rows, labels)
    x, y = rows.astype(np.float64), labels.astype(float)
    weights = 40 * np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    w, b = np.zeros(12), 0.0
    for _ in range(20_000):
        gap = weights * (1 / (1 + np.exp(-(x @ w + b))) - y)
        w, b = w - 0.02 * (x.T @ gap + w), b - 0.02 * gap.sum()
    assert np.allclose(found.score(rows), x @ w + b, atol=1e-3)


def test_copies_are_found(judge: Judge, texts: Materials) -> None:
    stolen, own = texts.train[0].text[500:1500], written("наш", 150, 77)
    (stolen_found, stolen_runs), (own_found, own_runs) = judge.copied([stolen, own])
    assert stolen_found >= stolen_runs - 2
    assert own_found < 0.1 * own_runs


def test_topic_is_masked(texts: Materials) -> None:
    features = Features([f"и вот {word}" for word in ("дом",) * 600])
    assert features.masked("И вот Ёжик") == "и вот ****"


def test_delta_names_the_author(texts: Materials) -> None:
    profiles = {name: written(name, 6000, seed) for seed, name in enumerate(HABITS)}
    nearest, *_ = cosine_delta(written("второй", 6000, 50), profiles)
    assert nearest[0] == "второй"


def test_auc() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_the_score_is_one_for_true_continuations_and_zero_for_others(texts: Materials) -> None:
    task = make(Settings(words=100, opening_words=20), texts, 1)
    true = list(cut(written("наш", 4000, 30), 100))
    for said, wanted in ((true, 1.0), (list(cut(written("третий", 4000, 31), 100)), 0.0)):
        records = [{"key": str(i), "said": a, "true": b} for i, (a, b) in enumerate(zip(said, true, strict=False))]
        rows, details = task.judged(records, [])
        found = {measure.name: score(measure, rows, 1) for measure in task.measures(rows)}
        task.scores(rows, found, [])
        assert found["style acceptance S"].value == pytest.approx(wanted, abs=0.15)
        assert found["accepted as the author's"].ceiling > 0.5
        assert "delta" in details


def test_a_verifier_that_tells_nothing_makes_no_score(texts: Materials) -> None:
    task = make(Settings(words=100, opening_words=20), texts, 1)
    others = list(cut(written("третий", 3000, 31), 100))
    records = [{"key": str(i), "said": text, "true": text} for i, text in enumerate(others)]
    rows, _ = task.judged(records, [])
    found = {measure.name: score(measure, rows, 1) for measure in task.measures(rows)}
    task.scores(rows, found, [])
    assert np.isnan(found["style acceptance S"].value)
    assert "undefined: the verifier accepts" in found["style acceptance S"].lacking


def test_too_few_authors_are_refused(tokenizer, llama, texts: Materials) -> None:
    from shridhar_ft.evaluation.hf_reader import HfReader

    reader = HfReader(llama(), tokenizer, "tiny", "")
    with pytest.raises(Unmeasured, match="two other authors"):
        make(Settings(), Materials(held_out=texts.held_out, others=texts.others[:1]), 1).items(reader)


def test_the_authors_words_without_sense_are_among_the_others(judge: Judge, texts: Materials) -> None:
    assert set(judge.nonsense) == {SHUFFLED, BABBLED}
    assert judge.nonsense[SHUFFLED] < 0.2, "the same words in another order are not the author's"
    draw = Random(1)
    own = written("наш", 500, 5)
    assert sorted(shuffled(own, draw).split()) == sorted(own.split())
    said = Babble([own])(300, draw).split()
    pairs = {(a, b) for a, b in pairwise(own.split())}
    assert len(said) == 300 and sum(pair in pairs for pair in pairwise(said)) > 280


@pytest.mark.parametrize(("nonsense", "target"), [(0.6, "at least 0.85"), (0.95, "none here")])
def test_accepted_nonsense_is_a_floor_and_is_said(texts: Materials, nonsense: float, target: str) -> None:
    task = make(Settings(words=100, opening_words=20), texts, 1)
    rows = [{"said/accepted": 1.0, "true/accepted": 1.0, "floor/accepted": 0.1, "nonsense/accepted": nonsense}]
    rows = [
        {**rows[0], "key": str(n), "said/copied": 0, "said/runs": 9, "true/copied": 0, "true/runs": 9} for n in "ab"
    ]
    found = {measure.name: score(measure, rows, 1) for measure in task.measures(rows)}
    task.scores(rows, found, [])
    accepted = found["accepted as the author's"]
    assert (accepted.floor, accepted.floor_of) == (nonsense, "the author's own words without sense")
    normalised = found["style acceptance S"]
    assert normalised.floor == pytest.approx((nonsense - 0.1) / 0.9) and normalised.floor_of == accepted.floor_of
    assert normalised.target.startswith(target), "what knows no sense must not be able to keep the promise"


def test_prompts_begin_at_a_word(tokenizer, llama, texts: Materials) -> None:
    from shridhar_ft.evaluation.hf_reader import HfReader

    reader = HfReader(llama(max_position_embeddings=2048), tokenizer, "tiny", "")
    task = make(Settings(prompts=6, words=30, opening_words=20), texts, 1)
    items = task.items(reader)
    lengths = [len(item["prompt"]) for item in items]
    assert lengths == sorted(lengths) and lengths[-1] - lengths[0] < 20
    for item in items:
        words = reader.decode(item["prompt"]).split()
        assert words == item["opening"].split()[-len(words) :]
    assert "openings are cut on the left, at a word" in task.notes[0]
    assert [record["key"] for record in task.measure(reader, items[:4])] == [item["key"] for item in items[:4]]
