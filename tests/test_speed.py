"""Timing prefill and decode at depths: the filled window is what a read one would be, and scores have both bounds."""

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from shridhar_ft.evaluation.measures import score
from shridhar_ft.evaluation.speed import Settings, Speed
from shridhar_ft.model.build import build_model
from shridhar_ft.model.interface import SDPA
from shridhar_ft.speed.bounds import memory_rate
from shridhar_ft.speed.hf import TimedTransformers
from shridhar_ft.speed.timing import SEED_TOKENS, time_at

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


@pytest.fixture(scope="module")
def llama():
    return build_model(LlamaConfig(**SIZES, tie_word_embeddings=True), 0, "sdpa").eval()


def test_a_filled_window_holds_the_keys_that_were_read(llama) -> None:
    timed = TimedTransformers(llama)
    each = timed.at(SEED_TOKENS + 100)
    keys = timed._cache.layers[0].keys
    assert keys.shape == (1, 2, SEED_TOKENS + 100, 8)
    assert torch.equal(keys[:, :, :100], keys[:, :, SEED_TOKENS:]), "the first tokens are repeated"
    assert each == 2 * 2 * 2 * 8 * 4, "layers × (keys and values) × heads × head size × float32"
    timed.read(np.arange(5))
    assert timed._cache.get_seq_length() == SEED_TOKENS + 105
    timed.at(0)
    assert timed._cache.get_seq_length() == 0


def test_layers_that_slide_keep_their_window_only() -> None:
    config = Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
    )
    timed = TimedTransformers(build_model(config, 0, "sdpa").eval())
    timed.at(700)
    assert timed._cache.layers[0].keys.shape[2] < 64 < timed._cache.layers[1].keys.shape[2] == 700
    timed.draw(7)
    assert timed._cache.get_seq_length() == 701


def test_a_depth_as_long_as_the_seed_is_what_reading_it_leaves(llama) -> None:
    timed = TimedTransformers(llama)
    timed.at(SEED_TOKENS)
    filled = timed._cache.layers[1].values.clone()
    timed.at(0)
    timed.read(np.random.default_rng(1).integers(0, 300, SEED_TOKENS))
    assert torch.allclose(filled, timed._cache.layers[1].values, atol=1e-6)


def test_weights_count_the_head_once_and_the_table_of_an_untied_embedding_not(llama) -> None:
    tied = TimedTransformers(llama)
    assert tied.parameters == llama.num_parameters()
    model = build_model(LlamaConfig(**SIZES, tie_word_embeddings=False), 0, "sdpa").eval()
    untied = TimedTransformers(model)
    assert untied.parameters == model.num_parameters() - 300 * 32, "one row of it is read a token"
    assert untied.weights == 4 * untied.parameters


def test_a_model_is_timed_with_our_attention() -> None:
    timed = TimedTransformers(build_model(LlamaConfig(**SIZES), 0, SDPA).eval())
    found = time_at(timed, 100, 8, 2)
    assert found.read[0] > 0 and len(found.drawn) == 2


def test_times_are_positive_and_of_each_token(llama) -> None:
    found = time_at(TimedTransformers(llama), 300, 32, 3)
    assert len(found.drawn) == 3
    assert all(wall > 0 for wall, _ in (found.read, *found.drawn))


class Fake:
    """A reader of which only the window and the model are asked."""

    def __init__(self, model, window: int) -> None:
        self.model, self.window = model, window

    def timed(self) -> TimedTransformers:
        return TimedTransformers(self.model)


def test_the_task_has_floor_and_ceiling_at_every_depth(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shridhar_ft.evaluation.speed.memory_rate", lambda device: 1e9)  # the true one takes 2 GB
    task = Speed(Settings(depths=[0, 256, 5000], prefill=16, decode=2, repeats=2))
    reader = Fake(llama, 2048)
    items = task.items(reader)
    assert [item["key"] for item in items] == ["0/0", "256/0", "0/1", "256/1"], "repeats go round the depths"
    assert "5000" in task.notes[0]
    records = list(task.measure(reader, items))
    measures = task.measures(records)
    found = {measure.name: score(measure, records, 0) for measure in measures}
    assert list(found) == [f"{way} behind {depth} tokens" for way in ("decode", "prefill") for depth in (0, 256)]
    details = task.scores(records, found, [])
    for one in found.values():
        assert one.low <= one.value <= one.high
        assert one.n == 2
        assert one.floor is not None and one.ceiling is not None and one.floor > 0
    deep = found["decode behind 256 tokens"]
    assert deep.ceiling == pytest.approx(1e9 / (llama.num_parameters() * 4 + 256 * 256))
    assert deep.floor == pytest.approx(found["prefill behind 256 tokens"].value / (256 + 16))
    assert "cores" in details["machine"]


def test_the_interval_covers_the_repeats() -> None:
    task = Speed(Settings())
    records = [
        {
            "key": f"0/{i}",
            "depth": 0,
            "decode_tokens": 10,
            "decode_seconds": s,
            "prefill_tokens": 1,
            "prefill_seconds": 1,
        }
        for i, s in enumerate((1.0, 2.0, 1.0, 2.0))
    ]
    found = score(task.measures(records)[0], records, 0)
    assert found.value == pytest.approx(40 / 6)
    assert 5 <= found.low < found.value < found.high <= 10


@pytest.mark.slow
def test_memory_is_read_at_a_plausible_rate() -> None:
    assert 1e8 < memory_rate() < 1e13
