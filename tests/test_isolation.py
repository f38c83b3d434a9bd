"""The isolation probe holds where documents are apart, and fails where they are not."""

import pytest
import torch

from shridhar_ft.model.build import weights_hash
from shridhar_ft.model.isolation import probe_isolation


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("context", [12, 128])
@pytest.mark.parametrize("rows", [1, 2])
def test_documents_are_apart_by_positions_alone(llama, attention: str, context: int, rows: int) -> None:
    claimed, measured, ok = probe_isolation(llama(attention=attention), 600, context, rows)
    assert ok, measured
    assert sum(claimed["documents"]) <= context
    assert measured["largest_difference_in_the_changed_document"] > 1e-3
    assert measured["attention"] == attention


class Wrapped(torch.nn.Module):
    """A model whose forward does what the field gets wrong."""

    def __init__(self, inner: torch.nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how, self.config = inner, how, inner.config

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool):
        if self.how == "mask of ones":
            return self.inner(
                input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids), use_cache=False
            )
        return self.inner(input_ids, use_cache=False)  # positions run on


@pytest.mark.parametrize("how", ["mask of ones", "positions run on"])
def test_a_leak_is_found(llama, how: str) -> None:
    _, measured, ok = probe_isolation(Wrapped(llama(), how), 600, 128)
    assert not ok
    assert measured["largest_difference_in_other_documents"] > 1e-3


def test_a_model_that_answers_always_the_same_proves_nothing(llama) -> None:
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert not probe_isolation(model, 600, 128)[2]


def test_a_model_whose_logits_are_no_numbers_does_not_pass(llama) -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert not probe_isolation(model, 600, 128)[2]


class Shifted(torch.nn.Module):
    """Keeps documents apart, and gives a document that stands alone other logits than the same one in a window."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool):
        output = self.inner(input_ids, position_ids=position_ids, use_cache=False)
        output.logits = output.logits + 0.01 * input_ids.shape[1]
        return output


def test_a_document_that_answers_otherwise_when_alone_is_found(llama) -> None:
    _, measured, ok = probe_isolation(Shifted(llama()), 600, 128)
    assert measured["largest_difference_in_other_documents"] == 0
    assert measured["largest_difference_packed_against_alone"] > 0.1
    assert not ok


def test_the_probe_leaves_the_mode_and_the_weights_as_they_were(llama) -> None:
    model = llama().train()
    before = weights_hash(model)
    probe_isolation(model, 600, 128)
    assert model.training and weights_hash(model) == before
