"""Cleaning: one pure function a step, one table that orders and names them, and what each step changed.

The steps named as switches of `data.clean` can be turned off there; the other two are always on, because without
them text could forge a document's end, or could not be written as UTF-8 at all.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from shridhar_ft import config
from shridhar_ft.data.contents import drop_contents
from shridhar_ft.data.front_matter import drop_front_matter

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# U+200C and U+200D are left alone: they shape Devanagari conjuncts and emoji.
_OBJECT_MARKS = re.compile("[\ufffc\u200b\u200e\u200f\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TYPOGRAPHIC_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RUNS_OF_SPACES = re.compile("  +")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_SPECIAL_TOKEN = re.compile(r"<\|(?=\S)([^<>|\n]+)(?<=\S)\|>")


# ----------------------------------------------------------------------------------------------- the steps


def line_separators(text: str) -> str:
    """Every kind of line end as a line feed."""
    return _LINE_ENDS.sub("\n", text)


def object_marks(text: str) -> str:
    """Without U+FFFC, where a picture stood, and zero-width marks."""
    return _OBJECT_MARKS.sub("", text)


def soft_hyphens(text: str) -> str:
    """Without U+00AD."""
    return text.replace("\xad", "")


def control(text: str) -> str:
    """Without control characters other than line ends and tabs."""
    return _CONTROL.sub("", text)


def spaces(text: str) -> str:
    """Plain single spaces, none at the ends of lines, no blank lines at the ends of the text."""
    text = _RUNS_OF_SPACES.sub(" ", _TYPOGRAPHIC_SPACES.sub(" ", text))
    return text.replace(" \n", "\n").replace("\n ", "\n").strip(" \n")


def nfc(text: str) -> str:
    """Letters composed with their marks where a composed letter exists; the other marks stay where they are."""
    return unicodedata.normalize("NFC", text)


def lone_surrogates(text: str) -> str:
    """Without halves of surrogate pairs: JSON's `\\ud83d` can bring them in, and UTF-8 cannot hold them."""
    return _LONE_SURROGATES.sub("", text)


def special_tokens(text: str) -> str:
    """Literal special tokens broken by spaces, `<| end |>`: a text must not be able to end its own document."""
    return _SPECIAL_TOKEN.sub(r"<| \1 |>", text)


class Step(NamedTuple):
    """One cleaning step."""

    name: str
    """Its switch in `data.clean`, unless it is always on."""
    apply: Callable[[str], str]
    books_only: bool = False


# The order matters: marks go before letters are composed (a soft hyphen between letter and mark would prevent it),
# lines are trimmed before they are compared, and special tokens come last, as removals can put one together.
STEPS = (
    Step("lone_surrogates", lone_surrogates),
    Step("line_separators", line_separators),
    Step("object_marks", object_marks),
    Step("soft_hyphens", soft_hyphens),
    Step("control", control),
    Step("spaces", spaces),
    Step("nfc", nfc),
    Step("contents", drop_contents, books_only=True),
    Step("front_matter", drop_front_matter, books_only=True),
    Step("special_tokens", special_tokens),
)
ALWAYS_ON = ("lone_surrogates", "special_tokens")


# ------------------------------------------------------------------------------------------ all together


@dataclass(frozen=True)
class Cleaned:
    """A text after cleaning; the two counts name only steps that did something."""

    text: str
    changed: dict[str, int]
    """Characters that each step removed or replaced."""
    shortened: dict[str, int]
    """Characters by which each step made the text shorter (negative: longer)."""


def clean_text(text: str, clean: config.Clean, is_book: bool) -> Cleaned:
    """Apply the steps that are on.

    Args:
        text: One work, or one turn of a dialogue.
        clean: Which steps are on.
        is_book: Whether the steps for books apply.

    Returns:
        The text and what each step did: `len(text) - sum(shortened.values())` is the new length.
    """
    changed: dict[str, int] = {}
    shortened: dict[str, int] = {}
    for step in STEPS:
        on = step.name in ALWAYS_ON or getattr(clean, step.name)
        if not on or (step.books_only and not is_book):
            continue
        after = step.apply(text)
        if after != text:
            # What is in the old text and not in the new one, letter by letter: one measure that fits every step.
            changed[step.name] = (Counter(text) - Counter(after)).total()
            shortened[step.name] = len(text) - len(after)
            text = after
    return Cleaned(text, changed, shortened)
