"""The kernel that long texts are read with outside training: exact, and without a mask of tokens × tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, MistralConfig, Qwen2Config

from shridhar_ft.config import Model
from shridhar_ft.export import kernel
from shridhar_ft.export.certificate import logits_at
from shridhar_ft.export.kernel import LONGEST_MASK, TRANSFORMERS, kernel_for
from shridhar_ft.generation import TransformersEngine
from shridhar_ft.model.build import base_config, build_model
from shridhar_ft.model.interface import SDPA
from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

CPU = torch.device("cpu")
LONG = LONGEST_MASK + 1


def sliding(attention: str = SDPA, longest: int = 1024) -> Any:
    """Three of four layers see 32 tokens."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    given = {"from_config": {"model_type": "olmo3", "max_position_embeddings": longest, **sizes}}
    section = Model.model_validate({**given, "attention": "sparse", "sparse": {"window": 32, "global_every": 4}})
    return build_model(base_config(section, 600), 0, attention).eval()


def test_ours_is_taken_where_a_mask_would_not_fit() -> None:
    config = sliding().config
    assert kernel_for(config, LONG, CPU) == SDPA
    assert kernel_for(config, LONGEST_MASK, CPU) == TRANSFORMERS
    assert kernel_for(LlamaConfig(), LONG, CPU) == TRANSFORMERS  # causal without a mask
    assert (
        kernel_for(Qwen2Config(sliding_window=64), LONG, CPU) == TRANSFORMERS
    )  # it names a window, and slides nowhere
    assert kernel_for(MistralConfig(sliding_window=64), LONG, CPU) == SDPA


def test_both_say_the_same() -> None:
    ids = np.random.default_rng(0).integers(0, 600, 500)
    where = [0, 31, 32, 200, 499]
    ours, theirs = (logits_at(sliding(attention), ids, where) for attention in (SDPA, TRANSFORMERS))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_memory_grows_with_the_text_and_not_with_its_square() -> None:
    tokens = 24_000
    model = sliding()
    begin_peak_rss()
    before = peak_rss_bytes()
    logits_at(model, np.zeros(tokens, dtype=np.int64), [tokens - 1])
    assert peak_rss_bytes() - before < tokens**2 / 2  # the mask alone, in bits spelled as bytes, has tokens²


def test_a_chat_says_the_same_by_either(tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sliding()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said: list[list[int]] = []
    for longest in (LONGEST_MASK, 16):
        monkeypatch.setattr(kernel, "LONGEST_MASK", longest)
        engine = TransformersEngine(tmp_path)
        assert engine.model.config._attn_implementation == (TRANSFORMERS if longest == LONGEST_MASK else SDPA)
        prompt, got = list(range(10, 110)), []
        engine.generate(prompt, 6, True, got.append)
        engine.generate([*prompt, *got, *range(200, 260)], 6, True, got.append)  # after a cache that is full
        said.append(got)
    assert said[0] == said[1]
