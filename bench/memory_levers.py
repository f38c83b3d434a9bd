"""What each lever of `train.memory` saves and costs: peak memory and seconds of a step, one process a cell.

    python bench/memory_levers.py [--tokens 8192] [--model 256m] [--levers checkpointing+tiled_mlp ...] [--json]

A cell builds the model, makes two steps on random tokens (forward, backward, update), and reports its peak resident
memory beside the estimate of `choose_levers` (on a CPU), and the second step's time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {  # vocabulary, hidden, layers, heads, key/value heads, intermediate
    "two-layers": (4000, 1024, 2, 16, 4, 2816),
    "2m": (4000, 192, 4, 6, 2, 512),
    "30m": (16000, 512, 6, 8, 4, 1408),
    "256m": (50000, 1024, 16, 16, 4, 2816),
    "256m-plain-heads": (50000, 1024, 16, 16, 16, 2816),
}
CELLS = (
    "",
    "tiled_mlp",
    "checkpointing",
    "checkpointing+tiled_mlp",
    "checkpointing+tiled_mlp+recompute_attention",
    "checkpointing+tiled_mlp+offload_disk",
    "checkpointing+tiled_mlp+compile",
    "checkpointing+tiled_mlp+adamw_8bit",
    "checkpointing+tiled_mlp+bf16_weights",
    "checkpointing+tiled_mlp+offload_disk+bf16_weights",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the window")
    parser.add_argument("--model", choices=MODELS, default="256m", help="size, by parameters")
    parser.add_argument("--levers", nargs="*", default=CELLS, help="cells, levers joined by + (an empty one: none)")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16 under autocast")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object a cell")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell is not None:
        print(json.dumps(measure(asked)))
        return
    if not asked.json:
        print(f"{'levers':64} {'peak GiB':>9} {'estimate':>9} {'s/step':>8}")
    for cell in asked.levers:
        command = [sys.executable, __file__, *sys.argv[1:], "--cell", cell]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(f"{cell}: {ran.stderr.strip().splitlines()[-1]}")
        found = json.loads(ran.stdout.splitlines()[-1])
        if asked.json:
            print(json.dumps(found), flush=True)
        else:
            figures = f"{found['peak'] / 2**30:9.2f} {found['estimate'] / 2**30:9.2f} {found['seconds']:8.1f}"
            print(f"{cell or '(none)':64} {figures}", flush=True)


def measure(asked: argparse.Namespace) -> dict[str, object]:
    """One cell, in this process."""
    import resource

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import shridhar_ft.training  # noqa: F401 - the process of a real run, and its attention
    from shridhar_ft.adapters import attach
    from shridhar_ft.allocator import keep_memory_low
    from shridhar_ft.config_training import Tuning
    from shridhar_ft.model.boundaries import boundaries
    from shridhar_ft.model.loss import add_loss_head
    from shridhar_ft.model.memory import apply_levers, choose_levers
    from shridhar_ft.model.optimizers import make_optimizer
    from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

    keep_memory_low()
    vocabulary, hidden, layers, heads, key_value, intermediate = MODELS[asked.model]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        intermediate_size=intermediate,
        max_position_embeddings=asked.tokens,
        tie_word_embeddings=True,
    )
    tuning = Tuning(
        memory=[name for name in asked.cell.split("+") if name],  # type: ignore[misc]
        method=asked.method,
        precision="bf16" if asked.bf16 else "fp32",
    )
    device = torch.device("cpu")
    levers = choose_levers(tuning, config, asked.tokens, device)
    model = LlamaForCausalLM._from_config(config, attn_implementation="shridhar_sdpa").train()
    model.config.use_cache = False
    if asked.method == "lora":
        model = attach(model, tuning, grown=False)
    add_loss_head(model)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as spill:
        apply_levers(model, levers, Path(spill), compute_bf16=asked.bf16)
        trained = [{"params": [p for p in model.parameters() if p.requires_grad]}]
        optimizer = make_optimizer(trained, tuning, levers, model.get_input_embeddings().parameters())
        ids = torch.randint(vocabulary, (1, asked.tokens))
        places = torch.arange(asked.tokens)[None]
        rows = boundaries([[asked.tokens]])
        before_steps = peak_rss_bytes()
        begin_peak_rss()
        for _ in range(asked.steps):
            begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            with torch.autocast("cpu", torch.bfloat16, enabled=asked.bf16):
                loss = model(input_ids=ids, labels=ids, position_ids=places, fused_lm_head=True, **rows).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "model": asked.model,
        "tokens": asked.tokens,
        "method": asked.method,
        "bf16": asked.bf16,
        "levers": list(levers.names),
        "peak": peak_rss_bytes(),
        "peak_before_steps": before_steps,
        "estimate": levers.after,
        "seconds": round(seconds, 2),
        "seconds_user": round(now.ru_utime - used.ru_utime, 2),
        "seconds_system": round(now.ru_stime - used.ru_stime, 2),
        "loss": float(loss.detach()),
    }


if __name__ == "__main__":
    main()
