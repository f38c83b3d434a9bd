"""Prefill and decode apart, at depths of a window, for transformers and GGUF, with memory and with what bounds decode.

    python bench/generation.py --depths 0 8192 32768 108000 --engines q8_0:q8_0 q8_0:f16 transformers [--out FILE]

As llama-bench -d does: at a depth, tokens are read (--prefill) and then drawn one at a time (--decode). An engine is a
kind of GGUF and a type of its key/value cache, or `transformers` (float32). The model is the plan's: 256 million random
weights (speed does not depend on them). A depth is not read: the first tokens' keys and values are repeated until it is
full, which costs what a true text would, and spares hours of prefill. Each measurement runs in a process of its own.
On a machine that is busy with other work, take --threads 1 and the processor's time a token, which waits for nobody.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shridhar_ft.runfolder import environment, peak_rss_bytes

PLAN = {
    "vocab_size": 50_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "max_position_embeddings": 110_592,
}
SEED_TOKENS = 512  # tokens whose keys and values fill a depth


def build(folder: Path, kinds: set[str]) -> None:
    """The plan's model with random weights, as a folder and as GGUF files beside it."""
    import torch
    from transformers import LlamaConfig

    from shridhar_ft.config import TrainTokenizer
    from shridhar_ft.export.gguf_convert import write_gguf
    from shridhar_ft.model.build import build_model
    from shridhar_ft.shipped import shipped
    from shridhar_ft.tokenizer import train_tokenizer

    model = build_model(LlamaConfig(**PLAN), 0, "sdpa").to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    books = [path.read_text(encoding="utf-8") for path in sorted(shipped("recipes/demo/data/books").glob("*.txt"))]
    train_tokenizer(books, TrainTokenizer(vocab_size=600), 4096).save_pretrained(folder / "model")
    for kind in kinds:
        write_gguf(folder / "model", folder / f"{kind}.gguf", kind, "plan")


def bandwidth() -> float:
    """Bytes a second that all cores together read from memory: the best of three sums over a gigabyte."""
    cores = os.cpu_count() or 1
    parts = [np.ones(1 << 27, dtype=np.float64) for _ in range(cores)]
    best = 0.0
    for _ in range(3):
        threads = [threading.Thread(target=part.sum) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - started))
    return best


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
    from shridhar_ft.export.gguf_model import GgufModel

    kind, cache = cell.engine.split(":")
    model = GgufModel(folder / f"{kind}.gguf", cell.depth + SEED_TOKENS + cell.decode + 8, cache, cell.threads)
    ids = np.random.default_rng(0).integers(5, PLAN["vocab_size"], SEED_TOKENS).astype(np.int32)
    none, last = np.zeros(SEED_TOKENS, dtype=bool), np.ones(1, dtype=bool)
    model.decode(ids, 0, none)  # warms up, too
    per_token = fill(model, cell.depth) if cell.depth else state_bytes(model) // SEED_TOKENS
    if not cell.depth:
        model.clear()
    timer = Timer()
    with timer.prefill():
        model.decode(ids[: cell.prefill], cell.depth, none[: cell.prefill])
    for step in range(cell.decode):
        with timer.decode():
            model.decode(ids[step : step + 1], cell.depth + cell.prefill + step, last)
    return timer.figures(cell, (folder / f"{kind}.gguf").stat().st_size, per_token)


def state_bytes(model: Any) -> int:  # noqa: ANN401
    """Bytes of the keys and values that are held."""
    import llama_cpp

    return int(llama_cpp.llama_state_seq_get_size(model.llama.ctx, 0))


def fill(model: Any, depth: int) -> int:  # noqa: ANN401
    """Repeat the cells that are held until the depth is full; returns bytes a token.

    The state is llama.cpp's own format (llama_kv_cache::state_write): magic, sequence, streams, cells; position, number
    of sequences and sequence of each cell; then type, row size and rows of the keys of each layer, and of the values.
    """
    import ctypes

    import llama_cpp

    size = state_bytes(model)
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(model.llama.ctx, buffer, size, 0) == size
    state = np.frombuffer(buffer, dtype=np.uint8)
    head = state[:16].view(np.uint32)
    assert head[2] == 1 and head[3] == SEED_TOKENS, "one stream with the cells that were read"
    cells = np.zeros((depth, 3), dtype=np.int32)
    cells[:, 0], cells[:, 1] = np.arange(depth), 1
    pieces = [state[:12], np.array([depth], np.uint32).view(np.uint8), cells.reshape(-1).view(np.uint8)]
    at = 16 + SEED_TOKENS * 12
    transposed, layers = state[at : at + 8].view(np.uint32)
    assert not transposed
    pieces.append(state[at : at + 8])
    at += 8
    for _ in range(2 * int(layers)):
        row = int(state[at + 4 : at + 12].view(np.uint64)[0])
        rows = state[at + 12 : at + 12 + row * SEED_TOKENS].reshape(SEED_TOKENS, row)
        pieces += [state[at : at + 12], np.resize(rows, (depth, row)).reshape(-1)]
        at += 12 + row * SEED_TOKENS
    assert at == size
    whole = np.concatenate(pieces)
    pointer = whole.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    model.clear()
    assert llama_cpp.llama_state_seq_set_data(model.llama.ctx, pointer, len(whole), 0) == len(whole)
    return len(whole) // depth


def by_transformers(folder: Path, cell: Cell) -> dict[str, Any]:
    """One depth of transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(cell.threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    head = PLAN["hidden_size"] // PLAN["num_attention_heads"]
    cache = DynamicCache(config=model.config)
    ids = torch.randint(5, PLAN["vocab_size"], (1, SEED_TOKENS))
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    timer = Timer()
    with torch.inference_mode():
        model(ids[:, :16], use_cache=False, logits_to_keep=1)  # warms up
        for layer in range(PLAN["num_hidden_layers"] if cell.depth else 0):
            cache.update(*(torch.randn(1, PLAN["num_key_value_heads"], cell.depth, head) for _ in range(2)), layer)
        with timer.prefill():
            model(ids[:, : cell.prefill], **{name: cache}, use_cache=True, logits_to_keep=1)
        for step in range(cell.decode):
            with timer.decode():
                model(ids[:, step : step + 1], **{name: cache}, use_cache=True, logits_to_keep=1)
    per_token = 2 * PLAN["num_hidden_layers"] * PLAN["num_key_value_heads"] * head * 4
    return timer.figures(cell, model.num_parameters() * 4, per_token)


class Timer:
    """Wall and processor time of prefill and of each decoded token."""

    def __init__(self) -> None:
        self.read = (0.0, 0.0)
        self.drawn: list[tuple[float, float]] = []

    @contextmanager
    def _timed(self, keep: Callable[[tuple[float, float]], None]) -> Iterator[None]:
        before = time.perf_counter(), time.process_time()
        yield
        keep((time.perf_counter() - before[0], time.process_time() - before[1]))

    def prefill(self) -> AbstractContextManager[None]:
        return self._timed(lambda took: setattr(self, "read", took))

    def decode(self) -> AbstractContextManager[None]:
        return self._timed(self.drawn.append)

    def figures(self, cell: Cell, weights: int, per_token: int) -> dict[str, Any]:
        """Tokens a second, and the bytes that a decoded token has to read."""
        wall, processor = (np.array(times) for times in zip(*self.drawn, strict=True))
        return {
            **asdict(cell),
            "prefill_tokens_per_second": round(cell.prefill / self.read[0], 1),
            "prefill_cpu_seconds_per_token": round(self.read[1] / cell.prefill, 6),
            "decode_tokens_per_second": round(1 / float(np.median(wall)), 2),
            "decode_cpu_seconds_per_token": round(float(np.median(processor)), 6),
            "weights_bytes": weights,
            "cache_bytes_per_token": per_token,
            "bytes_read_per_token": weights + per_token * cell.depth,
            "peak_rss_bytes": peak_rss_bytes(),
        }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 8192, 32_768, 108_000])
    parser.add_argument("--engines", nargs="+", default=["q8_0:q8_0", "q8_0:f16", "transformers"])
    parser.add_argument("--prefill", type=int, default=SEED_TOKENS, help=f"tokens that are read, {SEED_TOKENS} at most")
    parser.add_argument("--decode", type=int, default=24, help="tokens that are drawn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, help="one measurement, in this process: the models' folder, and the cell")
    given = parser.parse_args()
    if given.one:
        cell = Cell(**json.loads(given.one[1]))
        print(json.dumps((by_transformers if cell.engine == "transformers" else gguf)(Path(given.one[0]), cell)))
        return
    speed = bandwidth()
    print(f"memory: {speed / 1e9:.1f} GB/s read by {os.cpu_count()} cores\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), {engine.split(":")[0] for engine in given.engines if ":" in engine})
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
        result = {"bandwidth_bytes_per_second": speed, "model": PLAN, "rows": rows, **environment()}
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
