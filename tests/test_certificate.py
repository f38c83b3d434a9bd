"""The certificate holds for the same model and fails for another one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from shridhar_ft.config_rope import Rope
from shridhar_ft.errors import CheckFailed
from shridhar_ft.export.card import model_card, with_evaluation
from shridhar_ft.export.certificate import compare, holds, logits_at, places
from shridhar_ft.export.merge import Merge, merge_and_certify
from shridhar_ft.model.rope import StageRope, apply_rope
from shridhar_ft.weights import Weights

TEXT = np.arange(100, dtype=np.int32)


def test_places_are_the_start_the_original_context_and_the_end() -> None:
    where = places(108_000, 8192)
    assert where.start == list(range(8))
    assert where.original_context == list(range(8184, 8192))
    assert where.full_context == list(range(107_992, 108_000))
    assert places(128, 128).original_context == []
    assert len(places(4, 2).all) == 8


def test_the_same_model_is_certified(llama) -> None:
    where = places(100, 40)
    first, again = (logits_at(llama(), TEXT, where.all) for _ in range(2))
    found = compare(first, again, where)
    assert found["largest_logit_difference"] == 0
    assert found["original_context"]["positions"] == [32, 39]
    assert holds(found, "float32")


@pytest.mark.parametrize("harm", ["weight", "rope", "nan"])
def test_another_model_is_not(llama, harm: str) -> None:
    where = places(100, 40)
    model = llama()
    if harm == "weight":
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight += 0.01
    elif harm == "rope":
        model.model.rotary_emb.inv_freq /= 4
    else:
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
    found = compare(logits_at(llama(), TEXT, where.all), logits_at(model, TEXT, where.all), where)
    assert not holds(found, "float32")


@pytest.mark.parametrize("position", [0, 35, 99], ids=["start", "original context", "full context"])
def test_a_nan_at_any_place_is_not_certified(position: int) -> None:
    # max(0.0, nan) is 0.0: one that shows at the far end only was once certified.
    where = places(100, 40)
    reference = torch.randn(24, 50, generator=torch.Generator().manual_seed(0))
    other = reference.clone()
    other[where.all.index(position), 3] = float("nan")
    assert not holds(compare(reference, other, where), "float32")
    assert not holds(compare(other, reference, where), "float32")


@pytest.mark.parametrize("position", [0, 35, 99], ids=["start", "original context", "full context"])
def test_a_difference_at_any_place_is_told_with_its_place(position: int) -> None:
    where = places(100, 40)
    reference = torch.randn(24, 50, generator=torch.Generator().manual_seed(0))
    other = reference.clone()
    other[where.all.index(position), 3] += 2
    found = compare(reference, other, where)
    assert found["largest_logit_difference"] == pytest.approx(2)
    name = {0: "start", 35: "original_context", 99: "full_context"}[position]
    moved = [key for key in ("start", "original_context", "full_context") if found[key]["largest_logit_difference"]]
    assert moved == [name]
    assert not holds(found, "bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_a_type_passes_for_that_type_and_not_for_float32(llama, dtype: str) -> None:
    where = places(100, 40)
    trained = logits_at(llama(), TEXT, where.all)
    rounded = logits_at(llama().to(getattr(torch, dtype)).float(), TEXT, where.all)
    found = compare(trained, rounded, where)
    assert found["largest_logit_difference"] > 0
    assert holds(found, dtype)
    assert not holds(found, "float32")


def merge_of(base: Path, tokenizer, kind: str = "yarn") -> Merge:
    """An export of a tiny model at twice its original context."""
    config = apply_rope(AutoConfig.from_pretrained(base), StageRope(Rope(type=kind), 256, 128))
    text = np.arange(256, dtype=np.int32)
    return Merge(Weights(str(base)), config, tokenizer, text, original_context=128, dtype="float32")


@pytest.mark.parametrize("kind", ["none", "linear", "dynamic", "yarn", "longrope", "llama3", "theta"])
def test_an_export_carries_its_rope(kind: str, saved_llama: Path, tokenizer, tmp_path: Path) -> None:
    said: list[str] = []
    certificate = merge_and_certify(merge_of(saved_llama, tokenizer, kind), tmp_path, said.append)
    rope = certificate["measured"]["rope"]
    assert certificate["ok"] and rope["ok"] and rope["written"]["differs"] == []
    assert rope["positions"] == [0, 107_999]
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored["rope_parameters"] == certificate["claimed"]["rope"]["rope_parameters"]


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda stored: stored.pop("rope_parameters"), "rope_parameters is missing"),
        (lambda stored: stored["rope_parameters"].update(rope_theta=20_000.0), "rope_theta is 20000.0 and not 10000.0"),
        (lambda stored: stored["rope_parameters"].pop("factor"), "rope_parameters.factor is missing and not 2.0"),
        (lambda stored: stored.update(max_position_embeddings=128), "max_position_embeddings is 128 and not 256"),
        (lambda stored: stored.update(head_dim=4), "the frequencies made from it are others"),
    ],
    ids=["lost", "another base", "lost factor", "another length", "another head"],
)
def test_an_export_that_lost_or_changed_its_rope_is_refused(
    harm, sentence: str, saved_llama: Path, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    whole = PreTrainedConfig.save_pretrained

    def save(config: PreTrainedConfig, folder: Path, **settings: object) -> None:
        whole(config, folder, **settings)
        stored = json.loads((folder / "config.json").read_text())
        harm(stored)
        (folder / "config.json").write_text(json.dumps(stored))

    monkeypatch.setattr(PreTrainedConfig, "save_pretrained", save)
    with pytest.raises(CheckFailed, match="does not carry the RoPE that was trained") as error:
        merge_and_certify(merge_of(saved_llama, tokenizer), tmp_path, print)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert not certificate["ok"] and not certificate["measured"]["rope"]["ok"]
    assert certificate["claimed"]["rope"]["rope_parameters"]["rope_type"] == "yarn"


def test_the_card_names_counts_and_no_text() -> None:
    counts = {split: {"books": 1, "dialogues": 2} for split in ("train", "validation", "test")}
    card = model_card(
        {
            "name": "x",
            "licence": "MIT",
            "languages": ["ru", "sa"],
            "sources": [("books", "a.txt", 1200), ("dialogues", "b|c.jsonl", 3)],
            "base": "org/base",
            "base_on_hub": True,
            "context": 108_000,
            "dtype": "bfloat16",
            "parts": [
                {
                    "part": "sft",
                    "method": "lora",
                    "context": 64,
                    "steps": 9,
                    "loss_before": {"validation": 2.0},
                    "loss_after": {},
                }
            ],
            "data": counts,
            "tokens": counts,
            "certificate": {
                "claimed": {"not_read": ["bf16"]},
                "measured": {
                    "tokens": 64,
                    "reloaded": {"largest_logit_difference": 1e-6, "mean_kl_nats": 1e-9},
                    "dtype": "bfloat16",
                },
            },
            "data_licences": {"books": "public domain"},
            "serve": {"vLLM": "vllm serve ./model"},
            "ollama": True,
            "receipts": {"a": True, "b": False},
            "evaluation": None,
            "version": "0",
        }
    )
    assert card.startswith("---\nlicense: mit\n") and "base_model: org/base" in card
    assert "| sft | lora | 64 | 9 | 2.0000 | – |" in card
    assert "1 of 2 receipts hold" in card
    assert "| reloaded | 1.00e-06 | 1.00e-09 |" in card and "Not read by anything: GGUF bf16." in card
    assert "| a.txt | books | 1,200 | public domain |" in card
    assert "| b\\|c.jsonl | dialogues | 3 | not stated |" in card
    assert "language:\n- ru\n- sa\n" in card
    assert "vllm serve ./model" in card and "ollama create x -f Modelfile" in card
    assert "Not measured yet" in card
    score = {"name": "a|b", "value": 0.5, "low": 0.25, "high": 0.75, "unit": "share", "n": 4, "target": "95 % of 1,000"}
    ends = {"floor": 0.1, "floor_of": "chance", "ceiling": None, "ceiling_of": "none"}
    results = {
        "at": "2026-01-02T03:04:05",
        "window": 64,
        "seed": 7,
        "scores": [score | ends],
        "unmeasured": {"dialogue": "no dialogues"},
    }
    measured = with_evaluation(card, results)
    assert "| a\\|b | 50.0 % [25.0 %, 75.0 %] | 4 | 10.0 % (chance) | none |" in measured
    assert "- not measured: dialogue: no dialogues" in measured and "Not measured yet" not in measured
    assert with_evaluation(measured, results) == measured
    first, last = card.index("## Evaluation"), card.index("## Serving")
    assert measured.startswith(card[:first]) and measured.endswith(card[last:])
