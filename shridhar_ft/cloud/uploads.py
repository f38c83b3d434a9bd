"""What travels to the machine: the package from its checkout, the recipe, and the user's data, nothing beside them."""

import glob
import json
import os
from pathlib import Path
from typing import Any

from shridhar_ft import __version__
from shridhar_ft.cloud.target import Target
from shridhar_ft.config import named_paths, raw_recipe
from shridhar_ft.paths import existing
from shridhar_ft.shipped import PACKAGE, shipped

SOURCE = ("pyproject.toml", "README.md", "LICENSE", "shridhar_ft", "recipes", "eval", "accelerate_configs")
"""What a checkout's wheel is built from."""
SHIPPED = ("recipes", "eval", "accelerate_configs")
"""What a wheel brings beside its code."""


def in_checkout() -> bool:
    """Whether the working folder is the checkout that this program runs from."""
    return Path("pyproject.toml").is_file() and Path("shridhar_ft").resolve() == PACKAGE


def requirements(target: Target) -> str:
    """What pip installs there, as a shell takes it: the checkout or this very version, and what gets the curves."""
    deepspeed = target.plan.layout.deepspeed
    gguf = ("gguf", "llama-cpp") if target.recipe.export.gguf_kinds else ()
    flash = ("flash",) if target.recipe.model.attention == "flash" or target.plan.layout.sequence > 1 else ()
    extras = ",".join(("books", "cloud", *(("deepspeed",) if deepspeed else ()), *flash, *gguf))
    own = f".[{extras}]" if in_checkout() else f"shridhar_ft[{extras}]=={__version__}"
    return " ".join([f"'{own}'", *target.recipe.train.report_to])


def recipe_argument(target: Target) -> str:
    """RECIPE as the command line there takes it: a shipped one by its name, where the package brings it along."""
    file = target.file.parent if target.file.name == "recipe.yaml" else target.file
    return file.name if comes_along(target.file) else local_name(file)


def comes_along(file: Path) -> bool:
    """Whether a recipe ships with the package that is used from elsewhere: it is there already wherever that is."""
    return not in_checkout() and file.resolve().is_relative_to(shipped("recipes").resolve())


def _is_brought(path: str | Path) -> bool:
    """Whether a path lies in what the package brings along: recipes and their samples, suites, configs."""
    return any(Path(path).is_relative_to(shipped(name).resolve()) for name in SHIPPED)


def local_name(path: str | Path) -> str:
    """A path as it is written into a file that is used from the working folder: relative where it lies below it."""
    relative = os.path.relpath(path)
    return _absolute(path) if Path(relative).parts[:1] == ("..",) else relative


def _absolute(path: str | Path) -> str:
    """From the root and without `..`, symbolic links as they are: the same words are to name it there."""
    return os.path.normpath(Path.cwd() / path)


def data_paths(target: Target) -> list[str]:
    """The user's own sources, as paths; of a pattern the folder that it is in."""
    whole = [
        local_name(path)
        for paths in named_paths(target.recipe).values()
        for named in paths
        if in_checkout() or not _is_brought(named)  # what ships with the package is there already
        for path in _whole(named)
    ]
    return _outermost(whole)


def _whole(path: str) -> list[str]:
    """What has to be there for a path: itself, or the folder of a pattern, or its files where that holds all else too.

    A pattern's folder that the working folder lies in holds the environment and other runs.
    """
    folder = Path(path)
    while any(sign in str(folder) for sign in "*?[") and not folder.exists():
        folder = folder.parent
    if folder != Path(path) and Path.cwd().is_relative_to(_absolute(folder)):
        return sorted(glob.glob(path)) or [path]
    return [str(folder)]


def missing(target: Target) -> str | None:
    """What the recipe names and is not on this machine, in one sentence; None where all of it is here."""
    lost = [
        f"{key}: {local_name(path)}"
        for key, paths in named_paths(target.recipe).items()
        for path in paths
        if existing(Path(), path) is None
    ]
    if not lost:
        return None
    where = "where the job is started" if target.cloud == "slurm" else "in the folder that the task is started from"
    return f"not on this machine: {'; '.join(lost)}; the run needs them: have them {where}, or mend the paths"


def settings_of_paths(target: Target) -> list[str]:
    """Overrides for the paths that would mean another place there: outside of the working folder, or of a home.

    What lies below the working folder here lies below the one there; all else lies at its absolute path.
    """
    if target.cloud == "slurm":  # whose machines see the same folders
        return []
    raw = raw_recipe(target.file, target.overrides, from_here=False)
    said = []
    for key, paths in named_paths(target.recipe).items():
        if all(_is_the_same(*pair, target.file) for pair in zip(_written(raw, key), paths, strict=True)):
            continue
        there = [local_name(path) for path in paths]
        said.append(f"{key}={json.dumps(there if len(there) > 1 else there[0], ensure_ascii=False)}")
    return said


def _written(raw: Any, key: str) -> list[str]:  # noqa: ANN401 - any YAML
    """The paths of a key as the recipe's file, or the command line, has them."""
    for part in key.split("."):
        raw = raw[int(part)] if isinstance(raw, list) else raw[part]
    return [str(path) for path in raw] if isinstance(raw, list) else [str(raw)]


def _is_the_same(written: str, found: str, file: Path) -> bool:
    """Whether a path as it is written is found there where the file that it names here is put."""
    there = local_name(found)
    if written.startswith("~"):
        return False
    if Path(written).is_absolute():
        return os.path.normpath(written) == there
    if not in_checkout() and _is_brought(found):
        return True
    return there in (os.path.normpath(written), os.path.normpath(Path(local_name(file.parent)) / written))


def data_bytes(paths: list[str]) -> int:
    """Bytes that these hold, as far as they are here."""
    files = [file for path in paths for file in (Path(path), *Path(path).rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in set(files))


def mounts(target: Target) -> tuple[list[str], list[str]]:
    """Local paths that go to the same place below the working folder there: the program's, and the user's data."""
    program = [*SOURCE] if in_checkout() else []
    beside = [] if comes_along(target.file) else [local_name(target.file)]
    program = _outermost([*program, *beside, *([target.launch.config] if target.launch.text is not None else [])])
    data = [path for path in data_paths(target) if not any(_below(path, other) for other in program)]
    return program, data


def _outermost(paths: list[str]) -> list[str]:
    """Each once, without those that lie inside another."""
    unique = list(dict.fromkeys(paths))
    return [path for path in unique if not any(_below(path, other) for other in unique if other != path)]


def _below(path: str, other: str) -> bool:
    return Path(path).is_relative_to(other)
