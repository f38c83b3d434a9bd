"""What travels to the machine: the package from its checkout, the recipe, and the user's data, nothing beside them."""

import os
from pathlib import Path

from shridhar_ft import __version__
from shridhar_ft.cloud.target import Target
from shridhar_ft.config_data import Books, Rows
from shridhar_ft.shipped import PACKAGE, shipped

SOURCE = ("pyproject.toml", "README.md", "LICENSE", "shridhar_ft", "recipes", "eval", "accelerate_configs")
"""What a checkout's wheel is built from."""


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


def local_name(path: str | Path) -> str:
    """A path as it is written into a file that is used from the working folder: relative where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def data_paths(target: Target) -> list[str]:
    """The user's own sources, as paths; of a pattern the folder that it is in."""
    recipe = target.recipe
    data = recipe.data
    sources: list[Books | Rows] = [*([data.books] if data.books else []), *data.texts, *data.dialogues]
    named = [path for source in sources for path in source.paths]
    named += [*recipe.eval.long_text, *recipe.eval.others]
    named += [path for path in (recipe.eval.glossary, recipe.eval.rublimp) if path]
    named += [path for path in (recipe.model.base, recipe.tokenizer.extend) if path and Path(path).is_absolute()]
    named += [recipe.eval.suite] if recipe.eval.suite.endswith(".yaml") else []
    whole = []
    for path in named:
        while any(sign in path for sign in "*?["):
            path = str(Path(path).parent)
        if in_checkout() or not Path(path).is_relative_to(PACKAGE):  # what ships with the package is there already
            whole.append(local_name(path))
    return _outermost(whole)


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
