"""Durations as people write them: 11h30m, 90m, 45s."""

import re
from typing import Annotated

from pydantic import BeforeValidator

_PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds(text: str) -> int:
    """Seconds of a duration.

    Raises:
        ValueError: It is none, or nothing.
    """
    match = _PARTS.fullmatch(text)
    found = (
        sum(int(number or 0) * size for number, size in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
        if match
        else 0
    )
    if not found:
        raise ValueError("a duration is written as 11h30m, 90m or 45s")
    return found


def _written(value: object) -> object:
    # YAML reads 11:30 as the number 690, so that a bare number cannot be taken for seconds.
    seconds(value if isinstance(value, str) else "")
    return value


Duration = Annotated[str, BeforeValidator(_written)]
