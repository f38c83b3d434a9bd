"""The choice of attention, and transformers' models through our functions: exact, isolated, and no mask ignored."""

import copy
import itertools
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig
from transformers import modeling_flash_attention_utils as flash_utils

from shridhar_ft.config import Model
from shridhar_ft.errors import UserError
from shridhar_ft.model import attention as attention_module
from shridhar_ft.model import interface
from shridhar_ft.model.attention import FLASH, choose_attention
from shridhar_ft.model.blockwise import Blockwise
from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.model.flex import attend_by_flex, document_mask, documents_of
from shridhar_ft.model.interface import FLEX, SDPA, SOFTCAP, sdpa_by_document
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.segments import attend, plan_calls

CPU = torch.device("cpu")
GROUPED = {"num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
TYPES = {
    "llama": GROUPED,
    "qwen3": HEADS,
    "mistral": {**GROUPED, "sliding_window": 16},
    "gemma3_text": {**HEADS, "sliding_window": 16},
    "olmo3": {**GROUPED, "sliding_window": 16},
    "gpt_neox": {},
    "phi3": {**GROUPED, "sliding_window": 16},
    "smollm3": GROUPED,
    "gemma2": {**HEADS, "sliding_window": 16, "attn_logit_softcapping": 2.0},
}
LENGTHS = (23, 17, 31)


def config_of(model_type: str, **changes: object):
    sizes = {
        "vocab_size": 600,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
    return CONFIG_MAPPING[model_type](**{**sizes, **TYPES.get(model_type, {}), **changes})


def model_of(config, implementation: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=implementation)


def batch(rows: int = 2) -> dict[str, torch.Tensor]:
    tokens = sum(LENGTHS)
    ids = torch.randint(600, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "position_ids": torch.cat([torch.arange(n) for n in LENGTHS]).repeat(rows, 1)}


def logits_and_gradients(model, **given) -> tuple[torch.Tensor, list[torch.Tensor]]:
    out = model(use_cache=False, **given).logits
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    parts = [part for part in model.parameters() if part.requires_grad]
    return out.detach(), list(torch.autograd.grad((out * weight).sum(), parts))


# ----------------------------------------------------------------------------------- transformers' models


@pytest.mark.parametrize("model_type", TYPES)
def test_an_architecture_is_what_it_is_with_its_own_mask(model_type: str, tmp_path) -> None:
    config = config_of(model_type)
    name = choose_attention(Model(base="x"), config, CPU).implementation
    assert name == (SOFTCAP if model_type == "gemma2" else SDPA)
    ours, own = model_of(config, name), model_of(config, "eager")
    wanted, slopes = logits_and_gradients(own, **batch())
    for given in (boundaries([LENGTHS] * 2), {}):  # told outright, or seen in the positions
        found, gradients = logits_and_gradients(ours, **batch(), **given)
        assert (found - wanted).abs().max() < 1e-5
        assert all(
            (one - other).abs().max() < 1e-4 * (1 + other.abs().max())
            for one, other in zip(gradients, slopes, strict=True)
        )
    _, measured, ok = probe_isolation(ours, 600, 128, rows=2, skips=True)
    assert ok, measured
    ours.save_pretrained(tmp_path)
    assert "shridhar" not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    assert torch.equal(loaded(**batch(), use_cache=False).logits, ours(**batch(), use_cache=False).logits)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_boundaries_reach_attention_through_an_adapter(model_type: str) -> None:
    model = get_peft_model(model_of(config_of(model_type), SDPA), LoraConfig(target_modules="all-linear", r=2))
    _, measured, ok = probe_isolation(model, 600, 128, skips=True)
    assert ok and measured["attention"] == SDPA, measured


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "mistral"])
def test_under_autocast_attention_runs_in_bfloat16(model_type: str, monkeypatch) -> None:
    ours, own = (model_of(config_of(model_type), name) for name in (SDPA, "sdpa"))
    seen = set()
    whole = interface.attend
    monkeypatch.setattr(interface, "attend", lambda *given: (seen.add(given[0].dtype), whole(*given))[1])
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = logits_and_gradients(ours, **batch(), **boundaries([LENGTHS] * 2))
        wanted, slopes = logits_and_gradients(own, **batch())
        assert probe_isolation(ours, 600, 128)[2]
        assert probe_isolation(ours, 600, 128)[1]["dtype"] == "bfloat16"
    assert seen == {torch.bfloat16}
    assert (found - wanted).abs().max() < 0.05
    assert all(
        (one - other).abs().max() < 0.05 * (1 + other.abs().max()) for one, other in zip(gradients, slopes, strict=True)
    )


def test_norms_in_float32_do_not_part_queries_from_values() -> None:
    half, whole = (
        model_of(config_of("qwen3"), name).to(dtype) for name, dtype in ((SDPA, torch.bfloat16), ("sdpa", None))
    )
    for layer in half.model.layers:
        layer.self_attn.q_norm.float()
        layer.self_attn.k_norm.float()
    found, wanted = (model(**batch(), use_cache=False).logits for model in (half, whole))
    assert (found.float() - wanted).abs().max() < 0.05


@pytest.mark.parametrize("model_type", [name for name in TYPES if name != "gemma2"])
def test_generation_goes_on_as_with_sdpa(model_type: str) -> None:
    ours, own = (model_of(config_of(model_type), name).eval() for name in (SDPA, "sdpa"))
    ids, padding = batch()["input_ids"], torch.ones(2, 12, dtype=torch.long)
    padding[0, :4] = 0
    ways = (
        {"inputs": ids[:, :30]},
        {"inputs": ids[:, :12], "attention_mask": padding},
        {"inputs": ids[:, :30], "cache_implementation": "static"},
    )
    for way in ways:
        found, wanted = (model.generate(**way, max_new_tokens=12, do_sample=False) for model in (ours, own))
        assert torch.equal(found, wanted)


def test_dropout_of_attention_acts_in_training_only() -> None:
    model = model_of(config_of("llama", attention_dropout=0.5), SDPA)
    given = {**batch(), **boundaries([LENGTHS] * 2)}
    model.train()
    assert not torch.equal(model(**given).logits, model(**given).logits)
    torch.manual_seed(3)
    one = logits_and_gradients(model, **given)
    torch.manual_seed(3)
    model.activation_checkpointing_enable({"use_reentrant": False})
    other = logits_and_gradients(model, **given)
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True)), "the recomputation drops the same"
    model.eval()
    assert torch.equal(model(**given).logits, model(**given).logits)


# ---------------------------------------------------------------------------------------- nothing is ignored


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [SDPA, FLEX])
@torch.no_grad()
def test_a_mask_or_a_cache_beside_boundaries_is_refused(name: str) -> None:
    model = model_of(config_of("llama"), name).eval()
    ends = boundaries([LENGTHS] * 2)
    padding = torch.ones(2, sum(LENGTHS), dtype=torch.long)
    model(**batch(), **ends, attention_mask=padding)  # of ones: nothing to ignore
    padding[0, -3:] = 0
    with pytest.raises(ValueError, match="beside an attention mask"):
        model(**batch(), **ends, attention_mask=padding)
    cache = model(**batch(), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"beside a(n attention mask| filled cache)"):
        model(batch()["input_ids"], past_key_values=cache, **ends)


def test_a_mask_made_by_the_caller_is_obeyed() -> None:
    ours, own = (model_of(config_of("llama"), name).eval() for name in (SDPA, "sdpa"))
    ids = batch()["input_ids"][:, :20]
    mask = (torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(2)) < 0.5) | torch.eye(
        20, dtype=torch.bool
    )
    assert (ours(ids, attention_mask=mask).logits - own(ids, attention_mask=mask).logits).abs().max() < 1e-5
    assert (ours(ids, attention_mask=mask).logits - own(ids).logits).abs().max() > 1e-3


def test_a_live_cache_and_a_mask_of_ones_leak_nothing() -> None:
    model = model_of(config_of("llama"), SDPA).eval()
    wanted = model(**batch(), use_cache=False).logits
    ones = torch.ones(2, sum(LENGTHS), dtype=torch.long)
    assert torch.equal(model(**batch(), attention_mask=ones, use_cache=True).logits, wanted)


class Layer(torch.nn.Module):
    """An attention layer that calls."""

    def __init__(self, **config: object) -> None:
        super().__init__()
        self.is_causal, self.config = True, LlamaConfig(**config)


@pytest.mark.parametrize(
    ("layer", "options", "told"),
    [
        (Layer(), {"s_aux": torch.zeros(2)}, "s_aux"),
        (Layer(), {"position_bias": torch.zeros(2)}, "position_bias"),
        (Layer(), {"is_causal": False}, "not causal"),
        (Layer(sliding_window=4), {}, "does not hand its sliding window of 4"),
    ],
)
def test_what_this_attention_has_not_is_refused(layer: Layer, options: dict, told: str) -> None:
    q = torch.randn(1, 2, 8, 4)
    with pytest.raises(ValueError, match=told):
        sdpa_by_document(layer, q, q, q, None, **options)


def test_chunks_and_overlays_keep_the_mask_of_transformers() -> None:
    from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask

    config = LlamaConfig(attention_chunk_size=4)
    config._attn_implementation = SDPA
    given = {"config": config, "inputs_embeds": torch.zeros(1, 8, 4), "attention_mask": None, "past_key_values": None}
    assert create_causal_mask(**given) is None
    assert create_chunked_causal_mask(**given).shape == (1, 1, 8, 8)
    assert create_causal_mask(**given, or_mask_function=lambda b, h, q, k: k < 3).shape == (1, 1, 8, 8)
    assert create_causal_mask(**given, block_sequence_ids=torch.tensor([[0, 0, 1, 1, 2, 2, 2, 2]])).shape == (
        1,
        1,
        8,
        8,
    )


# ---------------------------------------------------------------------------------------------- FlexAttention


@pytest.mark.parametrize("window", [None, 9])
def test_the_blocks_of_flex_are_the_documents(window: int | None) -> None:
    from torch.nn.attention.flex_attention import create_mask

    rows = [[23, 17, 31], [40, 31]]
    ends = boundaries(rows)["cu_seq_lens_q"]
    found = create_mask(document_mask(documents_of(ends, (2, 71)), window), 2, None, 71, 71, device="cpu")
    for row, lengths in enumerate(rows):
        wanted = torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool().tril()
        wanted &= ~torch.ones(71, 71, dtype=torch.bool).tril(-window) if window else wanted
        assert torch.equal(found[row, 0], wanted)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_flex_gives_what_sdpa_gives(model_type: str) -> None:
    config = config_of(model_type)
    for given in (boundaries([LENGTHS] * 2), {}):
        with torch.no_grad():
            found, wanted = (
                model_of(config, name).eval()(**batch(), **given, use_cache=False).logits for name in (FLEX, SDPA)
            )
        assert (found - wanted).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_caps_scores() -> None:
    q, k, v = torch.randn(1, 4, 40, 8), torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8)
    ends = boundaries([[15, 25]])["cu_seq_lens_q"]
    layer = Layer()
    wanted, _ = sdpa_by_document(layer, q, k, v, None, cu_seq_lens_q=ends, softcap=1.0)
    assert (attend_by_flex(q, k, v, ends, None, None, 1.0).transpose(1, 2) - wanted).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------------ the choice


def test_the_fallback_is_said() -> None:
    chosen = choose_attention(Model(base="x"), config_of("olmo3"), CPU)
    assert chosen.implementation == SDPA
    assert "no FlashAttention: no CUDA device" in chosen.why
    assert "3 of 4 layers see a sliding window of 16 tokens" in chosen.why
    assert "sliding" not in choose_attention(Model(base="x", attention="sdpa"), config_of("llama"), CPU).why


@pytest.mark.parametrize("asked", ["flash", "flex"])
def test_a_kernel_that_is_not_here_is_refused_with_the_mend(asked: str) -> None:
    with pytest.raises(UserError, match="set it to auto or sdpa") as error:
        choose_attention(Model(base="x", attention=asked), config_of("llama"), CPU)
    assert asked in str(error.value) and "CUDA" in str(error.value)


def on_a_gpu(monkeypatch, package: bool, capability: tuple[int, int]) -> torch.device:
    """A CUDA device as far as the choice can tell."""
    monkeypatch.setattr(attention_module, "find_spec", lambda name: object() if package else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    return torch.device("cuda")


@pytest.mark.parametrize(
    ("package", "capability", "changes", "chosen", "told"),
    [
        (True, (8, 0), {}, FLASH, "FlashAttention, with"),
        (False, (9, 0), {}, SDPA, "flash-attn is not installed"),
        (True, (7, 5), {}, SDPA, "older than Ampere"),
        (True, (8, 0), {"head_dim": 512}, SDPA, "wider than 256"),
    ],
)
def test_auto_takes_flash_where_it_can_run(monkeypatch, package, capability, changes, chosen, told) -> None:
    device = on_a_gpu(monkeypatch, package, capability)
    for asked in ("auto", "sparse"):
        model = Model(from_config={"model_type": "llama"}, attention=asked)
        found = choose_attention(model, config_of("llama", **changes), device)
        assert found.implementation == chosen and told in found.why


def test_flex_is_taken_where_it_is_asked_for_and_can_be(monkeypatch) -> None:
    device = on_a_gpu(monkeypatch, True, (9, 0))
    asked = Model(base="x", attention="flex")
    assert choose_attention(asked, config_of("llama"), device).implementation == FLEX
    with pytest.raises(UserError, match="set attention_dropout to 0"):
        choose_attention(asked, config_of("llama", attention_dropout=0.1), device)


def test_flash_is_not_taken_for_fp32(monkeypatch) -> None:
    device = on_a_gpu(monkeypatch, True, (9, 0))
    assert choose_attention(Model(base="x"), config_of("llama"), device, half=False).implementation == SDPA


@pytest.mark.parametrize("model_type", ["llama", "olmo3"])
def test_flash_gets_the_boundaries_of_several_rows_and_the_window(model_type: str, monkeypatch) -> None:
    # transformers' own way to the CUDA kernel, with exact attention in the place of the kernel.
    taken = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, causal, softmax_scale, window_size=(-1, -1), **rest):
        taken.append(window_size)
        assert causal and rest == {"dropout_p": 0.0, "max_seqlen_q": 31, "max_seqlen_k": 31}
        pieces = list(itertools.pairwise(cu_seqlens_q.tolist()))
        window = window_size[0] + 1 if window_size[0] >= 0 else None
        return attend(q, k, v, plan_calls(pieces, window), Blockwise(softmax_scale))

    has = (
        "dropout_p",
        "window_size",
        "max_seqlen_q",
        "max_seqlen_k",
        "deterministic",
        "softcap",
        "s_aux",
        "learnable_sink",
    )
    has = {
        name: name in ("dropout_p", "window_size", "max_seqlen_q", "max_seqlen_k") for name in (*has, "cache_seqlens")
    }
    process = partial(flash_utils._process_flash_attention_kwargs, supports_mapping=has)
    kernels = ((None, varlen, None, None, None), (process, None))
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda name: kernels)
    flash, own = (model_of(config_of(model_type), "sdpa") for _ in range(2))
    flash.config._attn_implementation_internal = FLASH
    found = flash(**batch(), **boundaries([LENGTHS] * 2), use_cache=False).logits
    assert (found - own(**batch(), use_cache=False).logits).abs().max() < 1e-5
    assert taken == ([(-1, -1)] * 4 if model_type == "llama" else [*[(15, 15)] * 3, (-1, -1)])


def test_an_architecture_with_attention_of_its_own_is_refused() -> None:
    config = CONFIG_MAPPING["gpt_oss"]()
    with pytest.raises(UserError, match="gpt_oss computes attention in its own way"):
        choose_attention(Model(base="x"), config, CPU)
