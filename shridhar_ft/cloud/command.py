"""`shridhar-ft cloud`: choose the machine, write the files, say what it costs and how it starts."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shridhar_ft.cloud.sky import task
from shridhar_ft.cloud.slurm import script
from shridhar_ft.cloud.target import Target, Wish, choose
from shridhar_ft.cloud.uploads import comes_along, data_bytes, data_paths, local_name, missing, settings_of_paths
from shridhar_ft.cloud.words import overrides, plan_sentences
from shridhar_ft.config import find_recipe
from shridhar_ft.runfolder import write_text


def folder_for(recipe: str, given: str | None) -> Path:
    """Where the files go: the folder given, else `cloud/` beside the recipe, or here for one inside the package."""
    if given is None:
        file = find_recipe(recipe)
        return Path("cloud") if comes_along(file) else Path(local_name(file.parent / "cloud"))
    return Path(local_name(given))


def write(recipe: str, given: Sequence[str], wish: Wish, made_by: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Write the files of one cloud.

    Args:
        recipe: RECIPE of the command line.
        given: `key.sub=value` strings.
        wish: Cloud, machine, folder.
        made_by: The command line's words.

    Returns:
        The answer as JSON and as lines.

    Raises:
        UserError: See `choose`; nothing was written then.
    """
    target = choose(recipe, given, wish)
    written = texts(target, wish.folder, shlex.join(made_by))
    for file, text in written.items():
        write_text(file, text)
    return _as_json(target, list(written)), [
        *(f"written: {file}" for file in written),
        *plan_sentences(target),
        *(f"note: {setting} is what the path is called on the machine" for setting in settings_of_paths(target)),
        *([f"note: {lost}"] if (lost := missing(target)) else []),
        "how it starts and what it leaves stands at the head of the file; docs/CLOUD.md says the rest",
    ]


def texts(target: Target, folder: Path, made_by: str) -> dict[Path, str]:
    """The files with what they hold, the one to start first."""
    file = folder / f"{target.name}.{'sbatch' if target.cloud == 'slurm' else 'yaml'}"
    write = script if target.cloud == "slurm" else task
    found = {file: write(target, made_by, str(file))}
    if target.launch.text is not None:
        found[Path(target.launch.config)] = target.launch.text
    return found


def _as_json(target: Target, files: list[Path]) -> dict[str, Any]:
    return {
        "recipe": target.recipe.name,
        "cloud": target.cloud,
        "machine": target.machine.name,
        "nodes": target.nodes,
        "spot": target.spot,
        "files": [str(file) for file in files],
        "settings": overrides(target),
        "missing": missing(target),
        "hours": target.plan.hours,
        "usd_per_hour": None if target.price is None else target.price * target.nodes,
        "usd": target.usd,
        "priced": target.machine.priced,
        "source": target.machine.source,
        "disk_gb": target.disk_gb(data_bytes(data_paths(target))),
        "max_usd": target.recipe.budget.max_usd,
    }
