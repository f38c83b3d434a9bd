"""`shridhar-ft rehearse`: makes the small recipe, goes through its steps, finds what the real run would meet."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe, dump_recipe, load_recipe
from shridhar_ft.config_data import Data
from shridhar_ft.errors import UserError
from shridhar_ft.plan.machines import machine as machine_of
from shridhar_ft.plan.plan import Plan, default_layout, plan_recipe
from shridhar_ft.rehearse.blocks import Block, blocks
from shridhar_ft.rehearse.children import processor_seconds, run_child
from shridhar_ft.rehearse.launching import stand_in
from shridhar_ft.rehearse.making import MADE
from shridhar_ft.rehearse.shrink import SUFFIX, shrink
from shridhar_ft.rehearse.small import Change, Laptop, Made, Shrunk
from shridhar_ft.rehearse.steps import Failed, Step, Transcript, rehearse_run
from shridhar_ft.rehearse.view import as_line, lines
from shridhar_ft.runfolder import (
    RUNS,
    Run,
    as_json,
    environment,
    only_one,
    read_json,
    run_folder,
    write_json,
    write_text,
)

RESULT = "rehearsal.json"
READING = 600  # seconds after which the sample stands in for sources that were not read
WORK = "rehearsal"  # below the run folder: recipes, small data, small base, logs


def rehearse(
    recipe: str, overrides: Sequence[str], say: Callable[[str], None], keep: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Rehearse a recipe.

    Args:
        recipe: RECIPE of the command line.
        overrides: `key.sub=value` strings.
        say: Told each step as it ends.
        keep: Leave the whole run folder there, though every step passed.

    Returns:
        What rehearsal.json holds, and the same as lines.

    Raises:
        UserError: The recipe is wrong, the folder of the rehearsal holds something else, or it is being rehearsed.
    """
    real = load_recipe(recipe, overrides)
    run = Run(RUNS / f"{real.name}{SUFFIX}")
    with only_one(run, "rehearsal"):  # a second one would remove the folder of the first
        return _rehearsed(real, run, say, keep)


def _rehearsed(real: Recipe, run: Run, say: Callable[[str], None], keep: bool) -> tuple[dict[str, Any], list[str]]:
    began, used = time.monotonic(), processor_seconds()
    where = machine_of(real.budget.machine)
    layout, _ = default_layout(real, where)
    work = _fresh(run)
    write_text(work / "real.yaml", dump_recipe(real))
    laptop = _laptop()
    transcript = Transcript(lambda step: say(as_line(step)))
    small: Shrunk | None = None
    made: dict[str, Any] = {}
    try:
        with transcript.step("small data and model") as step:
            made = _made(work, step)
            launch = stand_in(real, layout, laptop)
            small = shrink(real, laptop, _as_made(made, launch.config, launch.layout))
            small.untried += launch.untried
            write_text(work / "recipe.yaml", dump_recipe(small.recipe))
        if made["replaced"]:
            say(f"! NOT YOUR DATA: the bundled sample stands in for {', '.join(made['replaced'])}")
        rehearse_run(work / "recipe.yaml", small.recipe, run, work, transcript)
    except Failed:
        pass  # the transcript has it, and the rest of the answer is worth as much
    plan = _plan(real)
    found = blocks(real, run_folder(real.name), where, plan, made) if made else []
    if made.get("base_problem"):
        found.insert(
            0, Block("base", f"{made['base_problem']}; a plain llama stood in, so the base was not rehearsed.")
        )
    found += [Block("untried", sentence) for sentence in (small.untried if small else [])]
    result = {
        "recipe": real.name,
        "ok": transcript.ok,
        "machine": where.name,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(processor_seconds() - used, 1),
        "steps": [asdict(step) for step in transcript.steps],
        "stumbling_blocks": [asdict(block) for block in found],
        "changes": [asdict(change) for change in (small.changes if small else [])],
        "replaced": made.get("replaced", []),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }
    result = as_json(result)
    write_json(run.root / RESULT, result)
    if transcript.ok and not keep:
        _tidy(run)
    return result, list(lines(result, run.root, keep or not transcript.ok))


def _fresh(run: Run) -> Path:
    """An empty folder for the rehearsal; an earlier rehearsal's goes.

    Raises:
        UserError: Another run has its name.
    """
    work = run.root / WORK
    if run.root.is_dir() and not work.is_dir() and not (run.root / RESULT).is_file():
        raise UserError(f"{run.root}: a run that is no rehearsal bears its name; rename it, or give the recipe another")
    shutil.rmtree(run.root, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def _tidy(run: Run) -> None:
    """Remove what the rehearsal made; its result stays, with the recipe that was run."""
    for path in run.root.iterdir():
        if path.is_dir() and path.name != WORK:
            shutil.rmtree(path)
    for path in (run.root / WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def _laptop() -> Laptop:
    """What this machine can."""
    there = {
        name: find_spec(name) is not None for name in ("deepspeed", "bitsandbytes", "gguf", "conversion", "llama_cpp")
    }
    return Laptop(there["deepspeed"], there["bitsandbytes"], there["gguf"] and there["conversion"], there["llama_cpp"])


def _made(work: Path, step: Step) -> dict[str, Any]:
    """Small data and base, made in a process of their own; what is known of them.

    Raises:
        Failed: Nothing came of it.
    """
    arguments = ["shridhar_ft.rehearse.making", str(work / "real.yaml"), str(work)]
    ended = run_child(arguments, work / "making.log", bound=READING)
    if ended.status not in (0, None) or not (work / MADE).is_file():
        raise Failed(ended.last_word)
    made = read_json(work / MADE)
    if ended.status is None:
        made["unreadable"].append(f"data: not all sources were read within {READING} seconds")
        made["replaced"].append("what was not read in time")
    about = made.get("base_about") or {}
    said = [f"the sample stands in for {', '.join(made['replaced'])}"] if made["replaced"] else []
    if about:
        said.append(
            f"sizes of the base from {about['config']}, {'its own' if about['tokenizer'] else 'a small'} tokenizer"
        )
    step.why = "; ".join(said)
    return made


def _as_made(made: dict[str, Any], config: str, layout: Any) -> Made:  # noqa: ANN401 - plan.layout.Layout
    return Made(
        data=Data.model_validate(made["data"]),
        long_text=made["long_text"],
        others=made["others"],
        launch=config,
        layout=layout,
        glossary=made.get("glossary"),
        rublimp=made.get("rublimp"),
        cut=tuple(Change(key, real, here, "little text, in minutes") for key, real, here in made["cut"]),
        base=made["base"],
        extend=made["extend"],
    )


def _plan(real: Recipe) -> Plan | str:
    """The real recipe's plan on its machine, or why there is none."""
    try:
        return plan_recipe(real, run_folder(real.name), machine_of(real.budget.machine))
    except UserError as error:
        return str(error)
