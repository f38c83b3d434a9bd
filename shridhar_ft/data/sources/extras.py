"""Libraries that only some formats need."""

from importlib import import_module
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError


def library(name: str, file: Path) -> Any:  # noqa: ANN401 - a module
    """A library of the extra `books`, imported when a file needs it.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{file}: reading it needs {name.partition('.')[0]}, which is not installed; "
            f"pip install 'shridhar_ft[books]'"
        ) from error
