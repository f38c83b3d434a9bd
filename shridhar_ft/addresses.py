"""Where word of a run goes (`train.notify`): an address or a command, and what of it may leave this machine.

The token of a webhook is part of its address. It may leave where what is secret comes from the environment, as in
`https://ntfy.sh/$TOPIC`; else it stays out of the backup and of the run's page.
"""

import re
import shlex
import urllib.parse
from typing import Any

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")  # as os.path.expandvars reads them


def is_url(to: str) -> bool:
    """Whether it is an address, and not a shell command."""
    return to.lower().startswith(("http://", "https://"))


def named_in(to: str) -> list[str]:
    """Variables of the environment that an address refers to; those of a command are its shell's own affair."""
    return list(dict.fromkeys(first or second for first, second in _VARIABLE.findall(to))) if is_url(to) else []


def may_leave(to: str) -> bool:
    """Whether it takes what is secret from the environment: a name or a value of a query that is written out is not."""
    if not _VARIABLE.search(to):
        return False
    if not is_url(to):
        return True
    try:
        parts = urllib.parse.urlsplit(to)
    except ValueError:
        return False
    given = [value for _, value in urllib.parse.parse_qsl(parts.query)]
    given += [parts.netloc.rpartition("@")[0]] if "@" in parts.netloc else []
    return all(_VARIABLE.search(value) for value in given)


def held_back(settings: dict[str, Any]) -> str | None:
    """`train.notify` of a recipe's mapping, where it must not leave this machine."""
    train = settings.get("train")
    to = train.get("notify") if isinstance(train, dict) else None
    return to if isinstance(to, str) and not may_leave(to) else None


def without(settings: dict[str, Any], instead: str | None = None) -> dict[str, Any]:
    """A recipe's mapping as it may leave this machine.

    Args:
        settings: The mapping; it stays as it is.
        instead: What stands in the place of an address that is held back.
    """
    return settings if held_back(settings) is None else {**settings, "train": {**settings["train"], "notify": instead}}


def command_without(command: str, to: str | None) -> str:
    """A command as it may leave this machine: without the settings that hold what is held back.

    Args:
        command: As a shell takes it.
        to: From `held_back`.
    """
    if to is None:
        return command
    return shlex.join(word for word in shlex.split(command) if to not in word and not word.startswith("train.notify="))
