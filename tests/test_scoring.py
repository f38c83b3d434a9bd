"""Log-probabilities in tiles against the whole logits, and against transformers' own loss."""

import numpy as np
import pytest
import torch

from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.scoring import evenly, log_probs, loss_on_windows, positions, text_windows


def test_packed_log_probabilities_equal_the_plain_ones(llama) -> None:
    model = llama()
    lengths = [9, 1, 20]
    ids = torch.randint(0, 600, (1, 30), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, [0, 9, 10]] = -100  # the openings
    places = torch.from_numpy(positions(lengths))[None]
    found = log_probs(model, ids, labels, places)  # (1, 29)
    with torch.no_grad():
        for begin, length in ((0, 9), (10, 20)):
            piece = ids[:, begin : begin + length]
            plain = model(piece, use_cache=False).logits.log_softmax(-1)[0, :-1]
            wanted = plain.gather(1, piece[0, 1:, None])[:, 0]
            assert torch.allclose(found[0, begin : begin + length - 1], wanted, atol=1e-5)
    assert found[0, 8] == found[0, 9] == 0


def test_loss_equals_transformers_own(llama) -> None:
    model = llama()
    ids = np.arange(3, 120, dtype=np.int32)
    row = {"input_ids": ids, "labels": ids, "lengths": [len(ids)]}
    tensor = torch.from_numpy(ids.astype(np.int64))[None]
    model.train()
    ours = loss_on_windows(model, [row])
    assert model.training, "measuring leaves the mode as it was"
    assert ours.tokens == 116
    model.eval()
    assert ours.mean == pytest.approx(float(model(tensor, labels=tensor).loss), abs=1e-5)


def test_a_model_with_an_adapter_is_scored_with_its_adapter(llama) -> None:
    model = attach(llama(), Tuning(method="lora", rank=4), grown=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.1)
    ids = torch.arange(3, 43)[None]
    places = torch.arange(40)[None]
    found = log_probs(model, ids, ids, places)
    model.eval()
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        with model.disable_adapter():
            without = log_probs(model, ids, ids, places)
    assert torch.allclose(found[0], wanted, atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-3)


def test_windows_add_up_to_the_loss_over_all_their_tokens(llama) -> None:
    model = llama()
    rows = [{"input_ids": np.arange(5, 5 + n), "labels": np.arange(5, 5 + n), "lengths": [n]} for n in (10, 40)]
    both, (first, second) = loss_on_windows(model, rows), (loss_on_windows(model, [row]) for row in rows)
    assert both.nats == pytest.approx(first.nats + second.nats)
    assert both.tokens == 9 + 39
    assert loss_on_windows(model, rows, most=1).nats == first.nats


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_mode_as_it_was(llama, training: bool) -> None:
    model = llama().train(training)
    loss_on_windows(model, text_windows(np.arange(5, 45), 20))
    assert model.training is training


def test_nothing_measured_is_no_loss_of_zero(llama) -> None:
    empty = loss_on_windows(llama(), [])
    assert empty.tokens == 0 and np.isnan(empty.mean)


def test_windows_of_a_text_are_whole_and_spread_evenly() -> None:
    windows = text_windows(np.arange(105), 10)
    assert [row["input_ids"][0] for row in windows] == list(range(0, 100, 10))
    assert evenly(list(range(10)), 3) == [0, 3, 6]
    assert text_windows(np.arange(9), 10) == []
    assert evenly([1, 2], 5) == evenly([1, 2], None) == [1, 2]
