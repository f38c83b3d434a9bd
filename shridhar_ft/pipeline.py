"""`shridhar-ft run`: data, tokenizer, stages, SFT, export, in order, redoing only what changed.

Training goes through `accelerate launch` in a process of its own, so that the same command serves one CPU and
eight GPUs. A signal to `run` is passed on to the training processes, which save and stop; `run` then returns their
true status, which accelerate itself would turn into 1.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from shridhar_ft.allowed import RESTART, allow_option
from shridhar_ft.backup.beside import backing_up
from shridhar_ft.config import Recipe
from shridhar_ft.cores import cores
from shridhar_ft.engines import PATIENCE, PROCESSES, Engine
from shridhar_ft.entry import UNDER_RUN
from shridhar_ft.errors import BudgetSpent, CheckFailed, DiskFailed, Resumable, Stop, UserError, first_line
from shridhar_ft.monitoring.notify import notifying
from shridhar_ft.monitoring.reporters import check_reporters
from shridhar_ft.nodes import Node
from shridhar_ft.processes import device_type, need_deepspeed
from shridhar_ft.progress import say
from shridhar_ft.report.run_page import write_run_page
from shridhar_ft.runfolder import Run, is_current, only_one, part_of, read_json
from shridhar_ft.shipped import shipped
from shridhar_ft.signals import pass_start_on, stoppable
from shridhar_ft.spending import counted_to_the_end, raised, refuse_if_spent

# glibc hands each large tensor back to the kernel and faults it in again page by page: on two CPU cores that is
# almost half of a training step. With huge pages a step of the shelf-cpu recipe takes 2.0 s instead of 3.6 s. Other
# C libraries do not read the variable, and the user's own setting goes before it.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
STDERR = 2  # file descriptor


def run_recipe(
    recipe: Recipe, run: Run, say: Callable[[str], None] = say, allowed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Do everything that the recipe asks for and that is not done yet.

    Args:
        recipe: The loaded recipe.
        run: Its run folder.
        say: Told each line.
        allowed: What a resume may go on with changed, or without (allowed.py).

    Returns:
        What was made: run folder, parts with their seconds and losses, the certificate's verdict, the run's page.

    Raises:
        Stop: Any part ended early; the status file says where.
    """
    part, node = "prepare", Node.here()
    if not node.first:
        return _train_along(recipe, run, node, say, allowed)
    with only_one(run), counted_to_the_end(run), backing_up(recipe, run, say), notifying(recipe, run, say):
        try:
            refuse_if_spent(recipe, run, _training_folders(recipe, run))
            for sentence in recipe.without_effect():
                say(f"note: {sentence}")
            config = launch_config(recipe)
            engine = Engine.of_file(config)
            for sentence in engine.notes(recipe, device_type(engine)):
                say(f"note: {sentence}")
            check_reporters(recipe.train.report_to)
            from shridhar_ft.preparation import prepare

            if run.root.is_dir():
                run.status(None, part, "preparing")
            with stoppable(part):
                tokenizer = prepare(recipe, run, say)
            for module, wanted in _entries(recipe):
                part = module
                # The other machines cannot know what is trained already: each entry starts on all, and looks itself.
                if wanted and (node.several or not _trained(recipe, run, module, tokenizer, say)):
                    run.status(None, module, "training")
                    _launch(module, run, config, recipe.launch.config == "auto", say, allowed, node)
            part = "export"
            run.status(None, part, "exporting")
            from shridhar_ft.export.run import ensure_export

            with stoppable(part):
                certificate = ensure_export(recipe, run, say)
        except Stop as stop:
            if (run.root / "recipe.yaml").is_file():
                with suppress(DiskFailed):  # the disk that stopped it may be full
                    run.status(
                        stop.status,
                        part,
                        str(stop),
                        resume=shlex.join(
                            [
                                "shridhar-ft",
                                "run",
                                str(run.root / "recipe.yaml"),
                                *allow_option(allowed - {RESTART}),
                                *_raised(recipe, stop),
                            ]
                        ),
                    )
            raise
        run.status(0, "run", "done")
        # Without new samples, which load every model again: `shridhar-ft report` makes them. A second, mostly imports.
        page = _page(run, say)
    return {
        "run": str(run.root),
        "parts": summary(recipe, run),
        "certificate": certificate,
        "report": page,
    }


def _raised(recipe: Recipe, stop: Stop) -> list[str]:
    """What a run that spent its budget needs to go on: more of it."""
    most = recipe.budget.max_usd
    return [raised(most)] if isinstance(stop, BudgetSpent) and most is not None else []


def _page(run: Run, say: Callable[[str], None]) -> str | None:
    """The run's page; None, with a line, where it cannot be made: the run is done, and stays so."""
    try:
        return str(write_run_page(run)["report"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the model is there
        say(f"the page was not made ({type(error).__name__}: {first_line(error)}); try shridhar-ft report {run.root}")
        return None


def _train_along(
    recipe: Recipe, run: Run, node: Node, say: Callable[[str], None], allowed: frozenset[str]
) -> dict[str, Any]:
    """Do a further machine's share: its processes, when the first machine starts its own; nothing else is done here."""
    say(f"machine {node.number}: trains along with {node.head}, which does all the rest")
    config = launch_config(recipe)
    for module, wanted in _entries(recipe):
        if wanted:
            _launch(module, run, config, recipe.launch.config == "auto", say, allowed, node)
    return {"run": str(run.root), "parts": summary(recipe, run), "certificate": None}


def _entries(recipe: Recipe) -> tuple[tuple[str, bool], ...]:
    """What trains, in order, and whether the recipe wants it."""
    return ("pretrain", bool(recipe.stages)), ("sft", recipe.sft is not None)


def summary(recipe: Recipe, run: Run) -> list[dict[str, Any]]:
    """The finished parts of a run: seconds, peak memory, and the losses of those that train."""
    from shridhar_ft.stages import part_names

    kept = ("seconds", "peak_rss_bytes", "loss_before", "loss_after", "steps", "context", "method")
    found = []
    for name in ("data", "tokenizer", *part_names(recipe), "export"):
        if part := part_of(run.root / name):
            found.append({"part": name, **{key: value for key, value in part.items() if key in kept}})
    return found


# -------------------------------------------------------------------------------------------------- launch


def launch_config(recipe: Recipe) -> Path:
    """The accelerate config that training starts under.

    Raises:
        UserError: It does not exist, or cannot do what the recipe asks for.
    """
    if recipe.launch.config != "auto":
        path = Path(recipe.launch.config)
        if not path.is_file():
            known = ", ".join(sorted(p.name for p in shipped("accelerate_configs").glob("*.yaml")))
            raise UserError(f"launch.config: {path} does not exist; shipped ones are accelerate_configs/ with {known}")
        engine = Engine.of_file(path)
        engine.check(recipe, device_type(engine))
        if engine.deepspeed:
            need_deepspeed()
        return path
    import torch

    if torch.cuda.is_available():
        name = "ddp" if torch.cuda.device_count() > 1 else "single_gpu"
    else:
        name = "mps" if torch.backends.mps.is_available() else "cpu"
    return shipped(f"accelerate_configs/{name}.yaml")


def _trained(recipe: Recipe, run: Run, module: str, tokenizer: Any, say: Callable[[str], None]) -> bool:  # noqa: ANN401
    """Whether every part of this entry is current, so that no process need be started for it."""
    from shridhar_ft.stages import part_names, training_part

    names = [name for name in part_names(recipe) if (name == "sft") is (module == "sft")]
    # all() stops at the first that is not: the fingerprint of the next could not be known.
    current = all(is_current(run.root / name, training_part(recipe, run, name, tokenizer).made_from) for name in names)
    if current:
        say(f"{module}: up to date")
    return current


def _training_folders(recipe: Recipe, run: Run) -> list[Path]:
    return [*(run.stage(stage.name) for stage in recipe.stages), *([run.sft] if recipe.sft else [])]


def _launch(
    module: str,
    run: Run,
    config: Path,
    automatic: bool,
    say: Callable[[str], None],
    allowed: frozenset[str],
    node: Node,
) -> None:
    """Start an entry under accelerate and wait for its end."""
    engine = Engine.of_file(config)
    processes = _processes(engine, automatic)
    local = -(-processes // engine.layout.nodes)
    threads = max(1, cores() // local)
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--quiet"),
        *("--num_cpu_threads_per_process", str(threads), "--num_processes", str(processes)),
        *node.launch_options(module),
        *("-m", f"shridhar_ft.{module}", str(run.root / "recipe.yaml"), *allow_option(allowed)),
    ]
    say(f"{module}: accelerate launch --config_file {config.name} ({processes} process{'es' if processes > 1 else ''})")
    environment = HUGE_PAGES | PATIENCE | os.environ | {UNDER_RUN: "1", PROCESSES: str(processes)} | pass_start_on()
    if engine.cpu:  # accelerate's launcher forgets it where it launches several processes
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    # A session of its own: Ctrl-C then reaches the training through us, once, and not accelerate, which would die.
    # Its standard output goes to standard error: what we say goes there anyway, and what libraries print would stand in
    # the middle of --json.
    child = subprocess.Popen(command, env=environment, start_new_session=True, stdout=STDERR)

    asked = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        training = training_processes(child.pid)
        for process in training:
            process.send_signal(number)
        if not training:  # accelerate itself is still starting
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = child.wait()
        _wait_for_orphans(child.pid)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0:
        return
    status = _last_word(run, 0 if node.first else 20)
    known = {stop.status: stop for stop in Stop.__subclasses__() if stop is not Stop} | {75: Resumable, 1: CheckFailed}
    if status.get("status") in known and status["part"] == module:
        raise known[status["status"]](status["message"])
    if asked:
        raise Resumable(f"{module}: stopped before it began to train")
    raise CheckFailed(f"{module} ended with status {code} and no word of its own; the lines above tell more")


def _last_word(run: Run, patience: float) -> dict[str, Any]:
    """The status file once it holds an end, or as it is after so many seconds: the first machine writes it."""
    until = time.monotonic() + patience
    while (status := read_json(run.root / "status.json"))["status"] is None and time.monotonic() < until:
        time.sleep(0.5)
    return dict(status)


def _processes(engine: Engine, automatic: bool) -> int:
    """Processes to start: those of the config; where we chose the config ourselves, one for each GPU."""
    if automatic and engine.launcher == "MULTI_GPU":
        import torch

        return torch.cuda.device_count()
    return engine.processes


def training_processes(launcher: int) -> list[psutil.Process]:
    """The processes that train: those below the launcher that have no children of ours themselves."""
    try:
        below = psutil.Process(launcher).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if "shridhar_ft" in " ".join(process.cmdline()) and not process.children()]


def _wait_for_orphans(session: int) -> None:
    """Stop and wait for training processes that outlived their launcher; they would write into the next run."""
    orphans = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                process.terminate()
                orphans.append(process)
    psutil.wait_procs(orphans)
