"""Prefill and decode apart, at depths of a window, for transformers and GGUF, with memory and with what bounds decode.

    python bench/generation.py --depths 0 8192 32768 108000 --engines q8_0:q8_0 q8_0:f16 transformers [--out FILE]
    python bench/generation.py --sparse 1024:4 --engines q8_0:q8_0   # three of four layers slide over 1,024 tokens

As llama-bench -d does: at a depth, tokens are read (--prefill) and then drawn one at a time (--decode). An engine is a
kind of GGUF and a type of its key/value cache, with `:flash` behind them where attention is to be computed in blocks;
or `transformers` (float32). The model is the plan's: 256 million random weights (speed does not depend on them). How a
depth is filled without hours of prefill is in shridhar_ft/speed, by which `speed` of eval measures, too. Each
measurement runs in a process of its own.
On a machine that is busy with other work, take --threads 1 and the processor's time a token, which waits for nobody.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _sliding import model_section, sparse

from shridhar_ft.cores import cores
from shridhar_ft.runfolder import environment, peak_rss_bytes
from shridhar_ft.speed.bounds import memory_rate
from shridhar_ft.speed.gguf import TimedGguf
from shridhar_ft.speed.hf import TimedTransformers
from shridhar_ft.speed.timing import SEED_TOKENS, Timed, time_at

VOCABULARY = 50_000
PLAN = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "max_position_embeddings": 110_592,
}


def build(folder: Path, kinds: set[str], sliding: dict[str, int] | None) -> None:
    """The plan's model with random weights, as a folder and as GGUF files beside it; with layers that slide, or not."""
    import torch

    from shridhar_ft.config import Model, TrainTokenizer
    from shridhar_ft.export.gguf_convert import write_gguf
    from shridhar_ft.model.build import base_config, build_model
    from shridhar_ft.shipped import shipped
    from shridhar_ft.tokenizer import train_tokenizer

    section = model_section({"model_type": "olmo3" if sliding else "llama", **PLAN}, sliding)
    config = base_config(Model.model_validate(section), VOCABULARY)
    build_model(config, 0, "sdpa").to(torch.bfloat16).save_pretrained(folder / "model")
    books = [path.read_text(encoding="utf-8") for path in sorted(shipped("recipes/demo/data/books").glob("*.txt"))]
    train_tokenizer(books, TrainTokenizer(vocab_size=600), 4096).save_pretrained(folder / "model")
    for kind in kinds:
        write_gguf(folder / "model", folder / f"{kind}.gguf", kind, "plan")


# -------------------------------------------------------------------------------------------------- engines


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    engine: str
    depth: int
    prefill: int
    decode: int
    threads: int


def gguf(folder: Path, cell: Cell) -> dict[str, Any]:
    """One depth of llama.cpp."""
    from shridhar_ft.export.gguf_attention import in_blocks
    from shridhar_ft.export.gguf_model import GgufModel

    kind, cache, *flash = cell.engine.split(":")
    window = cell.depth + SEED_TOKENS + cell.decode + 8
    attending = in_blocks(cache) if flash else None
    return figures(cell, TimedGguf(GgufModel(folder / f"{kind}.gguf", window, cache, cell.threads, attending)))


def by_transformers(folder: Path, cell: Cell) -> dict[str, Any]:
    """One depth of transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cell.threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    return figures(cell, TimedTransformers(model.eval()))


def figures(cell: Cell, timed: Timed) -> dict[str, Any]:
    """Tokens a second, and the bytes that a decoded token has to read."""
    found = time_at(timed, cell.depth, cell.prefill, cell.decode)
    wall, processor = (np.array(times) for times in zip(*found.drawn, strict=True))
    return {
        **asdict(cell),
        "prefill_tokens_per_second": round(cell.prefill / found.read[0], 1),
        "prefill_cpu_seconds_per_token": round(found.read[1] / cell.prefill, 6),
        "decode_tokens_per_second": round(1 / float(np.median(wall)), 2),
        "decode_cpu_seconds_per_token": round(float(np.median(processor)), 6),
        "weights_bytes": timed.weights,
        "cache_bytes_per_token": found.bytes_per_token,
        "bytes_read_per_token": timed.weights + found.bytes_per_token * cell.depth,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 8192, 32_768, 108_000])
    parser.add_argument("--engines", nargs="+", default=["q8_0:q8_0", "q8_0:f16", "transformers"])
    parser.add_argument("--sparse", type=sparse, metavar="WINDOW:EVERY", help="one layer of EVERY sees all")
    parser.add_argument("--prefill", type=int, default=SEED_TOKENS, help=f"tokens that are read, {SEED_TOKENS} at most")
    parser.add_argument("--decode", type=int, default=24, help="tokens that are drawn")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, help="one measurement, in this process: the models' folder, and the cell")
    given = parser.parse_args()
    if given.one:
        cell = Cell(**json.loads(given.one[1]))
        print(json.dumps((by_transformers if cell.engine == "transformers" else gguf)(Path(given.one[0]), cell)))
        return
    speed = memory_rate()
    print(f"memory: {speed / 1e9:.1f} GB/s read by {cores()} cores\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), {engine.split(":")[0] for engine in given.engines if ":" in engine}, given.sparse)
        print(
            "| engine | depth | prefill t/s | decode t/s | CPU s a token | GB read a token | memory allows | peak GB |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for engine in given.engines:
            for depth in given.depths:
                cell = Cell(engine, depth, given.prefill, given.decode, given.threads)
                command = [sys.executable, __file__, "--one", folder, json.dumps(asdict(cell))]
                found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
                found["memory_allows_tokens_per_second"] = round(speed / found["bytes_read_per_token"], 1)
                rows.append(found)
                print(
                    f"| {engine} | {depth:,} | {found['prefill_tokens_per_second']:,} | "
                    f"{found['decode_tokens_per_second']} | {found['decode_cpu_seconds_per_token']:.4f} | "
                    f"{found['bytes_read_per_token'] / 1e9:.2f} | {found['memory_allows_tokens_per_second']} | "
                    f"{found['peak_rss_bytes'] / 1e9:.2f} |",
                    flush=True,
                )
    if given.out:
        result = {
            "bandwidth_bytes_per_second": speed,
            "model": PLAN,
            "sparse": given.sparse,
            "rows": rows,
            **environment(),
        }
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
