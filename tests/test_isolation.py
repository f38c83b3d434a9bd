"""The isolation probe holds where documents are apart, and fails where they are not."""

import pytest
import torch
from transformers import LlamaConfig, Olmo3Config

from shridhar_ft.model import interface, segments
from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.model.build import build_model, weights_hash
from shridhar_ft.model.isolation import MOST, probe_isolation
from shridhar_ft.model.segments import Call


@pytest.mark.parametrize("attention", ["shridhar_sdpa", "sdpa", "eager"])
@pytest.mark.parametrize("context", [12, 128])
@pytest.mark.parametrize("rows", [1, 2])
def test_documents_are_apart(llama, attention: str, context: int, rows: int) -> None:
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

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: object):
        given = {"logits_to_keep": logits_to_keep, "use_cache": False}
        if self.how == "mask of ones":
            mask = torch.ones_like(input_ids)
            return self.inner(input_ids, position_ids=position_ids, attention_mask=mask, **given)
        if self.how == "one document told":  # as a collator would that packs and says nothing of it
            return self.inner(
                input_ids, position_ids=position_ids, **boundaries([[input_ids.shape[1]]] * len(input_ids)), **given
            )
        return self.inner(input_ids, **given)  # positions run on


@pytest.mark.parametrize(
    ("attention", "how"),
    [
        ("sdpa", "mask of ones"),
        ("sdpa", "positions run on"),
        ("shridhar_sdpa", "positions run on"),
        ("shridhar_sdpa", "one document told"),
    ],
)
def test_a_leak_is_found(llama, attention: str, how: str) -> None:
    _, measured, ok = probe_isolation(Wrapped(llama(attention=attention), how), 600, 128)
    assert not ok
    assert measured["largest_difference_in_other_documents"] > 1e-3


def test_chunks_with_a_skip_between_them_see_one_another_by_boundaries_alone(llama) -> None:
    _, measured, ok = probe_isolation(llama(attention="shridhar_sdpa"), 600, 128, skips=True)
    assert ok and measured["largest_difference_beyond_the_skip"] > 1e-3, measured
    # transformers takes the jump in the positions for the end of a document.
    _, measured, ok = probe_isolation(llama(attention="sdpa"), 600, 128, skips=True)
    assert not ok and measured["largest_difference_beyond_the_skip"] == 0, measured


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("window", [64, 300])
def test_a_document_goes_over_its_sliding_window(window: int, rows: int) -> None:
    model = sliding(window)
    claimed, measured, ok = probe_isolation(model, 600, 2000, rows)
    assert ok, measured
    assert claimed["documents"][-1] > window + window // 4, "there is a second block of the band"
    assert sum(probe_isolation(model, 600, 100)[0]["documents"]) <= 100


def sliding(window: int) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    kinds = ["sliding_attention", "full_attention"]
    config = Olmo3Config(
        vocab_size=600, **sizes, sliding_window=window, layer_types=kinds, pad_token_id=None, eos_token_id=None
    )
    return build_model(config, 0, "shridhar_sdpa")


def test_a_band_that_reaches_into_the_document_before_is_found(monkeypatch) -> None:
    def too_far(start: int, stop: int, window: int, block: int) -> list[Call]:
        first, *rest = whole(start, stop, window, block)
        one_early = slice(first.keys.start - 1, first.keys.stop - 1)
        return [Call(first.queries, one_early if start else first.keys, None), *rest]

    whole = segments._band
    model = sliding(64)
    assert probe_isolation(model, 600, 2000)[2]
    interface._planned.cache_clear()
    monkeypatch.setattr(segments, "_band", too_far)
    assert not probe_isolation(model, 600, 2000)[2]
    interface._planned.cache_clear()


def test_a_leak_between_long_documents_alone_is_found(llama, monkeypatch) -> None:
    """Pieces over `SHORT` tokens go their own way through the kernel; real packed books have no others."""

    def joined(pieces, *rest):
        merged = []
        for start, stop in pieces:
            if merged and stop - start > segments.SHORT < merged[-1][1] - merged[-1][0]:
                start = merged.pop()[0]
            merged.append((start, stop))
        return whole(merged, *rest)

    whole = interface.plan_calls
    model = llama(attention="shridhar_sdpa")
    assert probe_isolation(model, 600, 2000)[2]
    interface._planned.cache_clear()
    monkeypatch.setattr(interface, "plan_calls", joined)
    _, measured, ok = probe_isolation(model, 600, 2000)
    assert not ok and measured["largest_difference_packed_against_alone"] > 1e-3
    interface._planned.cache_clear()


def test_the_kernel_that_training_takes_is_probed(monkeypatch) -> None:
    """With dropout of attention another kernel trains than evaluates."""

    class Leaking(interface.Blockwise):
        def forward(self, q, k, v, window, call):
            out, log_sum = super().forward(q, k, v, window, call)
            return out + total.mean(), log_sum

    total = torch.zeros(1)

    def watched(module, inputs, output):
        total.copy_(output.sum())

    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        attention_dropout=0.1,
    )  # fmt: skip
    model = build_model(config, 0, "shridhar_sdpa")
    model.get_input_embeddings().register_forward_hook(watched)
    assert probe_isolation(model, 600, 128)[2]
    monkeypatch.setattr(interface, "Blockwise", Leaking)
    assert not probe_isolation(model, 600, 128)[2]
    model.config.attention_dropout = 0.0
    assert probe_isolation(model, 600, 128)[2], "the other kernel is asked where nothing will be dropped"


def test_of_long_documents_a_few_logits_are_looked_at() -> None:
    model = sliding(1024)
    asked = []
    model.register_forward_hook(lambda *given: asked.append(given[2].logits.shape[1]))
    assert probe_isolation(model, 600, 8192)[2]
    assert max(asked) <= 5 * MOST


def test_a_model_that_answers_always_the_same_proves_nothing(llama) -> None:
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert not probe_isolation(model, 600, 128)[2]


@pytest.mark.parametrize("apart", [True, False])
def test_in_bf16_a_model_that_hardly_looks_back_is_told_from_one_that_leaks(llama, apart: bool) -> None:
    model = llama(attention="shridhar_sdpa")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.1)
    probed = model if apart else Wrapped(model, "one document told")
    with torch.autocast("cpu", torch.bfloat16):
        claimed, measured, ok = probe_isolation(probed, 600, 128)
    assert 0 < measured["largest_difference_in_the_changed_document"] < claimed["tolerance"], measured
    assert ok == apart == (measured["largest_difference_in_other_documents"] == 0), measured


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

    def forward(self, input_ids: torch.Tensor, **given: object):
        output = self.inner(input_ids, **given)
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
