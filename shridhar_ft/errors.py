"""What can end a command, and the exit status that each end has.

Users' mistakes are `UserError`: one sentence that says what, where, and the mend. Our own mistakes are `assert`s
and tracebacks. Statuses follow sysexits where one fits (65 data, 74 input/output, 75 temporary failure).
"""

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


class Stop(Exception):
    """An end with a status of its own; its text is the one sentence that the user reads."""

    status = 1

    def __init__(self, sentence: str = "") -> None:
        """Names that it quotes may hold line ends and other control characters; they become spaces."""
        super().__init__(_CONTROLS.sub(" ", sentence))


class UserError(Stop, ValueError):
    """The input is wrong: a file, a line, a recipe key. Status 2."""

    status = 2


class OutOfMemory(UserError):
    """An allocation failed: the settings do not fit this machine. Status 2, since only a setting mends it."""


class CheckFailed(Stop):
    """A receipt did not hold: what was measured is not what was claimed. Status 1."""

    status = 1


class NonFinite(Stop):
    """A loss or gradient became NaN or infinite; the weights were not updated. Status 65."""

    status = 65


class DiskFailed(Stop):
    """The disk failed or is full; what was whole before still is. Status 74."""

    status = 74


class Resumable(Stop):
    """Stopped by a signal after a checkpoint; the same command goes on from there. Status 75."""

    status = 75


class BudgetSpent(Stop):
    """`budget.max_usd` is reached after a checkpoint; the same command refuses until it is raised. Status 76."""

    status = 76


STOPPED = (Resumable.status, BudgetSpent.status)
"""Statuses of a run that ended with a checkpoint because it was to: it can go on, and nothing failed."""


def first_line(error: Exception) -> str:
    """The first line of a library's message, for quoting inside a sentence of ours."""
    return str(error).strip().split("\n")[0]
