"""The chunked cross-entropy against the plain one on whole logits, and the head that uses it against models' own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.model import loss as module
from shridhar_ft.model.loss import MARK, add_loss_head, linear_cross_entropy

VARIANTS = {"plain": {}, "scale": {"scale": 0.25}, "softcap": {"softcap": 2.0}, "both": {"scale": 3.0, "softcap": 5.0}}


def plain_loss(hidden, weight, labels, *, denominator, bias=None, scale=1.0, softcap=None):
    """What a model without any of this does: whole logits, then torch's cross-entropy in fp32."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="sum") / denominator


def inputs(tokens=37, size=24, vocabulary=101, dtype=torch.float32, seed=0, masked=0.3):
    """Hidden states, weight, bias and labels; a part of the labels is −100."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).to(dtype).requires_grad_()
        for shape, spread in (((tokens, size), 1.0), ((vocabulary, size), 0.3), ((vocabulary,), 0.5))
    )
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < masked] = -100
    return hidden, weight, bias, labels


def with_gradients(function, parts, labels, **asked):
    """Loss and its gradients after `hidden`, `weight` and, where there is one, `bias`."""
    parts = [part.detach().clone().requires_grad_() for part in parts]
    found = function(*parts[:2], labels, bias=parts[2] if len(parts) > 2 else None, **asked)
    loss = found[0] if isinstance(found, tuple) else found
    loss.backward()
    return float(loss.detach()), [part.grad for part in parts]


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference as a share of the largest wanted number."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30))


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of tokens and blocks of rows even in small inputs, none of which divides them."""
    monkeypatch.setattr(module, "LOGITS_BYTES", 101 * 4 * 10)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 101 * 3)


# ------------------------------------------------------------------------------------------------ the function


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_in_fp32_are_the_plain_ones(small_chunks, variant: str, with_bias: bool) -> None:
    *parts, labels = inputs()
    parts = parts if with_bias else parts[:2]
    asked = {**VARIANTS[variant], "denominator": 23}
    ours, gradients = with_gradients(linear_cross_entropy, parts, labels, **asked)
    plain, wanted = with_gradients(plain_loss, parts, labels, **asked)
    assert ours == pytest.approx(plain, rel=1e-6)
    for found, expected in zip(gradients, wanted, strict=True):
        assert apart(found, expected) < 1e-5


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 40),
    size=st.integers(1, 20),
    vocabulary=st.integers(2, 60),
    chunk=st.integers(1, 50),
    block=st.integers(1, 50),
    masked=st.sampled_from([0.0, 0.5, 0.95]),
    denominator=st.one_of(st.integers(1, 1000), st.just(torch.tensor(7))),
    seed=st.integers(0, 1000),
)
def test_any_sizes_chunks_and_masks_give_the_plain_loss(
    tokens, size, vocabulary, chunk, block, masked, denominator, seed
) -> None:
    *parts, labels = inputs(tokens, size, vocabulary, seed=seed, masked=masked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOGITS_BYTES", chunk * vocabulary * 4)
        patch.setattr(module, "BLOCK_NUMBERS", block * vocabulary)
        ours, gradients = with_gradients(linear_cross_entropy, parts, labels, denominator=denominator)
    plain, wanted = with_gradients(plain_loss, parts, labels, denominator=denominator)
    assert ours == pytest.approx(plain, rel=1e-6, abs=1e-9)
    for found, expected in zip(gradients, wanted, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + 1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_fp64_are_the_slopes_of_the_loss(small_chunks, variant: str) -> None:
    *parts, labels = inputs(tokens=5, size=3, vocabulary=7, dtype=torch.float64)
    asked = {**VARIANTS[variant], "denominator": 3}
    _, gradients = with_gradients(linear_cross_entropy, parts, labels, **asked)
    for which, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        for place in range(part.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [other.detach().clone() for other in parts]
                moved[which].view(-1)[place] += step
                ends.append(float(linear_cross_entropy(*moved[:2], labels, bias=moved[2], **asked)[0]))
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient.view(-1)[place]), abs=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("autocast", [True, False], ids=["bf16 autocast", "bf16 weights"])
def test_bf16_is_no_further_from_fp32_than_the_plain_loss_in_bf16(monkeypatch, autocast: bool, variant: str) -> None:
    tokens, vocabulary = 400, 503
    monkeypatch.setattr(module, "_slow_here", lambda device: frozenset())  # whatever this machine is
    monkeypatch.setattr(module, "LOGITS_BYTES", 90 * vocabulary * 2)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 7 * vocabulary)
    *exact, labels = inputs(tokens, 64, vocabulary, masked=0.2)
    asked = {**VARIANTS[variant], "denominator": 300}
    parts = exact if autocast else [part.detach().bfloat16() for part in exact]
    reference, wanted = with_gradients(plain_loss, [part.float() for part in parts], labels, **asked)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, gradients = with_gradients(linear_cross_entropy, parts, labels, **asked)
        plain, of_plain = with_gradients(plain_loss, parts, labels, **asked)
    assert abs(ours - reference) <= 1.5 * abs(plain - reference) + 1e-4 * reference
    for found, other, expected, part in zip(gradients, of_plain, wanted, parts, strict=True):
        assert found.dtype == part.dtype
        error, of_other = ((g.float() - expected).norm() / expected.norm() for g in (found, other))
        # A chunk's product is rounded, and bf16 weights round the sum once more: two roundings where plain has one.
        assert error <= (1.1 if autocast else 1.5) * of_other


@pytest.mark.parametrize("autocast", [True, False], ids=["bf16 autocast", "bf16 weights"])
def test_a_cpu_without_bf16_computes_in_fp32(monkeypatch, autocast: bool) -> None:
    monkeypatch.setattr(module, "_slow_here", lambda device: frozenset({torch.bfloat16}))
    *parts, labels = inputs(dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, gradients = with_gradients(linear_cross_entropy, parts, labels, denominator=5)
    plain, wanted = with_gradients(plain_loss, [part.float() for part in parts], labels, denominator=5)
    assert ours == pytest.approx(plain, rel=1e-6)
    for found, expected, part in zip(gradients, wanted, parts, strict=True):
        assert found.dtype == part.dtype
        assert apart(found, expected) < (1e-5 if autocast else 2**-8)


def test_log_probabilities_are_those_of_the_labels_and_detached(small_chunks) -> None:
    hidden, weight, bias, labels = inputs()
    _, found = linear_cross_entropy(hidden, weight, labels, bias=bias, denominator=1)
    wanted = F.linear(hidden, weight, bias).log_softmax(-1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    assert not found.requires_grad
    assert torch.allclose(found, wanted * (labels != -100), atol=1e-5)
    with torch.no_grad():
        loss, again = linear_cross_entropy(hidden, weight, labels, bias=bias, denominator=2)
    assert torch.equal(found, again)
    assert float(loss) == pytest.approx(-float(found.double().sum()) / 2)


def test_without_a_label_the_loss_is_zero_and_so_are_the_gradients() -> None:
    *parts, labels = inputs()
    labels = torch.full_like(labels, -100)
    ours, gradients = with_gradients(linear_cross_entropy, parts, labels, denominator=1)
    assert ours == 0
    assert all(not gradient.any() for gradient in gradients)


def test_masked_rows_are_not_computed() -> None:
    hidden, weight, _, labels = inputs()
    hidden = hidden.detach().clone()
    hidden[labels == -100] = float("nan")
    loss, _ = linear_cross_entropy(hidden.requires_grad_(), weight, labels, denominator=1)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(weight.grad).all()


def test_only_what_is_trained_gets_a_gradient(small_chunks) -> None:
    hidden, weight, bias, labels = inputs()
    _, wanted = with_gradients(plain_loss, [hidden, weight, bias], labels, denominator=5)
    frozen = weight.detach()
    linear_cross_entropy(hidden, frozen, labels, bias=bias.detach(), denominator=5)[0].backward()
    assert apart(hidden.grad, wanted[0]) < 1e-5 and frozen.grad is None and bias.grad is None
    linear_cross_entropy(hidden.detach(), weight, labels, bias=bias.detach(), denominator=5)[0].backward()
    assert apart(weight.grad, wanted[1]) < 1e-5 and bias.grad is None


def test_a_factor_on_the_loss_reaches_the_gradients_and_they_add_up(small_chunks) -> None:
    hidden, weight, _, labels = inputs()
    for factor in (0.5, 1.0, 2.5):
        (linear_cross_entropy(hidden, weight, labels, denominator=5)[0] * factor).backward()
    _, wanted = with_gradients(plain_loss, [hidden, weight], labels, denominator=5)
    assert apart(hidden.grad, 4 * wanted[0]) < 1e-5
    assert apart(weight.grad, 4 * wanted[1]) < 1e-5


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, _, labels = inputs()
    loss, _ = linear_cross_entropy(hidden, weight, labels, denominator=5)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed on"):
        loss.backward()


def test_a_number_that_is_not_finite_stays_one() -> None:
    hidden, weight, _, labels = inputs(masked=0)
    hidden = hidden.detach().clone()
    hidden[3, 0] = float("inf")
    assert not torch.isfinite(linear_cross_entropy(hidden, weight, labels, denominator=5)[0])


def test_the_whole_logits_never_exist(monkeypatch) -> None:
    from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

    monkeypatch.setattr(module, "LOGITS_BYTES", 32 << 20)
    hidden, weight, _, labels = inputs(tokens=12_000, size=4, vocabulary=8_000, masked=0)  # logits: 384 MB
    linear_cross_entropy(hidden[:9], weight, labels[:9], denominator=1)[0].backward()  # libraries take their own first
    begin_peak_rss()
    before = peak_rss_bytes()
    linear_cross_entropy(hidden, weight, labels, denominator=1)[0].backward()
    assert peak_rss_bytes() - before < 96 << 20


# ---------------------------------------------------------------------------------------------------- the head


def own_loss(model, ids: torch.Tensor, labels: torch.Tensor, items: int | None = None) -> torch.Tensor:
    """The loss that the model itself computes from whole logits."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    wanted = labels[:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
    return nats / ((wanted != -100).sum() if items is None else items)


def gradients_of(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def batch(vocabulary: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, vocabulary, (2, 19), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :6] = labels[1, 11:14] = -100
    return ids, labels


def check_against_own(model, items: int | None = None) -> None:
    ids, labels = batch(model.config.get_text_config().vocab_size)
    own = own_loss(model, ids, labels, items)
    own.backward()
    wanted = gradients_of(model)
    add_loss_head(model)
    output = model(input_ids=ids, labels=labels, fused_lm_head=True, num_items_in_batch=items)
    output.loss.backward()
    found = gradients_of(model)
    assert float(output.loss.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    assert output.log_probs.shape == output.label_mask.shape == (2, 18)
    assert torch.equal(output.label_mask, labels[:, 1:] != -100)
    assert not output.log_probs[~output.label_mask].any() and not output.log_probs.requires_grad
    assert set(found) == set(wanted)
    for name, gradient in found.items():
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-5 * float(wanted[name].abs().max())), name


@pytest.mark.parametrize("items", [None, 77])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_gives_the_models_own_loss_and_gradients(llama, tied: bool, items: int | None) -> None:
    check_against_own(llama(tie_word_embeddings=tied), items)


def other_models() -> dict:
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        PhiConfig,
        PhiForCausalLM,
    )

    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": "eager",
    }
    return {
        "cohere: logit_scale": lambda: CohereForCausalLM(CohereConfig(**sizes, logit_scale=0.3)),
        "gemma 2: softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=3.0)),
        "granite: logits_scaling": lambda: GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0)),
        "phi 3": lambda: Phi3ForCausalLM(Phi3Config(**sizes)),
        "phi: bias": lambda: PhiForCausalLM(PhiConfig(**{**sizes, "num_key_value_heads": 4})),
    }


@pytest.mark.parametrize("name", other_models())
def test_what_a_family_does_to_its_logits_is_done(name: str) -> None:
    torch.manual_seed(0)
    model = other_models()[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # large logits, so that a scale or a cap left out shows
            parameter.mul_(4)
    check_against_own(model)


def test_the_head_of_a_mixture_of_experts_is_trls_with_its_router_loss() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, output_router_logits=True)
    model = MixtralForCausalLM(config).eval()
    ids, labels = batch(300)
    with torch.no_grad():
        own = model(input_ids=ids, labels=labels, use_cache=False)
        add_loss_head(model)
        output = model(input_ids=ids, labels=labels, fused_lm_head=True)
    assert float(output.loss) == pytest.approx(float(own.loss), rel=1e-5)
    assert float(output.aux_loss) > 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_the_head_trains_an_adapter_and_what_peft_trains_whole(llama, tied: bool, whole: bool) -> None:
    torch.manual_seed(0)
    model = attach(llama(tie_word_embeddings=tied), Tuning(method="lora", rank=4, train_embeddings=whole), grown=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    check_against_own(model)


def test_the_head_goes_before_trls_and_a_second_call_changes_nothing(llama) -> None:
    from trl.trainer.utils import add_fused_lm_head

    model = llama()
    ids, labels = batch()
    add_loss_head(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))  # what SFTTrainer does
    assert model(input_ids=ids, labels=labels, fused_lm_head=True).entropy is not None
    add_loss_head(model)
    output = model(input_ids=ids, labels=labels, fused_lm_head=True)
    assert isinstance(output, module.LossOutput)
    forward = model.forward
    add_loss_head(model)
    assert model.forward is forward or model.forward == forward


def test_without_asking_for_the_head_the_forward_is_the_models_own(llama) -> None:
    model = llama().eval()
    ids, labels = batch()
    with torch.no_grad():
        before = model(input_ids=ids, labels=labels)
        add_loss_head(model)
        after = model(input_ids=ids, labels=labels)
        text = model.generate(input_ids=ids[:, :5], max_new_tokens=3, do_sample=False)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)
    assert text.shape == (2, 8)


def test_shifted_labels_of_a_sequence_shard_are_scored_where_they_stand(llama) -> None:
    model = llama().eval()
    ids, labels = batch()
    add_loss_head(model)
    with torch.no_grad():
        whole = model(input_ids=ids, labels=labels, fused_lm_head=True)
        shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        shard = model(input_ids=ids, labels=labels, shift_labels=shifted, fused_lm_head=True)
    assert shard.log_probs.shape == (2, 19)
    assert torch.equal(shard.log_probs[:, :-1], whole.log_probs) and torch.equal(shard.loss, whole.loss)


def test_micro_batches_and_ranks_add_up_to_the_loss_over_the_step(llama) -> None:
    model = llama()
    ids, labels = batch()
    items = int((labels[:, 1:] != -100).sum())
    own_loss(model, ids, labels).backward()
    wanted = gradients_of(model)
    add_loss_head(model)
    for row in range(2):  # as two micro-batches, or as two ranks whose gradients are averaged and then doubled
        output = model(
            input_ids=ids[row : row + 1],
            labels=labels[row : row + 1],
            fused_lm_head=True,
            num_items_in_batch=torch.tensor(items),
        )
        output.loss.backward()
    for name, gradient in gradients_of(model).items():
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-6), name


def test_a_batch_without_labels_gives_every_weight_a_gradient_of_zero(llama) -> None:
    model = llama()
    ids, labels = batch()
    add_loss_head(model)
    output = model(input_ids=ids, labels=torch.full_like(labels, -100), fused_lm_head=True)
    output.loss.backward()
    assert float(output.loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """One that computes in bf16, whatever precision another test's trainer left behind in the process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()


def test_the_head_is_found_behind_what_accelerate_puts_around_a_model(llama, accelerator) -> None:
    model = llama()
    prepared = accelerator.prepare_model(model)
    ids, labels = batch()
    add_loss_head(prepared)
    assert getattr(model.forward, MARK)
    assert torch.isfinite(prepared(input_ids=ids, labels=labels, fused_lm_head=True).loss)


def test_the_head_stays_under_accelerates_autocast(llama, accelerator) -> None:
    model = llama()
    add_loss_head(model)
    prepared = accelerator.prepare_model(model)
    forward = prepared.forward
    add_loss_head(prepared)  # as whatever is scored asks for it
    assert prepared.forward is forward, "a second head over the first would run outside of autocast"
    products: set[torch.dtype] = set()
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, out: products.add(out.dtype))
    ids, labels = batch()
    prepared(input_ids=ids, labels=labels, fused_lm_head=True)
    assert products == {torch.bfloat16}
