"""What a case of the fault suite is, and the list of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

from fault_lab import Lab


@dataclass(frozen=True)
class Case:
    """One row of the fault table."""

    number: int
    injection: str
    """What is done to the training."""
    right: str
    """What has to come of it."""
    guards: tuple[str, ...]
    """What is taken out, one at a time, to see that the case fails without it."""
    check: Callable[[Lab, str | None], str]
    """Tries it, with every guard or without the named one; says what happened, or raises AssertionError."""


CASES: list[Case] = []


def case(number: int, injection: str, right: str, *guards: str) -> Callable:
    """Enter a check into the list."""

    def enter(check: Callable[[Lab, str | None], str]) -> Callable[[Lab, str | None], str]:
        CASES.append(Case(number, injection, right, guards, check))
        return check

    return enter


def without(out: str | None) -> tuple[str, ...]:
    """The guards to take out of the processes of a case."""
    return () if out is None else (out,)
