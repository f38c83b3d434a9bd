"""Trains models alike but for their attention, at equal steps: what sliding and shifted windows cost in loss.

python bench/sparse_attention.py my/books/*.txt --held-out other/book.txt [--base some/open/base]

From scratch, at --context: full attention; sliding windows of an eighth of the context with every fourth or every
sixth layer global; shifted sparse attention (S²-Attn: Chen et al. 2023, LongLoRA, arXiv 2309.12307, section 3.2) in
groups of a quarter of the context, half of the heads shifted by half a group, which is trained so and measured with
full attention, as in the paper. Then the fully attending model is extended fourfold by YaRN on its global layers and
trained on with each. 12 layers, 1.5 million parameters.

An open base is trained on as LongLoRA does it (LoRA, embeddings and norms), with full and with shifted attention.

Within a phase and seed all start from the same weights and see the same windows, cut anywhere from the books laid end
to end. Seconds are those of the one thread that computes.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, Olmo3Config, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from shridhar_ft import config, config_data
from shridhar_ft.data.clean import clean_text
from shridhar_ft.model.attention import SDPA
from shridhar_ft.progress import hush_libraries
from shridhar_ft.tokenizer import encode_book, train_tokenizer

LAYERS, WIDTH, HIDDEN, HEADS = 12, 96, 256, 4
THETA = 10_000.0
EXTENSION = 4
RATE, RATE_EXTENDED, RATE_BASE = 4e-3, 1e-3, 2e-4  # peaks; warmed up over a tenth of the steps, then by cosine
BUCKETS = 4
SHIFTED = "bench_shifted_sparse"
MEASURED_AT_ONCE = 4096  # tokens


@dataclass(frozen=True)
class Kind:
    """An attention under measurement."""

    name: str
    global_every: int = 1
    """Every so many layers one sees the whole context; the others see a sliding window."""
    shifted: bool = False
    """Shifted sparse attention while training, full attention when measured."""


FULL, UNTRAINED, SHIFT = Kind("full"), Kind("full, not trained on"), Kind("shifted sparse (S²)", shifted=True)
SLIDING = [Kind("sliding 3:1", 4), Kind("sliding 5:1", 6)]


@dataclass(frozen=True)
class Work:
    """How one model is trained."""

    phase: str
    seed: int
    context: int
    """Tokens of a window, in training and in the measurement."""
    rows: int
    """Windows a step."""
    steps: int
    rate: float
    """Peak learning rate."""


@dataclass(frozen=True)
class Row:
    """One model, trained and measured."""

    phase: str
    attention: str
    seed: int
    context: int
    steps: int
    tokens: int
    """Tokens trained on."""
    loss: float
    """Held-out loss in nats a token."""
    buckets: list[float]
    """The same by position, in four equal parts of the window."""
    loss_as_trained: float | None
    """Held-out loss under the training attention, where the measurement uses another."""
    seconds_per_step: float | None
    flops_per_step: float


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("books", nargs="+", type=Path, help="text files in UTF-8 to train on")
    ask.add_argument("--held-out", type=Path, required=True, help="text file in UTF-8 to measure on")
    ask.add_argument("--held-out-tokens", type=int, default=16_384, help="tokens of it")
    ask.add_argument("--context", type=int, default=512, help="window from scratch in tokens; four of them later")
    ask.add_argument("--steps", type=int, default=300, help="steps from scratch; a tenth of them for the extension")
    ask.add_argument("--rows", type=int, default=2, help="windows a step from scratch; one for the extension")
    ask.add_argument(
        "--seeds", type=int, default=2, help="how often from scratch, from other weights; 0 for the base alone"
    )
    ask.add_argument("--vocab", type=int, default=1024, help="vocabulary of the tokenizer trained on the books")
    ask.add_argument("--base", type=Path, help="folder of an open base to train on, too")
    ask.add_argument("--base-context", type=int, default=1024, help="its window in tokens, one a step")
    ask.add_argument("--base-steps", type=int, default=16, help="its steps")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    hush_libraries()
    torch.set_num_threads(1)  # so that a thread's seconds are a step's, whatever else the machine does
    AttentionInterface.register(SHIFTED, shifted_sparse_attention)
    AttentionMaskInterface.register(SHIFTED, lambda *_, **__: None)
    texts, held_out = [read(file) for file in given.books], read(given.held_out)
    rows = itertools.chain(
        from_scratch(given, texts, held_out), on_a_base(given, texts, held_out) if given.base else ()
    )
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        show(rows)


def read(file: Path) -> str:
    return clean_text(file.read_text("utf-8"), config_data.Clean(), is_book=True).text


def from_scratch(given: argparse.Namespace, texts: list[str], held_out: str) -> Iterator[Row]:
    """Every attention from scratch, then the fully attending model extended with each."""
    tokenizer = train_tokenizer(texts, config.TrainTokenizer(vocab_size=given.vocab), given.context)
    train = np.concatenate([encode_book(tokenizer, text) for text in texts])
    unseen = encode_book(tokenizer, held_out)[: given.held_out_tokens]
    base: dict[str, torch.Tensor] = {}
    for seed in range(given.seeds):
        for kind in (FULL, *SLIDING, SHIFT):
            torch.manual_seed(seed)
            model = build(kind, given.context, 1, given.vocab)
            work = Work("scratch", seed, given.context, given.rows, given.steps, RATE)
            yield train_and_measure(model, kind, work, train, unseen)
            if kind is FULL:
                base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for kind in (UNTRAINED, FULL, *SLIDING, SHIFT):
            model = build(kind, given.context, EXTENSION, given.vocab)
            model.load_state_dict(base)
            steps = 0 if kind is UNTRAINED else max(1, given.steps // 10)
            work = Work("extended", seed, given.context * EXTENSION, 1, steps, RATE_EXTENDED)
            yield train_and_measure(model, kind, work, train, unseen)


def on_a_base(given: argparse.Namespace, texts: list[str], held_out: str) -> Iterator[Row]:
    """An open base as it is, and trained on with full and with shifted attention."""
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    train = np.concatenate([np.asarray(tokenizer(text, verbose=False).input_ids) for text in texts])
    unseen = np.asarray(tokenizer(held_out, verbose=False).input_ids)[: given.held_out_tokens]
    for kind in (UNTRAINED, FULL, SHIFT):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32, attn_implementation=SDPA)
        model.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
        for name, parameter in model.named_parameters():
            if "embed" in name or "norm" in name:
                parameter.requires_grad = True
        steps = 0 if kind is UNTRAINED else given.base_steps
        work = Work("base", 0, given.base_context, 1, steps, RATE_BASE)
        yield train_and_measure(model, kind, work, train, unseen)


# --------------------------------------------------------------------------------------------- the models


def build(kind: Kind, trained_at: int, factor: int, vocab_size: int) -> PreTrainedModel:
    """The model; its global layers scaled by YaRN where the factor is above 1, its sliding ones never."""
    plain = {"rope_type": "default", "rope_theta": THETA}
    yarn = {**plain, "rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": trained_at}
    sizes = Olmo3Config(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        # The default of 0.02 is for widths of thousands: OLMo's norms, at the end of a layer, drown narrow embeddings.
        initializer_range=WIDTH**-0.5,
        max_position_embeddings=trained_at * factor,
        sliding_window=trained_at * factor // 8,
        layer_types=[
            "sliding_attention" if (layer + 1) % kind.global_every else "full_attention" for layer in range(LAYERS)
        ],
        rope_parameters={"sliding_attention": plain, "full_attention": yarn if factor > 1 else plain},
        pad_token_id=None,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(sizes, attn_implementation=SDPA)


def shifted_sparse_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """Attention inside groups of a quarter of the window; half of the heads have theirs shifted by half a group.

    The half groups at either end of the shifted heads stand alone: rolled together, as the paper draws them, the first
    tokens would see the last ones.
    """
    half, length = query.shape[1] // 2, query.shape[2]
    group, edge = length // 4, length // 8
    key, value = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key, value))

    def within(start: int, stop: int, heads: slice, size: int) -> torch.Tensor:
        grouped = [
            part[:, heads, start:stop].unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)
            for part in (query, key, value)
        ]  # (B · groups, heads, size, D) each
        out = functional.scaled_dot_product_attention(*grouped, is_causal=True, scale=options.get("scaling"))
        return out.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3)  # (B, heads, stop − start, D)

    straight = within(0, length, slice(None, half), group)
    ends = ((0, edge, edge), (edge, length - edge, group), (length - edge, length, edge))
    shifted = torch.cat([within(start, stop, slice(half, None), size) for start, stop, size in ends], dim=2)
    return torch.cat([straight, shifted], dim=1).transpose(1, 2), None  # (B, T, H, D)


# ----------------------------------------------------------------------------------------- train, measure


def train_and_measure(model: PreTrainedModel, kind: Kind, work: Work, train: np.ndarray, held_out: np.ndarray) -> Row:
    seconds = fit(model, kind, work, train) if work.steps else None
    as_trained = float(held_out_loss(model, held_out, work.context).mean()) if kind.shifted else None
    model.set_attn_implementation(SDPA)
    by_position = held_out_loss(model, held_out, work.context)
    return Row(
        phase=work.phase,
        attention=kind.name,
        seed=work.seed,
        context=work.context,
        steps=work.steps,
        tokens=work.steps * work.rows * work.context,
        loss=float(by_position.mean()),
        buckets=[float(part.mean()) for part in np.array_split(by_position, BUCKETS)],
        loss_as_trained=as_trained,
        seconds_per_step=seconds,
        flops_per_step=work.rows * window_flops(model, kind, work.context),
    )


def fit(model: PreTrainedModel, kind: Kind, work: Work, train: np.ndarray) -> float:
    """Train in place; the same windows for the same seed. Returns a step's median seconds of the one thread."""
    model.set_attn_implementation(SHIFTED if kind.shifted else SDPA)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work.rate, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, work.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * step / work.steps))
    )
    draw = np.random.default_rng(work.seed)
    took = []
    for _ in range(work.steps):
        starts = draw.integers(0, len(train) - work.context, work.rows)
        windows = np.stack([train[start : start + work.context] for start in starts])
        ids = torch.from_numpy(windows.astype(np.int64))  # (B, T)
        began = time.process_time()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        took.append(time.process_time() - began)
    return statistics.median(took)


def held_out_loss(model: PreTrainedModel, held_out: np.ndarray, context: int) -> np.ndarray:
    """Mean loss of each position of the held-out windows, in nats, (T − 1,)."""
    model.eval()
    windows = torch.from_numpy(held_out[: len(held_out) // context * context].astype(np.int64)).view(-1, context)
    total = np.zeros(context - 1)
    for part in windows.split(max(1, MEASURED_AT_ONCE // context)):  # (B, T)
        with torch.no_grad():
            logits = model(input_ids=part, use_cache=False).logits[:, :-1]  # (B, T − 1, V)
        total += functional.cross_entropy(logits.mT, part[:, 1:], reduction="none").sum(dim=0).double().numpy()
    return total / len(windows)


def window_flops(model: PreTrainedModel, kind: Kind, context: int) -> float:
    """Forward and backward of one window, as if nothing was frozen: 6 a weight and token, 12 a width and pair."""
    sizes = model.config
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    whole, group, edge = (tokens * (tokens + 1) / 2 for tokens in (context, context // 4, context // 8))
    if kind.shifted:
        pairs = sizes.num_hidden_layers * (4 * group + 3 * group + 2 * edge) / 2
    else:
        window = getattr(sizes, "sliding_window", None) or context
        near = window * (window + 1) / 2 + (context - window) * window
        kinds = getattr(sizes, "layer_types", None) or ["full_attention"] * sizes.num_hidden_layers
        pairs = sum(near if layer == "sliding_attention" else whole for layer in kinds)
    return 6 * weights * context + 12 * sizes.hidden_size * pairs


# ---------------------------------------------------------------------------------------------------- show


def show(rows: Iterable[Row]) -> None:
    """A line for each row as soon as it is there; losses in nats a token."""
    print(
        f"{'phase':<10}{'attention':<22}{'seed':>4}{'context':>8}{'steps':>6}{'tokens':>9}{'loss':>8}"
        f"{'   by position':<30}{'as trained':>11}{'s/step':>8}{'GFLOP/step':>11}",
        flush=True,
    )
    for row in rows:
        as_trained = "—" if row.loss_as_trained is None else f"{row.loss_as_trained:.4f}"
        seconds = "—" if row.seconds_per_step is None else f"{row.seconds_per_step:.2f}"
        print(
            f"{row.phase:<10}{row.attention:<22}{row.seed:>4}{row.context:>8,}{row.steps:>6}{row.tokens:>9,}"
            f"{row.loss:>8.4f}   {' '.join(f'{value:.3f}' for value in row.buckets):<27}"
            f"{as_trained:>11}{seconds:>8}{row.flops_per_step / 1e9:>11.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
