"""Turns pydantic's findings into one sentence: the key, what is wrong with it, the nearest known one."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError


def one_sentence(error: ValidationError, file: Path, model: type[BaseModel]) -> str:
    """The first problem that pydantic found, as one sentence with the key and the mend.

    Args:
        error: What validation raised.
        file: The YAML file, for the sentence.
        model: The model that was validated, for the keys that are known.
    """
    problems = error.errors(include_url=False)
    # An unknown key explains the others (a misspelt required key is also missing), so it goes first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        mend = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{file}: unknown key '{key}'; {mend}{more}"
    if problem["type"] == "missing":
        return f"{file}: '{key}' is missing; add it{more}"
    message = re.sub(r"^Value error, ", "", problem["msg"])
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    if problem["type"] == "string_pattern_mismatch" and problem["loc"][-1] == "name":  # it becomes a folder's name
        message = "a name is made of Latin letters, digits, '.', '_' and '-', and begins with a letter or a digit"
    if problem["type"] == "literal_error" and isinstance(given, str):
        near = difflib.get_close_matches(given, re.findall(r"'([^']+)'", message), n=1)
        message += f"; did you mean '{near[0]}'?" if near else ""
    return f"{file}: {key + ': ' if key else ''}{message}{shown}{more}"


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the section at this place in the model."""
    section: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        section = next(iter(_sections(section.model_fields[part].annotation)), None)
        if section is None:
            return []
    return list(section.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any type expression
    """Model classes inside a type expression such as `list[Stage]` or `Books | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections(inner)
