"""Log-probabilities and losses by position against the whole logits, and the context gain against its definition."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.model import loss as loss_module
from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.scoring import (
    Loss,
    evenly,
    gain_sizes,
    log_probs,
    loss_on_windows,
    measure_text,
    position_edges,
    positions,
    read_text,
    standard_error,
    text_change,
    text_windows,
)


def plain_nats(model, ids: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each token but the first, from whole logits."""
    model.eval()
    piece = torch.as_tensor(np.asarray(ids, dtype=np.int64))[None]
    with torch.no_grad():
        found = model(piece, use_cache=False).logits.log_softmax(-1)[0, :-1]
    return -found.gather(1, piece[0, 1:, None])[:, 0].numpy()


def text(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 600, tokens).astype(np.int32)


# ---------------------------------------------------------------------------------------------------- a batch


@pytest.mark.parametrize("told", [True, False], ids=["boundaries told", "boundaries from positions"])
def test_packed_log_probabilities_equal_the_plain_ones(llama, told: bool) -> None:
    model = llama()
    lengths = [9, 1, 20]
    ids = torch.randint(0, 600, (1, 30), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, [0, 9, 10]] = -100  # the openings
    places = torch.from_numpy(positions(lengths))[None]
    found = log_probs(model, ids, labels, places, **(boundaries([lengths]) if told else {}))  # (1, 29)
    for begin, length in ((0, 9), (10, 20)):
        wanted = plain_nats(model, ids[0, begin : begin + length].numpy())
        assert np.allclose(-found[0, begin : begin + length - 1].numpy(), wanted, atol=1e-5)
    assert found[0, 8] == found[0, 9] == 0


def test_a_model_with_an_adapter_is_scored_with_its_adapter(llama) -> None:
    model = attach(llama(), Tuning(method="lora", rank=4), grown=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.1)
    ids = torch.arange(3, 43)[None]
    places = torch.arange(40)[None]
    found = log_probs(model, ids, ids, places)
    with model.disable_adapter():
        without = log_probs(model, ids, ids, places)
    assert np.allclose(-found[0].numpy(), plain_nats(model, ids[0].numpy()), atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-3)


def test_scoring_never_holds_the_whole_logits(llama, monkeypatch) -> None:
    from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

    monkeypatch.setattr(loss_module, "LOGITS_BYTES", 16 << 20)
    vocabulary, context = 60_000, 1500  # whole logits: 360 MB
    model = llama(vocab_size=vocabulary, hidden_size=8, intermediate_size=8, max_position_embeddings=context)
    row = text_windows(np.arange(context) * 31 % vocabulary, context)
    loss_on_windows(model, text_windows(np.arange(20), 20))  # libraries take their own first
    begin_peak_rss()
    before = peak_rss_bytes()
    loss_on_windows(model, row)
    assert peak_rss_bytes() - before < 120 << 20


# ---------------------------------------------------------------------------------------------- packed windows


def packed_rows() -> list[dict]:
    """Three windows of several pieces, the openings and some more without loss."""
    rows = []
    for seed, lengths in enumerate(([9, 1, 20], [30], [4, 26])):
        ids = text(30, seed)
        labels = ids.copy()
        labels[np.cumsum([0, *lengths[:-1]])] = -100
        labels[25:27] = -100
        rows.append({"input_ids": ids, "labels": labels, "lengths": lengths})
    return rows


def test_loss_equals_transformers_own(llama) -> None:
    model = llama()
    ids = np.arange(3, 120, dtype=np.int32)
    row = {"input_ids": ids, "labels": ids, "lengths": [len(ids)]}
    tensor = torch.from_numpy(ids.astype(np.int64))[None]
    ours = loss_on_windows(model, [row])
    assert ours.tokens == 116
    model.eval()
    assert ours.mean == pytest.approx(float(model(tensor, labels=tensor).loss.detach()), abs=1e-5)


def test_windows_add_up_to_the_loss_over_all_their_tokens(llama) -> None:
    model = llama()
    rows = [{"input_ids": np.arange(5, 5 + n), "labels": np.arange(5, 5 + n), "lengths": [n]} for n in (10, 40)]
    both, (first, second) = loss_on_windows(model, rows), (loss_on_windows(model, [row]) for row in rows)
    assert both.nats == pytest.approx(first.nats + second.nats)
    assert both.tokens == 9 + 39
    assert (first + second).nats == both.nats
    assert loss_on_windows(model, rows, most=1).nats == first.nats


def test_loss_by_position_counts_each_token_by_its_place_in_its_own_piece(llama) -> None:
    model = llama()
    rows = packed_rows()
    found = loss_on_windows(model, rows, edges=(0, 5, 20, 30, 40))
    nats, tokens = np.zeros(4), np.zeros(4, dtype=int)
    for row in rows:
        for begin, length in zip(np.cumsum([0, *row["lengths"][:-1]]), row["lengths"], strict=True):
            piece = slice(begin, begin + length)
            if length == 1:
                continue
            losses = plain_nats(model, row["input_ids"][piece])
            for place, (loss, label) in enumerate(zip(losses, row["labels"][piece][1:], strict=True), start=1):
                if label != -100:
                    bucket = np.searchsorted((5, 20, 30), place, side="right")
                    nats[bucket] += loss
                    tokens[bucket] += 1
    by_position = found.by_position()
    assert [row["tokens"] for row in by_position] == tokens.tolist()
    assert [row["loss"] for row in by_position[:3]] == pytest.approx(nats[:3] / tokens[:3], abs=1e-5)
    assert by_position[3] == {"from": 30, "to": 40, "loss": None, "tokens": 0}
    assert found.mean == loss_on_windows(model, rows).mean, "positions are only kept beside the whole"
    assert sum(row["loss"] * row["tokens"] for row in by_position[:3]) == pytest.approx(found.nats, rel=1e-12)


def test_without_edges_no_positions_are_kept(llama) -> None:
    assert loss_on_windows(llama(), packed_rows()).by_position() == []


@given(context=st.integers(1, 200_000), buckets=st.integers(1, 40))
def test_edges_are_equal_parts_that_cover_the_context(context: int, buckets: int) -> None:
    edges = position_edges(context, buckets)
    widths = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == context and len(widths) == min(buckets, context)
    assert widths.min() >= 1 and widths.max() - widths.min() <= 1


@given(
    places=st.lists(st.integers(0, 99), max_size=50),
    edges=st.lists(st.integers(1, 99), unique=True, max_size=6).map(lambda inner: (0, *sorted(inner), 100)),
    cut=st.integers(0, 50),
)
def test_parts_of_a_loss_add_up_and_no_token_is_lost(places, edges, cut) -> None:
    nats = np.arange(len(places)) * 0.5
    whole, first, second = (Loss.nothing(edges) for _ in range(3))
    whole.count(nats, np.array(places, dtype=int))
    first.count(nats[:cut], np.array(places[:cut], dtype=int))
    second.count(nats[cut:], np.array(places[cut:], dtype=int))
    assert np.array_equal((first + second).sums, whole.sums)
    assert whole.tokens == len(places) and whole.nats == nats.sum()
    for row in whole.by_position():
        inside = [loss for loss, place in zip(nats, places, strict=True) if row["from"] <= place < row["to"]]
        assert row["tokens"] == len(inside)
        assert row["loss"] is None if not inside else row["loss"] == pytest.approx(np.mean(inside))


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_mode_as_it_was(llama, training: bool) -> None:
    model = llama().train(training)
    loss_on_windows(model, text_windows(np.arange(5, 45), 20))
    assert model.training is training


def test_nothing_measured_is_no_loss_of_zero(llama) -> None:
    empty = loss_on_windows(llama(), [])
    assert empty.tokens == 0 and np.isnan(empty.mean)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_processes_share_windows_in_step_and_their_losses_add_up(llama, ranks: int) -> None:
    model = llama()
    rows, edges = packed_rows(), position_edges(30, 4)
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    whole = loss_on_windows(model, rows, edges=edges)
    counts, total = [], Loss.nothing(edges)
    for rank in range(ranks):
        passes.clear()
        total += loss_on_windows(model, rows, edges=edges, rank=rank, ranks=ranks)
        counts.append(len(passes))
    assert np.allclose(total.sums, whole.sums, rtol=1e-12)
    assert len(set(counts)) == 1, "sharded weights are put together by all processes at once"


# --------------------------------------------------------------------------------------------------- long text


def test_whatever_is_read_of_a_long_text_is_opened_where_the_base_leans_on_it(llama) -> None:
    model, context, opening = llama(max_position_embeddings=64), 64, 2
    ids = text(64 * 2)
    windows = [np.concatenate([[opening], ids[start + 1 : start + context]]) for start in (0, 64)]
    ends = [np.concatenate([[opening], ids[start + context - 23 : start + context]]) for start in (0, 64)]
    found = measure_text(model, ids, context, opening=opening)
    assert found["loss"] == pytest.approx(np.mean([plain_nats(model, window) for window in windows]), abs=1e-5)
    short = np.mean([plain_nats(model, end)[-8:] for end in ends])
    assert found["context_gain"]["loss_short"] == pytest.approx(short, abs=1e-5)
    assert found["loss"] != measure_text(model, ids, context)["loss"]


def test_the_context_gain_is_the_loss_of_the_same_tokens_with_little_context_minus_with_all(llama) -> None:
    model = llama(max_position_embeddings=64)
    ids, context = text(64 * 3 + 10), 64
    found = measure_text(model, ids, context)
    assert gain_sizes(context) == (8, 16)
    windows = [ids[start : start + context] for start in (0, 64, 128)]
    whole = np.array([plain_nats(model, window) for window in windows])
    short = np.array([plain_nats(model, window[-24:])[-8:] for window in windows])
    gain = found["context_gain"]
    assert (gain["last"], gain["before"], gain["tokens"]) == (8, 16, 24)
    assert gain["loss_short"] == pytest.approx(short.mean(), abs=1e-5)
    assert gain["loss_whole"] == pytest.approx(whole[:, -8:].mean(), abs=1e-5)
    assert gain["gain"] == pytest.approx((short - whole[:, -8:]).mean(), abs=1e-5)
    blocks = (short - whole[:, -8:]).reshape(12, 2).mean(1)
    assert gain["standard_error"] == pytest.approx(blocks.std(ddof=1) / np.sqrt(12), abs=1e-6)
    assert found["loss"] == pytest.approx(whole.mean(), abs=1e-5)
    assert (found["tokens"], found["windows"]) == (189, 3)
    assert sum(row["tokens"] for row in found["by_position"]) == 189
    for row in found["by_position"]:
        at = whole[:, max(0, row["from"] - 1) : row["to"] - 1]
        assert row["loss"] == pytest.approx(at.mean(), abs=1e-5) and row["tokens"] == at.size


def test_what_is_measured_of_a_text_goes_through_json_unchanged(llama) -> None:
    found = measure_text(llama(), text(200), 50, most=2)
    assert found["windows"] == 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_gain_keeps_its_sizes_in_long_windows_and_its_ratio_in_short_ones() -> None:
    assert gain_sizes(108_000) == gain_sizes(8192) == (1024, 2048)
    assert gain_sizes(4096) == (512, 1024)
    for context in range(8, 9000):
        last, before = gain_sizes(context)
        assert before == 2 * last and last + before < context


def test_the_shortest_windows_are_measured_too(llama) -> None:
    found = measure_text(llama(), text(8), 8)
    assert found["tokens"] == 7 and found["context_gain"]["tokens"] == 1
    assert found["standard_error"] is found["context_gain"]["standard_error"] is None, "one block has no error"


def test_a_text_that_fills_no_window_has_no_loss(llama) -> None:
    found = measure_text(llama(), text(7), 8)
    assert found["loss"] is found["context_gain"]["gain"] is None and found["tokens"] == 0


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_the_windows_of_a_text_and_read_the_same(llama, ranks: int) -> None:
    model, ids = llama(), text(160)
    parts = [read_text(model, ids, 50, rank=rank, ranks=ranks) for rank in range(ranks)]
    total = parts[0]
    for part in parts[1:]:
        total += part
    assert total.report() == measure_text(model, ids, 50)


def test_a_change_on_the_same_text_is_told_from_noise_by_its_blocks(llama) -> None:
    model, ids = llama(max_position_embeddings=40), text(400)
    before = measure_text(model, ids, 40)
    change, error = text_change(before, before)
    assert change == error == 0
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.2)
    after = measure_text(model, ids, 40)
    change, error = text_change(before, after)
    assert change == pytest.approx(after["loss"] - before["loss"])
    assert error == pytest.approx(standard_error(np.subtract(after["blocks"], before["blocks"])))
    assert error < after["standard_error"], "paired blocks share what makes a passage hard"


def test_a_standard_error_is_that_of_the_mean() -> None:
    draw = np.random.default_rng(0)
    means = [draw.normal(size=50).mean() for _ in range(2000)]
    assert standard_error(draw.normal(size=50)) == pytest.approx(np.std(means), rel=0.3)
    assert standard_error(np.array([1.0])) is None


def test_windows_of_a_text_are_whole_and_spread_evenly() -> None:
    windows = text_windows(np.arange(105), 10)
    assert [row["input_ids"][0] for row in windows] == list(range(0, 100, 10))
    assert evenly(list(range(10)), 3) == [0, 3, 6]
    assert text_windows(np.arange(9), 10) == []
    assert evenly([1, 2], 5) == evenly([1, 2], None) == [1, 2]
