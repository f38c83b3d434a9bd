"""Measures a training step over window lengths, ours beside TRL's SFTTrainer and transformers' Trainer, in turns.

    python bench/long_context.py --lengths 8192,32768 --packed --model small --against trl,trainer
    python bench/long_context.py --lengths 108000 --against none --steps 1 --limit 86400 --resume step.jsonl

Tokens/s, peak memory, and which share of the machine's own matmul rate the step reached; a table and a plot. Every
side gets the same model with the same random weights, the same token ids and one window a step, and its losses and
gradient norms must be ours, or the exit status is 1. Each cell (a side at a length) runs in a process of its own, so
that peak memory is that cell's alone; in every round the sides take turns. The time is that of a whole step (forward,
backward, update); the first step of a process does not count unless it is the only one. Had is which share of its
threads' time a process was given: far below 100%, other work held it back, and its seconds are not its own.

Growth is peak − memory before the first step; gradients and the optimizer's state, which that step makes, are in it.
Share is FLOPs of the step by formula, nothing computed twice / (seconds × this machine's matmul rate in that dtype,
measured before and after every round, the best one taken). Floor is the time of those FLOPs at the rates of this
machine's own kernels (matmul, causal SDPA forward and backward).
"""

import argparse
import importlib.util
import json
import math
import re
import signal
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import psutil
from _sliding import model_section, sparse

if TYPE_CHECKING:
    from _long_work import Flops, Work

LENGTHS = "1024,2048,4096,8192,16384,32768,65536,108000"
LONG = 16_384  # tokens from which on a process takes one step unless told otherwise
ALSO = ("trl", "trainer")


def main() -> None:
    given = arguments()
    if given.cell:
        one_cell(json.loads(given.cell))
        return
    from _long_report import differences, exponents, lines, plot, rows
    from _long_runner import Done, measure, tell_floor

    from shridhar_ft.errors import UserError

    if importlib.util.find_spec("matplotlib") is None:
        refuse("the plot needs matplotlib: pip install matplotlib")
    try:
        cells, needs = plan(given)
    except UserError as error:
        refuse(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = Done(given.resume, given.limit)
    try:
        for number, cell in enumerate(cells, 1):
            if done.result(cell) is None:
                measure(cell, f"{number}/{len(cells)}", given.limit, given.cap, done)
            if number == 1:
                tell_floor(cells, needs, done)
    except KeyboardInterrupt:
        kept = f"; go on with: {' '.join(sys.orig_argv)}" if given.resume else ""
        print(
            f"\nstopped: {sum(done.result(cell) is not None for cell in cells)} of {len(cells)} cells{kept}",
            file=sys.stderr,
        )
        sys.exit(75 if given.resume else 130)

    finished = [cell | {"result": done.result(cell)} for cell in cells]
    machine = [cell["result"] for cell in finished if cell["who"] == "machine"]
    if lost := [one for one in machine if "failed" in one]:
        print(f"the machine's rates could not be measured: {lost[0]['failed']}", file=sys.stderr)
        sys.exit(1)
    rates = best_rates(machine)
    table = rows([cell for cell in finished if cell["who"] != "machine"], needs, rates)
    wrong = differences(table)
    failed = [row for row in table if "failed" in row]
    grows = exponents(table)
    title = f"{given.title}; threads: {machine[0]['threads']}, {cpu_name()}"
    plot(table, given.plot, title)
    if given.json:
        answer = {"title": title, "rates": rates, "rows": table, "exponents": grows, "wrong": wrong, "cells": finished}
        print(json.dumps(answer, indent=1))
    else:
        print(title)
        for dtype, kernels in rates.items():
            shown = ", ".join(f"{name.replace('_', ' ')} {rate / 1e9:.3g}" for name, rate in kernels.items())
            print(f"this machine in {dtype}, GFLOP/s: {shown}")
        for row in {row["who"]: row for row in table if "did" in row}.values():
            print(f"{row['who']}: {'; '.join(row['did'])}")
        print("\n".join(lines(table)))
        for who, power in grows.items():
            apart = f", {power['by_length']:.2f} without gradients and optimizer state" if "by_length" in power else ""
            print(f"{who}: growth goes with the length to the power {power.get('growth', math.nan):.2f}{apart}")
        for what in wrong:
            print(f"NOT THE SAME WORK: {what}")
        if any(row.get("share", 0) > 1 for row in table):
            print("a share above 100%: other work held this machine back while its rates were measured")
        if given.against and not wrong and not failed:
            print("losses and gradient norms of all sides agree with ours, at the first step and at the last")
        print(f"plot: {given.plot}")
    sys.exit(1 if wrong or failed else 0)


# ------------------------------------------------------------------------------------------------ arguments


def arguments() -> argparse.Namespace:
    from _long_work import MODELS

    from shridhar_ft.config_training import Lever

    ask = Ask(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--lengths", type=numbers, default=LENGTHS, help=f"tokens of the window (default: {LENGTHS})")
    ask.add_argument("--packed", action="store_true", help="several documents in the window (default: one)")
    ask.add_argument(
        "--document", type=int, help="with --packed: tokens of a document (default: a quarter of the window)"
    )
    ask.add_argument("--against", type=others, default="trl,trainer", help="trl,trainer (the default), one, or none")
    ask.add_argument(
        "--model",
        type=sizes,
        default="plan",
        metavar="NAME[,KEY=VALUE…]",
        help=f"{' or '.join(MODELS)}, config keys changed (default: plan)",
    )
    ask.add_argument("--model-type", help="of transformers (default: llama, with --sparse olmo3)")
    ask.add_argument("--kv-heads", type=int, help="key/value heads (default: as many as heads)")
    ask.add_argument(
        "--sparse",
        type=sparse,
        metavar="WINDOW:EVERY",
        help="sliding layers of WINDOW tokens, every EVERY-th layer sees all",
    )
    ask.add_argument("--method", choices=("full", "lora"), default="full")
    ask.add_argument(
        "--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="ours: train.precision (default: auto)"
    )
    ask.add_argument(
        "--their-dtype", type=dtypes, default="bf16", help="bf16 (autocast, the default), fp32, or both: bf16,fp32"
    )
    ask.add_argument(
        "--memory",
        type=levers,
        help=f"ours: train.memory, auto or of {','.join(get_args(Lever))}; none for no lever "
        "(default: checkpointing,tiled_mlp, since TRL recomputes every layer too; auto with --memory-limit)",
    )
    ask.add_argument("--memory-limit", type=float, metavar="GIB", help="ours: train.memory_limit, what auto fills")
    ask.add_argument(
        "--trainer-checkpointing",
        action="store_true",
        help="gradient checkpointing for transformers' Trainer, whose default is off (TRL's is on)",
    )
    ask.add_argument("--rounds", type=int, default=2, help="how often each cell is measured (default: 2)")
    ask.add_argument("--steps", type=int, help=f"steps of a process (default: 3, from {LONG:,} tokens on 1)")
    ask.add_argument(
        "--limit",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="a cell that takes longer is stopped and told as such (default: 3600)",
    )
    ask.add_argument(
        "--cap",
        type=float,
        metavar="GIB",
        help="a cell that takes more memory is stopped and told as such (default: nine tenths of what is free)",
    )
    ask.add_argument(
        "--resume", type=Path, metavar="FILE", help="keep every finished cell in FILE at once, and skip those in it"
    )
    ask.add_argument("--plot", type=Path, help="PNG to write (default: long_context_<machine>_<date>.png)")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    ask.add_argument("--cell", help=argparse.SUPPRESS)  # one cell, in a process of its own
    given = ask.parse_args()
    if given.memory is None:
        given.memory = "auto" if given.memory_limit else ["checkpointing", "tiled_mlp"]
    elif given.memory != "auto" and given.memory_limit:
        refuse("--memory-limit: what --memory auto fills; a list of levers is taken as it is")
    if given.document and not given.packed:
        refuse("--document: only with --packed")
    for name in ("rounds", "steps", "document", "kv_heads"):
        if (value := getattr(given, name)) is not None and value < 1:
            refuse(f"--{name.replace('_', '-')}: {value} is not a positive number")
    given.plot = given.plot or Path(
        f"long_context_{psutil.cpu_count()}x{re.sub(r'[^A-Za-z0-9]+', '-', cpu_name())}_{date.today()}.png"
    )
    if not given.plot.absolute().parent.is_dir():
        refuse(f"--plot: there is no folder {given.plot.parent}")
    return given


class Ask(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage of twenty options before it."""

    def error(self, message: str) -> NoReturn:
        refuse(message.removeprefix("argument "))


def refuse(why: str) -> NoReturn:
    print(f"long_context.py: {why}", file=sys.stderr)
    sys.exit(2)


def numbers(given: str) -> list[int]:
    try:
        found = [int(part.replace("_", "")) for part in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{given}' is not a list of lengths such as 8192,32768") from None
    if min(found) < 16:
        raise argparse.ArgumentTypeError(f"{min(found)} tokens are too few; take 16 or more")
    return sorted(set(found))


def others(given: str) -> list[str]:
    found = [] if given == "none" else given.split(",")
    if wrong := [name for name in found if name not in ALSO]:
        raise argparse.ArgumentTypeError(f"nobody is called '{wrong[0]}'; there are {', '.join(ALSO)} and none")
    return found


def dtypes(given: str) -> list[str]:
    if wrong := [name for name in given.split(",") if name not in ("bf16", "fp32")]:
        raise argparse.ArgumentTypeError(f"'{wrong[0]}' is neither bf16 nor fp32")
    return given.split(",")


def sizes(given: str) -> tuple[str, dict[str, Any]]:
    """A model's name and changed config keys."""
    import yaml
    from _long_work import MODELS

    name, *changes = given.split(",")
    if name not in MODELS or not all("=" in change for change in changes):
        raise argparse.ArgumentTypeError(f"'{given}' is not {' or '.join(MODELS)}, then ,key=value as often as wanted")
    return name, {key: yaml.safe_load(value) for key, value in (change.split("=", 1) for change in changes)}


def levers(given: str) -> list[str] | str:
    from shridhar_ft.config_training import Lever

    if given in ("auto", "none"):
        return "auto" if given == "auto" else []
    if wrong := [name for name in given.split(",") if name not in get_args(Lever)]:
        raise argparse.ArgumentTypeError(f"no lever is called '{wrong[0]}'; there are {', '.join(get_args(Lever))}")
    return given.split(",")


# ------------------------------------------------------------------------------------------------- the plan


def plan(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[int, "Flops"]]:
    """The cells in their order, and the FLOPs of a step by length."""
    from _long_work import MODELS, step_flops
    from accelerate import PartialState

    from shridhar_ft.config_training import Tuning
    from shridhar_ft.plan.levers import check_levers

    name, changes = given.model
    model_type = given.model_type or ("olmo3" if given.sparse else "llama")
    sized = {"model_type": model_type} | MODELS[name] | changes
    if "num_attention_heads" in changes and "num_key_value_heads" not in changes:
        sized["num_key_value_heads"] = sized["num_attention_heads"]
    if given.kv_heads:
        sized["num_key_value_heads"] = given.kv_heads
    if sized["num_attention_heads"] % sized["num_key_value_heads"]:
        refuse(f"--kv-heads: {sized['num_key_value_heads']} does not divide {sized['num_attention_heads']} heads")
    if given.memory != "auto":
        check_levers(tuple(given.memory), Tuning(method=given.method), PartialState().device.type)
    sides = [("ours", given.dtype), *((who, dtype) for who in given.against for dtype in given.their_dtype)]
    kinds = ["fp32", "bf16"] if given.dtype == "auto" else sorted({given.dtype, *given.their_dtype})
    works = {length: work_of(given, sized, length) for length in given.lengths}
    cells: list[dict[str, Any]] = []
    for number in range(given.rounds + 1):
        cells.append(one(given, works[given.lengths[0]], number, "machine", ",".join(kinds)))
        if number < given.rounds:
            cells += [one(given, work, number, *side) for work in works.values() for side in sides]
    said = [f"{key} {value}" for key, value in changes.items()]
    said += [f"{sized['num_key_value_heads']} key/value heads"]
    said += (
        ["layers that slide over {window} tokens, 1 of {global_every} sees all".format(**given.sparse)]
        if given.sparse
        else []
    )
    packed = "four documents a window" if given.document is None else f"documents of {given.document:,}"
    given.title = ", ".join([f"{name} {model_type}", *said, given.method, packed if given.packed else "one document"])
    return cells, {length: step_flops(work) for length, work in works.items()}


def work_of(given: argparse.Namespace, sized: dict[str, Any], length: int) -> "Work":
    from _long_work import Work, documents_of

    model = model_section(sized | {"max_position_embeddings": length}, given.sparse)
    document = (given.document or length // 4) if given.packed else None
    return Work(model, given.method, documents_of(length, document))


def one(given: argparse.Namespace, work: "Work", number: int, who: str, dtype: str) -> dict[str, Any]:
    """A cell: everything that its figures hang on, as JSON gives it back."""
    cell = {"who": who, "dtype": dtype, "round": number, "model": work.model, "method": work.method}
    cell |= {"documents": list(work.documents), "steps": given.steps or (3 if work.length < LONG else 1)}
    if who == "ours":
        cell |= {"memory": given.memory, "memory_limit": given.memory_limit}
    if who == "trainer":
        cell |= {"checkpointing": given.trainer_checkpointing}
    return cell


def best_rates(machine: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The highest rate that was ever measured of each kernel: other work on a machine only lowers it."""
    return {
        dtype: {kernel: max(one["rates"][dtype][kernel] for one in machine) for kernel in kernels}
        for dtype, kernels in machine[0]["rates"].items()
    }


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()


def one_cell(cell: dict[str, Any]) -> None:
    from shridhar_ft.progress import hush_libraries

    hush_libraries()
    from _long_cell import run_cell

    print(json.dumps(run_cell(cell)))


if __name__ == "__main__":
    main()
