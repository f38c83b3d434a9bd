"""`shridhar-ft eval`: finds the model, the texts and the folder of the results, and runs the suite.

A model that lies in a run is measured on that run's texts; any other model, e.g. the base, on those of a run that is
named.

    runs/<name>/eval/results.json             the run's export
    runs/<name>/eval/models/<label>/…         its parts, its GGUFs, other models
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe, find_recipe, load_recipe
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.compare import compare
from shridhar_ft.evaluation.gguf_reader import GgufReader
from shridhar_ft.evaluation.hf_reader import open_folder, open_part
from shridhar_ft.evaluation.lm_eval import write_tasks
from shridhar_ft.evaluation.materials import materials_of
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.runner import RESULTS, check_base, evaluate
from shridhar_ft.evaluation.suite import load_suite
from shridhar_ft.export.card import with_evaluation
from shridhar_ft.export.run import open_run
from shridhar_ft.runfolder import RUNS, Run, check_owner, disk_errors, fingerprint, part_of, write_text

Say = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """What is measured, and where its results go."""

    kind: str
    """folder, part or gguf."""
    path: Path
    name: str
    run: Run | None
    """The run that it lies in."""
    folder: str
    """Below the eval folder of the run whose texts are read; empty for that run's own export."""


def run_eval(
    what: str,
    overrides: list[str],
    say: Say,
    suite: str | None = None,
    texts: str | None = None,
    base: str | None = None,
    context: int = 0,
    lm_eval: str | None = None,
) -> tuple[dict[str, Any], Path]:
    """Measure what the user names.

    Args:
        what: RECIPE, RUN, a part of a run, a model folder, or a GGUF.
        overrides: `eval.key=value`, and other keys of the run's recipe.
        say: Told each line.
        suite: A suite's name or file (default: the recipe's).
        texts: The run whose texts are read (default: the one that the model lies in).
        base: Results of the base by the same suite, whose scores are floors: a run, or a folder with results.json.
        context: Tokens of a GGUF's window; 0 takes the file's own.
        lm_eval: Write the suite's items as tasks of lm-evaluation-harness into this folder, and measure nothing.

    Returns:
        The results, and the folder that they are in.

    Raises:
        UserError: There is no such model, run or suite, or the base was measured by something else.
    """
    target = find_target(what)
    run = find_run(texts) if texts is not None else target.run
    if run is None:
        raise UserError(f"{what} lies in no run; name the run whose held-out texts it is measured on with --texts RUN")
    recipe = load_recipe(run.root / "recipe.yaml", overrides)
    wanted = load_suite(suite or recipe.eval.suite)
    materials = materials_of(recipe, run)
    floor = results_folder(base) if base is not None else None
    if floor is not None:
        check_base(floor, wanted, materials, recipe.seed)  # before the model is opened
    label = target.folder if run.root == (target.run.root if target.run else None) else _label(target)
    folder = run.root / "eval" / label
    reader = open_reader(target, recipe, context)
    if isinstance(reader, GgufReader) and reader.model.attending.why:
        say(f"eval: {reader.model.attending.why}")
    say(f"eval: {target.name}, a window of {reader.window:,} tokens, on the texts of {run.root}")
    if lm_eval is not None:
        return write_tasks(reader, wanted, materials, Path(lm_eval), recipe.seed), Path(lm_eval)
    results = evaluate(reader, wanted, materials, folder, recipe.seed, say, floor)
    card = run.export / "README.md"
    if not label and card.is_file():
        with disk_errors(card):
            write_text(card, with_evaluation(card.read_text(encoding="utf-8"), results))
        say(f"eval: the scores stand in the model card too ({card})")
    return results, folder


def open_reader(target: Target, recipe: Recipe, context: int = 0) -> Reader:
    """The model of a target, ready to be read."""
    if target.kind == "gguf":
        return GgufReader(target.path, target.name, context)
    if target.kind == "part":
        assert target.run is not None, "a part lies in a run"
        own, _ = open_run(target.run.root)
        return open_part(own, target.run, str(target.path.relative_to(target.run.root)), target.name)
    return open_folder(target.path, target.name)


def find_target(what: str) -> Target:
    """What a command's argument means.

    Raises:
        UserError: Nothing that can be measured.
    """
    path = Path(what)
    inside = _run_around(path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{what}: there is no such file; name a GGUF, a run folder or a folder with config.json")
        return Target("gguf", path, path.name, inside, f"models/{_plain(path.stem)}-gguf")
    if inside is not None and (path / "part.json").is_file() and path.resolve() != inside.export.resolve():
        part = path.resolve().relative_to(inside.root.resolve())
        if (part_of(path) or {}).get("weights"):
            return Target("part", inside.root / part, str(part), inside, f"models/{_plain(str(part))}")
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            own = inside is not None and folder.resolve() == (inside.export / "model").resolve()
            return Target("folder", folder, _name(folder), inside, "" if own else f"models/{_plain(_name(folder))}")
    run = find_run(what)
    model = run.export / "model"
    if not (model / "config.json").is_file():
        raise UserError(
            f"{run.root}: nothing is exported yet; run `shridhar-ft export {run.root}`, or name a part of it"
        )
    return Target("folder", model, run.name, run, "")


def find_run(what: str) -> Run:
    """The run of a run folder, of a run's name, or of a recipe.

    Raises:
        UserError: There is none.
    """
    for folder in (Path(what), RUNS / what):
        if (folder / "recipe.yaml").is_file() and (folder / "data" / "part.json").is_file():
            run = Run(folder)
            check_owner(run)
            return run
    try:
        run = Run(RUNS / load_recipe(find_recipe(what)).name)
    except UserError as error:
        raise UserError(
            f"{what}: no model there; name a run folder (runs/NAME), a recipe, a folder with config.json, or a GGUF"
        ) from error
    if not (run.data / "part.json").is_file():
        raise UserError(f"{run.root}: nothing is built yet; run `shridhar-ft run {what}` first")
    check_owner(run)
    return run


def results_folder(what: str) -> Path:
    """The folder with results.json that the user means: it, a run's, or that of a part or model as `eval` takes it.

    Raises:
        UserError: There are no results.
    """
    path = Path(what)
    candidates = (path, path.parent if path.name == RESULTS else path, path / "eval", RUNS / what / "eval")
    for folder in candidates:
        if (folder / RESULTS).is_file():
            return folder
    with suppress(UserError):  # no model either: the sentence below says enough
        target = find_target(what)
        if target.run is not None and (target.run.root / "eval" / target.folder / RESULTS).is_file():
            return target.run.root / "eval" / target.folder
    raise UserError(f"{what}: no {RESULTS} there; run `shridhar-ft eval` on that model first")


def compare_results(ours: str, theirs: str) -> dict[str, Any]:
    """The differences of two evaluations; see `compare`."""
    return compare(results_folder(ours), results_folder(theirs))


def _run_around(path: Path) -> Run | None:
    """The run folder that a path lies in."""
    for parent in path.resolve().parents:
        if (parent / "recipe.yaml").is_file() and (parent / "data" / "part.json").is_file():
            return Run(_as_given(parent))
    return None


def _as_given(folder: Path) -> Path:
    """Relative to the working folder where it lies below it: results name no more of the machine than they need."""
    here = Path.cwd().resolve()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _name(folder: Path) -> str:
    """A model folder's own name; that of an export or of what holds it, where it is only called `model`."""
    path = folder.resolve()
    while path.name in ("model", "export"):
        path = path.parent
    return path.name


def _label(target: Target) -> str:
    """Folder of a model from elsewhere: its name, and a piece of its place's hash where two bear the same."""
    return f"models/{_plain(target.name)}-{fingerprint(str(target.path.resolve()))[:6]}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
