"""What the levers that change numbers do to the loss: the same model, text and steps, fp32 beside each lever.

    python bench/lever_losses.py TEXT... [--steps 200] [--levers bf16_weights adamw_8bit] [--seeds 1] [--json]

A byte-level llama of 2.6 million parameters reads random windows of the text; a tenth, cut off the end, is never
trained on. Losses in nats a byte.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shridhar_ft.config_training import Tuning
from shridhar_ft.model.memory import apply_levers
from shridhar_ft.model.optimizers import make_optimizer
from shridhar_ft.plan.levers import Levers

WINDOW, ROWS = 256, 8  # bytes, windows a step
CONFIG = LlamaConfig(
    vocab_size=256, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=704,
    max_position_embeddings=WINDOW, tie_word_embeddings=True,
)  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("text", type=Path, nargs="+", help="plain text files")
    ask.add_argument("--steps", type=int, default=200, help="optimizer steps")
    ask.add_argument("--levers", nargs="*", default=["bf16_weights", "adamw_8bit"], help="one run each")
    ask.add_argument("--seeds", type=int, default=1, help="runs of each, with other weights and windows")
    ask.add_argument("--json", action="store_true")
    given = ask.parse_args()
    data = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in given.text)), dtype=torch.uint8).long()
    kept = len(data) * 9 // 10
    for seed in range(given.seeds):
        exact = None
        for lever in ["", *given.levers]:
            train, held_out = losses(data[:kept], data[kept:], Levers((lever,) if lever else ()), given.steps, seed)
            exact = held_out if exact is None else exact
            found = {
                "lever": lever or "fp32", "seed": seed, "steps": given.steps, "loss_last_20": round(train, 4),
                "loss_held_out": round(held_out, 4), "against_fp32": round(held_out / exact - 1, 4),
            }  # fmt: skip
            print(json.dumps(found) if given.json else "  ".join(f"{k} {v}" for k, v in found.items()), flush=True)


def losses(data: torch.Tensor, held_out: torch.Tensor, levers: Levers, steps: int, seed: int) -> tuple[float, float]:
    """Mean loss of the last 20 steps, and on 64 windows of the text that was held out."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        apply_levers(model, levers, Path(folder), compute_bf16=False)
        tuning = Tuning(learning_rate=1e-3)
        groups = [{"params": list(model.parameters()), "weight_decay": tuning.weight_decay}]
        optimizer = make_optimizer(groups, tuning, levers, model.get_input_embeddings().parameters())
        generator, seen = torch.Generator().manual_seed(seed), []
        for step in range(steps):
            for group in optimizer.param_groups:  # a cosine without warm-up
                group["lr"] = tuning.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            starts = torch.randint(len(data) - WINDOW, (ROWS,), generator=generator)
            ids = torch.stack([data[start : start + WINDOW] for start in starts])
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), tuning.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            seen.append(float(loss.detach()))
        model.eval()
        starts = torch.linspace(0, len(held_out) - WINDOW, 64).long()
        ids = torch.stack([held_out[start : start + WINDOW] for start in starts])
        with torch.no_grad():
            after = float(model(input_ids=ids, labels=ids).loss)
    return sum(seen[-20:]) / 20, after


if __name__ == "__main__":
    main()
