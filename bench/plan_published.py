"""Holds the plan's formulas for GPUs against what others published of theirs; no GPU is needed.

    python bench/plan_published.py

Their code is not ours, so a difference is no error of either; it says how far the formulas may be trusted where
nothing could be measured. `longest` is the longest window that fits in the whole card (no share is left free here).
"""

from dataclasses import replace

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.choosing import Step
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.machines import Machine, machine
from shridhar_ft.plan.memory import GIB
from shridhar_ft.plan.models import known_bases
from shridhar_ft.plan.shapes import Shape, shape_of
from shridhar_ft.plan.sizes import sizes_of
from shridhar_ft.plan.work import step_seconds, step_work

ALL: tuple[Lever, ...] = ("tiled_mlp", "checkpointing", "offload_host", "recompute_attention")
FULL = Tuning(precision="bf16")
ONE = Layout(1, sharding="zero3", offload_optimizer=True, offload_weights=True, live=0, bucket=50_000_000)
EIGHT = Layout(8, sharding="zero3", offload_optimizer=True, sequence=8, live=0, bucket=50_000_000)


def shape(name: str) -> Shape:
    found = shape_of(known_bases()[name])
    assert found is not None, name
    return found


def step(name: str, tuning: Tuning, tokens: int, layout: Layout) -> Step:
    return Step(sizes_of(shape(name), tuning), tuning, tokens, True, "cuda", layout)


def longest(name: str, tuning: Tuning, levers: tuple[Lever, ...], where: Machine, layout: Layout) -> int:
    """The longest window in tokens, to 1%."""
    of, low, high = step(name, tuning, 0, layout), 0, 1 << 24
    while high - low > low // 100 + 100:
        middle = (low + high) // 2
        fits = replace(of, tokens=middle).peak(levers) <= where.memory
        low, high = (middle, high) if fits else (low, middle)
    return low


def peak(name: str, tuning: Tuning, levers: tuple[Lever, ...], tokens: int, layout: Layout) -> float:
    """Peak in GiB, CUDA's context left out: allocators report none of it."""
    found = step(name, tuning, tokens, layout).footprint(levers)
    return (found.peak - found.device["process"]) / GIB


def seconds(name: str, tokens: int, levers: tuple[Lever, ...], where: Machine, layout: Layout) -> float:
    """Seconds of a step of one window."""
    size = sizes_of(shape(name), FULL)
    work = step_work(size, FULL, tokens, tokens, levers, "cuda", True, layout)
    return sum(step_seconds(work, size, where, True).values())


def main() -> None:
    llama, small, two = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-3B", "meta-llama/Llama-2-7b-hf"
    h100, h200, a100 = (machine(name) for name in ("lambda-1xh100", "runpod-1xh200", "lambda-8xa100-80gb"))
    qlora, lora = (Tuning(method=m, precision="bf16", train_embeddings=False) for m in ("qlora", "lora"))
    bf16: tuple[Lever, ...] = ("bf16_weights",)
    rows = [
        ("longest, tokens", "ALST, Llama-8B, 1 × H100, all levers", 500_000, longest(llama, FULL, ALL, h100, ONE)),
        ("longest, tokens", "ALST, Llama-8B, 1 × H200, all levers", 1_200_000, longest(llama, FULL, ALL, h200, ONE)),
        ("longest, tokens", "ALST, Llama-8B, 8 × H100, all levers", 3_800_000, longest(llama, FULL, ALL, h100, EIGHT)),
        (
            "longest, tokens",
            "ALST, Llama-8B, 8 × H100, tiled without offload",
            1_200_000,
            longest(llama, FULL, ("tiled_mlp", "checkpointing", "recompute_attention"), h100, EIGHT),
        ),
        (
            "longest, tokens",
            "Unsloth, Llama-3.1-8B QLoRA, 80 GB",
            342_000,
            longest(llama, qlora, ("checkpointing", "offload_host", "recompute_attention", *bf16), a100, Layout()),
        ),
        (
            "peak, GiB",
            "torchtune, Llama-3.2-3B LoRA, 2 × 4,096",
            8.5,
            peak(small, lora, ("checkpointing", "recompute_attention", *bf16), 8192, Layout()),
        ),
        (
            "peak, GiB",
            "torchtune, Llama-3.2-3B QLoRA, 2 × 4,096",
            4.6,
            peak(small, qlora, ("checkpointing", "recompute_attention", *bf16), 8192, Layout()),
        ),
        (
            "s/step",
            "TRL, Qwen3-8B, 8 × H100, 1M tokens",
            380,
            seconds("Qwen/Qwen3-8B-Base", 1_048_576, ALL, h100, replace(EIGHT, sharding="fsdp")),
        ),
        *(
            (
                "tokens/s",
                f"EasyContext, Llama-2-7B, 8 × A100, {tokens // 1024}K",
                rate,
                tokens / seconds(two, tokens, ("checkpointing", "recompute_attention"), a100, EIGHT),
            )
            for tokens, rate in ((65_536, 7816), (131_072, 4266), (524_288, 2133), (716_800, 1603))
        ),
    ]
    print("| what | published by | published | formula | |\n|---|---|---|---|---|")
    for what, who, published, ours in rows:
        said = f"{ours:,.1f}" if what == "peak, GiB" else f"{ours:,.0f}"
        print(f"| {what} | {who} | {published:,} | {said} | {ours / published - 1:+.0%} |")


if __name__ == "__main__":
    main()
