"""Services that figures go to by name (`train.report_to`); nothing is sent to one that is not named."""

from collections.abc import Sequence
from importlib.util import find_spec

from shridhar_ft.errors import UserError


def check_reporters(names: Sequence[str]) -> None:
    """Refuse a service whose package is not installed.

    Raises:
        UserError: One is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"train.report_to: {name} is not installed; pip install {name}, or take it out of the list")
