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
    guard: str
    """What is taken out to see that the case fails without it."""
    check: Callable[[Lab, bool], str]
    """Tries it, with the guard or without; says what happened, or raises AssertionError."""


CASES: list[Case] = []


def case(number: int, injection: str, right: str, guard: str) -> Callable:
    """Enter a check into the list."""

    def enter(check: Callable[[Lab, bool], str]) -> Callable[[Lab, bool], str]:
        CASES.append(Case(number, injection, right, guard, check))
        return check

    return enter


def without(name: str, guard: bool) -> tuple[str, ...]:
    """The guards to take out of the processes of a case."""
    return () if guard else (name,)
