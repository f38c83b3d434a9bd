"""What `pretrain` and `sft` share as programs: arguments, the lock, the status file, the exit status.

`accelerate launch` and torchrun turn every child's exit status into 1, so the true one is also in
runs/<name>/status.json.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, cast

from shridhar_ft.allowed import ALLOW, RESTART, allow_option, parse_allowed
from shridhar_ft.backup.beside import backing_up
from shridhar_ft.config import Recipe, load_recipe
from shridhar_ft.engines import check_processes, impatient_launcher
from shridhar_ft.errors import STOPPED, DiskFailed, Resumable, Stop
from shridhar_ft.model.build import base_config
from shridhar_ft.monitoring.notify import notifying
from shridhar_ft.monitoring.reporters import check_reporters
from shridhar_ft.plan.check import NO_PLAN, machine_here, refuse_what_cannot_fit
from shridhar_ft.plan.free_memory import room_bytes
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.plan.meta import shape_on_meta
from shridhar_ft.progress import print_error, quiet, say
from shridhar_ft.runfolder import Run, only_one, read_json, run_folder
from shridhar_ft.signals import stoppable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from shridhar_ft.plan.machines import Kind

UNDER_RUN = "SHRIDHAR_FT_UNDER_RUN"  # set by `shridhar-ft run`, which holds the lock itself

Work = Callable[[Recipe, Run, "PreTrainedTokenizerBase", frozenset[str]], None]


def main(module: str, does: str, work: Work, arguments: Sequence[str] | None = None) -> int:
    """Parse, prepare, work, and leave the status.

    Args:
        module: `pretrain` or `sft`.
        does: One line for `--help`.
        work: What the entry does once data and tokenizer stand.
        arguments: Command line without the program's name.

    Returns:
        The exit status.
    """
    with ExitStack() as to_the_end:  # what outlives the last word in the status file, and copies it
        return _main(module, does, work, arguments, to_the_end)


def _main(module: str, does: str, work: Work, arguments: Sequence[str] | None, to_the_end: ExitStack) -> int:
    ask = argparse.ArgumentParser(
        prog=f"accelerate launch -m shridhar_ft.{module}",
        description=does,
        epilog=f"example: accelerate launch -m shridhar_ft.{module} recipes/demo train.learning_rate=3e-4",
    )
    ask.add_argument("recipe", metavar="RECIPE", help="a YAML file, a folder with recipe.yaml, or a shipped name")
    ask.add_argument("overrides", metavar="key.sub=value", nargs="*", help="settings that replace the recipe's")
    ask.add_argument("--allow", metavar="NAME,…", action="append", default=[], help=ALLOW)
    ask.add_argument("--no-plan", action="store_true", help="try what does not fit by the plan")
    given = ask.parse_intermixed_args(arguments)
    if given.no_plan:
        os.environ[NO_PLAN] = "1"
    first = os.environ.get("RANK", "0") == "0"
    under_run = UNDER_RUN in os.environ
    run: Run | None = None
    allowed: frozenset[str] = frozenset()
    try:
        allowed = parse_allowed(given.allow)
        recipe = load_recipe(given.recipe, given.overrides)
        run = run_folder(recipe.name)
        with ExitStack() as held:
            held.enter_context(stoppable(module))
            if first:
                held.enter_context(only_one(run, "training"))
            if first and not under_run:
                held.enter_context(only_one(run))
                to_the_end.enter_context(backing_up(recipe, run, say))
                held.enter_context(notifying(recipe, run, say))
            if first and not under_run and run.root.is_dir():
                run.status(None, module, "training")
            _work(module, recipe, run, work, allowed)
        if first and not under_run:  # else more parts follow, and `run` says when all is done
            run.status(0, module, "done")
        return 0
    except Stop as stop:
        command = ["accelerate", "launch", "-m", f"shridhar_ft.{module}", given.recipe, *given.overrides]
        command += allow_option(allowed - {RESTART})  # done already, and not to be done twice
        command += ["--no-plan"] if given.no_plan else []
        again = shlex.join(command)
        if not (first or _speaks_for_all(run)):
            return stop.status
        if not under_run:  # `run` says it itself
            print_error(str(stop))
            if isinstance(stop, Resumable):
                print_error(f"to go on: {again}")
        if run is not None and not (isinstance(stop, Resumable) and _has_failed(run)):
            with suppress(DiskFailed):  # the disk that stopped it may be full
                run.status(stop.status, module, str(stop), resume=again)
        return stop.status


def _speaks_for_all(run: Run | None) -> bool:
    """Whether a rank beside the first has to leave the status: the first waits for it in an exchange, and cannot."""
    for _ in range(20):
        if run is None or _status(run) is not None:
            return False
        time.sleep(0.1)
    return True


def _has_failed(run: Run) -> bool:
    """Whether another rank left a failure, after which the launcher ended this one by a signal."""
    return _status(run) not in (None, 0, Resumable.status)


def _status(run: Run) -> int | None:
    file = run.root / "status.json"
    return read_json(file)["status"] if file.is_file() else None


def _work(module: str, recipe: Recipe, run: Run, work: Work, allowed: frozenset[str]) -> None:
    from shridhar_ft.allocator import keep_memory_low
    from shridhar_ft.preparation import prepare
    from shridhar_ft.processes import device_type, join, launched

    check_reporters(recipe.train.report_to)
    keep_memory_low()  # torch reads it at the first tensor
    engine = launched()
    engine.check(recipe, device_type(engine))
    state = join(engine)
    check_processes(state.num_processes)
    tell = say if state.is_main_process else quiet
    if UNDER_RUN not in os.environ:
        for sentence in (*recipe.without_effect(), *engine.notes(recipe, state.device.type)):
            tell(f"note: {sentence}")
        if impatient := impatient_launcher():
            tell(f"note: {impatient}")
    _refuse_what_cannot_fit(module, recipe, run, state.device, tell)
    with state.main_process_first():
        tokenizer = prepare(recipe, run, tell)
    work(recipe, run, tokenizer, allowed)


def _refuse_what_cannot_fit(
    module: str, recipe: Recipe, run: Run, device: "torch.device", tell: Callable[[str], None]
) -> None:
    """The plan of this entry's parts on this machine; every rank finds the same, and refuses alike."""
    layout, kind = layout_here(), cast("Kind", device.type)
    machine = machine_here(kind, room_bytes(device), layout)
    refuse_what_cannot_fit(
        recipe, run, module, machine, layout, tell, lambda held, size: shape_on_meta(base_config(held.model, size))
    )


def leave(status: int) -> None:
    """End the process with this status, its output flushed and the other processes let go of."""
    if "torch" in sys.modules:
        from shridhar_ft.processes import part_company

        part_company(agreed=status in (0, *STOPPED))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
