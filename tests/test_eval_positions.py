"""Readings of a long text against a plain strided loop of transformers; floors; few windows; n-grams."""

from math import log

import numpy as np
import pytest
import torch

from shridhar_ft.evaluation.ends import NO_TEXT
from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.materials import Materials, Text
from shridhar_ft.evaluation.measures import Score, score
from shridhar_ft.evaluation.ngrams import GRAMS, CharacterGrams
from shridhar_ft.evaluation.positions import Settings, make

CONTEXT = 257  # of which one is the opening: half a window is 128 tokens


@pytest.fixture
def reader(tokenizer, llama) -> HfReader:
    return HfReader(llama(max_position_embeddings=CONTEXT), tokenizer, "tiny", "")


def measured(reader: HfReader, texts: Materials, **settings) -> tuple[list[dict], dict[str, Score]]:
    task = make(Settings(**settings), texts, 1)
    records = [record for item in task.items(reader) for record in task.measure(reader, [item])]
    found = {measure.name: score(measure, records, 1) for measure in task.measures(records)}
    task.scores(records, found, [])
    return records, found


def strided(reader: HfReader, ids: list[int], stride: int) -> float:
    """The loop of transformers' guide to perplexity: windows by `stride`, whose last `stride` tokens count."""
    body, losses, counted = CONTEXT - len(reader.opening), [], []
    for begin in range(0, len(ids) - body + 1, stride):
        window = torch.tensor([[*reader.opening, *ids[begin : begin + body]]])
        labels = window.clone()
        labels[:, :-stride] = -100
        with torch.no_grad():
            losses.append(float(reader.model(window, labels=labels, use_cache=False).loss) * stride)
        counted.append(stride)
    return sum(losses) / sum(counted)


def test_both_readings_are_those_of_a_plain_strided_loop(reader: HfReader, corpus: list[str]) -> None:
    text = corpus[0][:3000]
    _, found = measured(
        reader, Materials(long_text=[Text("книга", text)]), windows=1000, reading=["windows", "sliding"]
    )
    ids = reader.encode(text)
    for how, stride in (("windows", 256), ("sliding", 128)):
        wanted = strided(reader, ids, stride)
        assert found[f"loss ({how})"].value == pytest.approx(wanted, abs=1e-4)
        assert found[f"perplexity ({how})"].value == pytest.approx(np.exp(wanted), rel=1e-3)
        assert found[f"perplexity ({how})"].low <= found[f"perplexity ({how})"].value
    assert found["loss (windows)"].value != pytest.approx(found["loss (sliding)"].value, abs=1e-6)


def test_one_reading_may_be_named_alone() -> None:
    assert Settings(reading="sliding").reading == ["sliding"]
    assert Settings().reading == ["windows"]


def test_floors_are_counted_in_the_training_text(reader: HfReader, corpus: list[str]) -> None:
    long, train = [Text("книга", corpus[0][:3000])], [Text("другая", corpus[0][3000:9000])]
    _, bare = measured(reader, Materials(long_text=long), windows=2)
    assert (bare["loss (windows)"].floor, bare["loss (windows)"].floor_of) == (None, NO_TEXT)
    records, found = measured(reader, Materials(long_text=long, train=train), windows=2)
    grams = CharacterGrams([train[0].text])
    nats, tokens, size = np.array([record["grams"] for record in records]).sum(axis=0)
    assert found["loss (windows)"].floor_of == GRAMS
    assert found["loss (windows)"].floor == pytest.approx(nats / tokens)
    assert found["bits per byte (windows)"].floor == pytest.approx(nats / log(2) / size)
    ids = reader.encode(long[0].text)[: CONTEXT - 1]
    assert records[0]["grams"][0] == pytest.approx(grams.nats(reader.decode(ids)))


def test_one_window_is_resampled_by_its_blocks(reader: HfReader, corpus: list[str]) -> None:
    _, found = measured(reader, Materials(long_text=[Text("книга", corpus[0][:3000])]), windows=1)
    assert found["context gain"].n == found["late ÷ early loss"].n == 4
    assert found["context gain"].low < found["context gain"].value < found["context gain"].high
    whole = found["loss (windows)"]
    assert np.isnan(whole.low) and whole.lacking == "one item: no interval", "a window under 1,536 tokens is one block"


def test_character_grams_are_a_distribution_and_know_their_text() -> None:
    grams = CharacterGrams(["абракадабра"])
    known = sum(np.exp(-(grams.nats(f"абра{letter}") - grams.nats("абра"))) for letter in "абркд")
    unknown = np.exp(-(grams.nats("абраz") - grams.nats("абра")))
    assert known + unknown * (0x110000 - 5) == pytest.approx(1.0)
    assert grams.nats("абракадабра") < grams.nats("арбадакарба") < 11 * log(0x110000)
