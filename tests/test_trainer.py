"""The trainer: batches keep documents apart, a non-finite number stops it before the update, arithmetic adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig

from shridhar_ft.checkpoint import damage
from shridhar_ft.config_training import Tuning
from shridhar_ft.data.windows import IGNORED
from shridhar_ft.errors import NonFinite
from shridhar_ft.model.build import build_model, weights_hash
from shridhar_ft.model.memory import apply_levers
from shridhar_ft.plan.levers import Levers
from shridhar_ft.resume import Facts
from shridhar_ft.trainer import WindowCollator, WindowTrainer


def row(lengths: list[int], seed: int = 0) -> dict:
    ids = np.random.default_rng(seed).integers(4, 600, sum(lengths))
    labels = ids.copy()
    labels[np.cumsum(lengths) - lengths] = IGNORED
    return {"input_ids": ids.tolist(), "labels": labels.tolist(), "lengths": lengths, "row": seed, "replayed": False}


def test_a_shorter_window_is_filled_with_a_piece_of_its_own() -> None:
    batch = WindowCollator(3)([row([4, 2]), row([3])])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["input_ids"][1, 3:].tolist() == [3, 3, 3]
    assert batch["labels"][1].tolist()[3:] == [IGNORED] * 3
    assert "attention_mask" not in batch
    assert all(batch[key].dtype == torch.int64 for key in ("input_ids", "labels", "position_ids"))
    assert batch["cu_seq_lens_q"].tolist() == [0, 4, 6, 9, 12] and batch["max_length_q"] == 4


NONE = Levers()


def trainer(
    folder: Path, model: torch.nn.Module, tokenizer, rows: list[dict], levers: Levers = NONE, **settings: object
) -> WindowTrainer:
    arguments = {
        "output_dir": str(folder / "checkpoints"),
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,  # TRL's default is True
        "report_to": [],
        "disable_tqdm": True,
        "max_steps": 1,
        "save_steps": 1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        **settings,
    }
    return WindowTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list([{**row, "row": number} for number, row in enumerate(rows)]),
        eval_dataset=Dataset.from_list(rows),
        data_collator=WindowCollator(3),
        processing_class=tokenizer,
        facts=Facts.now({}, {}, 1),
        keep_checkpoints=2,
        tuning=Tuning(learning_rate=1e-2),
        levers=levers,
        window=64,
    )


def test_eight_bit_moments_leave_the_embeddings_whole(tokenizer, tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    model = LlamaForCausalLM(config)
    made = trainer(tmp_path, model, tokenizer, [row([9, 8])], Levers(("adamw_8bit",)))
    optimizer = made.create_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.state[model.model.embed_tokens.weight]["state1"].dtype == torch.float32
    assert optimizer.state[model.model.layers[0].mlp.up_proj.weight]["state1"].dtype == torch.uint8


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_non_finite_number_stops_before_the_update(llama, tokenizer, tmp_path: Path, what: str) -> None:
    model = llama()
    if what == "loss":
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
    else:
        model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights_hash(model)
    with pytest.raises(NonFinite, match=f"the {what} became .* at step 1") as stopped:
        trainer(tmp_path, model, tokenizer, [row([9, 8])]).train()
    assert stopped.value.status == 65
    assert weights_hash(model) == before
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))
    kept = json.loads((tmp_path / "non_finite_batch_rank0.json").read_text())
    assert (kept["what"], kept["windows"], len(kept["input_ids"][0][0])) == (what, [0], 17)


@pytest.mark.slow
def test_one_batch_of_four_is_four_of_one(llama, tokenizer, tmp_path: Path) -> None:
    # Windows with different numbers of learned tokens: averaging means of micro-batches would differ.
    rows = [row([20], 1), row([3, 2], 2), row([12, 5], 3), row([2, 2, 2], 4)]
    norms, losses = [], []
    for size, accumulated in ((4, 1), (1, 4), (2, 2)):
        made = trainer(
            tmp_path / f"{size}",
            llama(),
            tokenizer,
            rows,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        made.train()
        log = next(entry for entry in made.state.log_history if "grad_norm" in entry)
        losses.append(log["loss"])
        norms.append(log["grad_norm"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


@pytest.mark.slow
def test_full_weights_in_bf16_are_evaluated_between_steps_as_they_train(tokenizer, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    model = build_model(config, 0, "shridhar_sdpa")
    apply_levers(model, NONE, None, compute_bf16=True)
    products: set[torch.dtype] = set()
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, out: products.add(out.dtype))
    rows = [row([9, 8], number) for number in range(3)]
    made = trainer(tmp_path, model, tokenizer, rows, bf16=True, max_steps=3, eval_strategy="steps", eval_steps=1)
    made.train()
    assert [entry["step"] for entry in made.state.log_history if "eval_loss" in entry] == [1, 2, 3]
    assert products == {torch.bfloat16}, "training, evaluation, and training after an evaluation"


@pytest.mark.slow
def test_its_checkpoints_are_whole(llama, tokenizer, tmp_path: Path) -> None:
    trainer(tmp_path, llama(), tokenizer, [row([9])] * 3, max_steps=3).train()
    kept = sorted((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in kept] == ["checkpoint-2", "checkpoint-3"]
    assert all(damage(path) is None for path in kept)
    assert not (tmp_path / "checkpoints" / "README.md").exists()
