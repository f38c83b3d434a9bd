"""What shrinking a recipe goes by and yields: the machine, what was made beforehand, the changes."""

from dataclasses import dataclass, field
from typing import Any

from shridhar_ft.config import Recipe
from shridhar_ft.config_data import Data
from shridhar_ft.plan.layout import Layout


@dataclass(frozen=True)
class Laptop:
    """What the machine that rehearses can."""

    deepspeed: bool = True
    bitsandbytes: bool = True
    gguf: bool = True
    """Whether the converter is installed."""
    llama_cpp: bool = True
    """Whether llama.cpp itself is: k-quants are its own."""
    device: str = "cpu"


@dataclass(frozen=True)
class Made:
    """What the rehearsal made beforehand, in the place of what is too large or not here."""

    data: Data
    long_text: list[str]
    others: list[str]
    launch: str
    """accelerate config, or `auto`."""
    layout: Layout
    """The layout of that config."""
    glossary: str | None = None
    rublimp: str | None = None
    base: str | None = None
    """Folder of a small model of the base's architecture, where the recipe has a base."""
    cut: tuple["Change", ...] = ()
    """Sources of which only a part is read."""
    extend: str | None = None
    """Folder of the tokenizer that is extended, where the recipe names one that is here."""


@dataclass(frozen=True)
class Change:
    """One setting that the rehearsal has otherwise."""

    key: str
    real: Any
    here: Any
    why: str


@dataclass
class Shrunk:
    """The small recipe."""

    recipe: Recipe
    changes: list[Change] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    """Sentences on keys that this machine cannot try."""


def change(small: Shrunk, key: str, real: Any, here: Any, why: str) -> Any:  # noqa: ANN401 - any setting
    """Book a change, if it is one; returns what stands here."""
    if real != here:
        small.changes.append(Change(key, real, here, why))
    return here
