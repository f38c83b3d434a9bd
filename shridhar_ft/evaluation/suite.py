"""A suite: a YAML file that lists tasks and their settings, and what a task is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml
from pydantic import ValidationError

from shridhar_ft.config import read_yaml
from shridhar_ft.config_data import Section
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.measures import Measure, Record, Score
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.shipped import shipped

SUITES = Path("eval/suites")
TASKS = {
    "loss_by_position": "shridhar_ft.evaluation.positions",
    "bits_per_byte": "shridhar_ft.evaluation.bytes",
    "retention": "shridhar_ft.evaluation.retention",
    "ru_pairs": "shridhar_ft.evaluation.ru_pairs",
    "style_acceptance": "shridhar_ft.evaluation.style",
    "term_cloze": "shridhar_ft.evaluation.term_cloze",
    "glossary_questions": "shridhar_ft.evaluation.glossary_questions",
    "dialogue": "shridhar_ft.evaluation.dialogue",
    "speed": "shridhar_ft.evaluation.speed",
    "lm_eval": "shridhar_ft.evaluation.hub",
}
"""Module of each task; it is imported only when a suite names it."""
BY_TOKENS = frozenset({"loss_by_position"})
"""Tasks whose passages are cut by tokens: under one key another tokenizer has another passage."""

Item = dict[str, Any]


class Task(Protocol):
    """A task, made for one evaluation; the module of each has a class `Settings` and a function `make`.

    The items hang on materials, settings and seed alone (and on the tokenizer, where they have a length), so that two
    models get the same ones.
    """

    batch: int
    """Items that are measured together."""
    version: int
    """Raised when the same settings and texts give other records than before."""

    def items(self, reader: Reader) -> list[Item]:
        """What is asked, each with a `key` of its own.

        Raises:
            Unmeasured: The texts do not suffice.
        """

    def measure(self, reader: Reader, items: Sequence[Item]) -> Iterator[Record]:
        """The records of a batch, one an item, ready for JSON, with the item's `key`."""

    def measures(self, records: Sequence[Record]) -> list[Measure]:
        """What is made of the records."""

    def scores(self, records: Sequence[Record], found: Mapping[str, Score], base: Sequence[Record]) -> dict[str, Any]:
        """Put floors, ceilings and targets into the scores.

        Args:
            records: All records.
            found: The scores by the measures' names.
            base: Records of the base model on the same items; empty where none was named.

        Returns:
            Details for the results, e.g. a heat map.
        """


@runtime_checkable
class Judging(Protocol):
    """A task whose records are judged all together before anything is measured of them."""

    def judged(self, records: Sequence[Record], base: Sequence[Record]) -> tuple[list[Record], dict[str, Any]]:
        """The judged records with their keys, and details for the results."""


@dataclass(frozen=True)
class Wanted:
    """A task as a suite wants it."""

    name: str
    settings: Section

    def make(self, materials: Materials, seed: int) -> Task:
        """The task for these texts."""
        return import_module(TASKS[self.name]).make(self.settings, materials, seed)


def suite_file(name: str) -> Path:
    """The file of a suite: a path, or the name of a shipped one.

    Raises:
        UserError: There is no such suite.
    """
    for candidate in (Path(name), shipped(SUITES / f"{name}.yaml"), shipped(name)):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in shipped(SUITES).glob("*.yaml")))
    raise UserError(f"suite: there is no suite '{name}'; give a YAML file, or one of {known}")


def load_suite(name: str) -> list[Wanted]:
    """The tasks of a suite in their order.

    Args:
        name: As `suite_file` takes it.

    Raises:
        UserError: The file is no suite, names an unknown task, or a setting does not fit.
    """
    file = suite_file(name)
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: no valid YAML in UTF-8; mend it") from error
    tasks = raw.get("tasks") if isinstance(raw, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(f"{file}: a suite is a mapping with `tasks:`, each a name with its settings below it")
    return [_wanted(file, task, settings or {}) for task, settings in tasks.items()]


def _wanted(file: Path, task: str, settings: Any) -> Wanted:  # noqa: ANN401 - any YAML
    if task not in TASKS:
        raise UserError(f"{file}: no task is called '{task}'; there are {', '.join(TASKS)}")
    schema = import_module(TASKS[task]).Settings
    try:
        return Wanted(task, schema.model_validate(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (task, *first["loc"])))
        raise UserError(f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
