"""One process of the fault suite: it runs an entry with faults injected and, where asked, a guard taken out.

It is started from a fork server that has imported the libraries already, so that a case takes seconds.
"""

import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fault_guards
import torch
import transformers  # noqa: F401 - imported once, in the fork server
import trl  # noqa: F401
import xxhash

import shridhar_ft.training  # noqa: F401
from shridhar_ft import entry
from shridhar_ft.pretrain import pretrain
from shridhar_ft.sft import sft

with suppress(ImportError):  # transformers imports it where it is installed: here once, and not in every process
    import deepspeed  # noqa: F401

WORKS = {"pretrain": pretrain, "sft": sft}


def run(spec: dict[str, Any]) -> None:
    """Run one entry and end the process with its status.

    Args:
        spec: folder, module (`pretrain`, `sft`, or `call` for a function of ours by its path), arguments, environment,
            faults (see `inject`), without (names of fault_guards.GUARDS), log (file of its output).
    """
    os.chdir(spec["folder"])
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(spec["environment"])
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fault in spec["faults"]:
        inject(**fault)
    for guard in spec["without"]:
        fault_guards.GUARDS[guard]()
    try:
        status = entry.main(spec["module"], "", WORKS[spec["module"]], spec["arguments"])
    except SystemExit as left:
        status = int(left.code or 0)
    except BaseException:  # noqa: BLE001 - what python itself would do with it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def inject(where: str, do: str, call: int = 1, after: bool = False, rank: int | None = None) -> None:
    """Let something happen at a call of a function.

    Args:
        where: Its place, `module:function` or `module:Class.method`.
        do: A signal's name, or one of ACTIONS.
        call: Which call of it, counted from 1; 0 is every one.
        after: When it returns, instead of when it is called.
        rank: In this process only.
    """
    if rank is not None and os.environ.get("RANK", "0") != str(rank):
        return
    owner, name = locate(where)
    whole = getattr(owner, name)
    action = ACTIONS.get(do) or (lambda *_: os.kill(os.getpid(), signal.Signals[do]))
    calls = 0

    def harmed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        now = call in (0, calls)
        if now and not after:
            action(args, kwargs, None)
        result = whole(*args, **kwargs)
        changed = action(args, kwargs, result) if now and after else None
        return result if changed is None else changed

    setattr(owner, name, harmed)


def locate(where: str) -> tuple[Any, str]:
    """Owner and name of a function or method."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


# ---------------------------------------------------------------------------------------------------- actions


def _tight_memory(*_: Any) -> None:
    """Leave 64 MiB of address space."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))


def _allocate(*_: Any) -> None:
    torch.empty(1 << 28)  # a GiB, as a step that is too long asks for


def _fill_disk(*_: Any) -> None:
    """Fill the disk of the stages to the last byte."""
    with Path("runs/tiny/stages/filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def _keep_a_copy(*_: Any) -> None:
    """What a kill would leave at this moment, beside the copies before it."""
    copies = Path("copies")
    copies.mkdir(exist_ok=True)
    shutil.copytree("runs/tiny", copies / f"{len(list(copies.iterdir())):02}")


def _nan(args: Any, kwargs: Any, result: Any) -> None:
    """A loss that is no number on its way from the model, its gradient with it."""
    args[1].mul_(float("nan"))


def _infinite_gradient(args: Any, kwargs: Any, result: Any) -> None:
    parameter = next(p for p in args[0].model.parameters() if p.requires_grad)
    parameter.grad[0] = float("inf")


def _steep(args: Any, kwargs: Any, result: Any) -> None:
    """A loss that is finite and whose gradient is not, as an overflow in the backward pass leaves it."""
    args[1].register_hook(lambda gradient: gradient * float("inf"))


def _note_weights(args: Any, kwargs: Any, result: Any) -> None:
    """Write down a hash of the weights as they are now, of this process's own share under ZeRO-3."""
    digest = xxhash.xxh3_128()
    for parameter in args[0].model.parameters():
        digest.update(getattr(parameter, "ds_tensor", parameter).detach().contiguous().numpy().tobytes())
    with Path(f"weights_rank{os.environ.get('RANK', '0')}.txt").open("a") as file:
        file.write(digest.hexdigest() + "\n")


def _nan_weights(args: Any, kwargs: Any, result: Any) -> None:
    """An update that overflowed."""
    with torch.no_grad():
        next(p for p in args[0].model.parameters() if p.requires_grad)[0] = float("nan")


def _other_frequencies(args: Any, kwargs: Any, model: Any) -> Any:
    """RoPE that is not the config's, as an edit after the build leaves it."""
    model.model.rotary_emb.inv_freq.mul_(2)
    return model


def _hang(*_: Any) -> None:
    time.sleep(10_000)


ACTIONS: dict[str, Callable[..., Any]] = {
    "tight memory": _tight_memory,
    "allocate": _allocate,
    "fill the disk": _fill_disk,
    "keep a copy": _keep_a_copy,
    "NaN": _nan,
    "infinite gradient": _infinite_gradient,
    "steep loss": _steep,
    "note the weights": _note_weights,
    "NaN weights": _nan_weights,
    "hang": _hang,
    "other frequencies": _other_frequencies,
}
