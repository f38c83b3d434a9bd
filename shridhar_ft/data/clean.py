"""Cleaning: one pure function a step, one table that orders and names them, and what each step changed.

The steps named as switches of `data.clean` can be turned off there; the other two are always on, because without
them text could forge a document's end, or could not be written as UTF-8 at all. Steps that need more than a line stand
in files of their own.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from shridhar_ft import config_data
from shridhar_ft.data import pii
from shridhar_ft.data.changes import Change, changes
from shridhar_ft.data.contents import drop_contents
from shridhar_ft.data.front_matter import drop_front_matter
from shridhar_ft.data.html_text import html_text
from shridhar_ft.data.hyphenation import hyphenation, soft_hyphens
from shridhar_ft.data.mojibake import mojibake
from shridhar_ft.data.page_numbers import page_numbers
from shridhar_ft.data.running_heads import running_heads

_LINE_ENDS = re.compile("\r\n?|[\x0b\x85\u2028\u2029]")
_FORM_FEED = re.compile("\n?\x0c\n?")
# U+200C and U+200D are left alone: they shape Devanagari conjuncts and emoji.
_OBJECT_MARKS = re.compile("[\ufffc\u200b\u200e\u200f\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TYPOGRAPHIC_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RUNS_OF_SPACES = re.compile("  +")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_SPECIAL_TOKEN = re.compile(r"<\|(?=\S)([^<>|\n]+)(?<=\S)\|>")


# ----------------------------------------------------------------------------------------------- the steps


def line_separators(text: str) -> str:
    """Every kind of line end as a line feed, but for form feeds."""
    return _LINE_ENDS.sub("\n", text)


def form_feeds(text: str) -> str:
    """Form feeds as line feeds; one beside a line end adds none."""
    return _FORM_FEED.sub("\n", text) if "\x0c" in text else text


def object_marks(text: str) -> str:
    """Without U+FFFC, where a picture stood, and zero-width marks."""
    return _OBJECT_MARKS.sub("", text)


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


def personal_data(text: str) -> str:
    """With placeholders in place of telephones, addresses and card numbers."""
    return pii.scrub(text).text


class Step(NamedTuple):
    """One cleaning step."""

    name: str
    """Its switch in `data.clean`, unless it is always on."""
    apply: Callable[[str], str]
    only: Literal["books", "dialogues"] | None = None
    """The kind of text that it is for; None: both."""


# The order matters. Wrong decoding hides everything else, and entities can name any character. Marks go before letters
# are composed (a soft hyphen between letter and mark would prevent it). Form feeds show where pages end until their
# heads and numbers are gone, which stand between the halves of divided words. Lines are trimmed before they are
# compared, and special tokens come last, as removals can put one together.
STEPS = (
    Step("lone_surrogates", lone_surrogates),
    Step("mojibake", mojibake),
    Step("html", html_text, only="dialogues"),
    Step("line_separators", line_separators),
    Step("object_marks", object_marks),
    Step("running_heads", running_heads, only="books"),
    Step("page_numbers", page_numbers, only="books"),
    Step("line_separators", form_feeds),
    Step("soft_hyphens", soft_hyphens),
    Step("control", control),
    Step("spaces", spaces),
    Step("nfc", nfc),
    Step("hyphenation", hyphenation, only="books"),
    Step("contents", drop_contents, only="books"),
    Step("front_matter", drop_front_matter, only="books"),
    Step("pii", personal_data, only="dialogues"),
    Step("special_tokens", special_tokens),
)
ALWAYS_ON = ("lone_surrogates", "special_tokens")

# Letters and signs that no step for dialogues touches: those of plain Russian and English messages. Nearly all messages
# have no others, and to see that costs a tenth of the steps.
_PLAIN = re.compile("[\\n !-%'-;=-~А-яЁё«»–—“”„…№]*")
_ENDS = (" ", "\n")


# ------------------------------------------------------------------------------------------ all together


@dataclass(frozen=True)
class Cleaned:
    """A text after cleaning; the counts name only steps that did something."""

    text: str
    changed: dict[str, int]
    """Characters that each step removed or replaced."""
    shortened: dict[str, int]
    """Characters by which each step made the text shorter (negative: longer)."""
    counts: dict[str, int] = field(default_factory=dict)
    """What `pii` replaced, by kind: pii_telephone, pii_email, pii_card, pii_profile."""
    examples: dict[str, list[Change]] = field(default_factory=dict)
    """Some changes by step, where they were asked for."""


def clean_text(text: str, clean: config_data.Clean, is_book: bool, examples: int = 0) -> Cleaned:
    """Apply the steps that are on.

    Args:
        text: One work, or one turn of a dialogue.
        clean: Which steps are on.
        is_book: Whether the steps for books apply, or those for dialogues.
        examples: Changes to collect at most by step. Dialogues are people's private talk: ask for none of them.

    Returns:
        The text and what each step did: `len(text) - sum(shortened.values())` is the new length.
    """
    if not (is_book or clean.mojibake) and _is_plain(text):
        return Cleaned(text, {}, {})
    kind = "books" if is_book else "dialogues"
    changed: Counter[str] = Counter()
    shortened: Counter[str] = Counter()
    counts: dict[str, int] = {}
    shown: dict[str, list[Change]] = {}
    for step in STEPS:
        if step.only not in (None, kind) or not _is_on(step.name, clean):
            continue
        after = step.apply(text)
        if after == text:
            continue
        # What is in the old text and not in the new one, letter by letter: one measure that fits every step.
        changed[step.name] += (Counter(text) - Counter(after)).total()
        shortened[step.name] += len(text) - len(after)
        if step.name == "pii":
            counts = pii.found_between(text, after)
        if examples and (left := examples - len(shown.get(step.name, ()))):
            shown.setdefault(step.name, []).extend(changes(text, after, left))
        text = after
    return Cleaned(text, dict(changed), dict(shortened), counts, shown)


def _is_on(step: str, clean: config_data.Clean) -> bool:
    return step in ALWAYS_ON or getattr(clean, step)


def _is_plain(text: str) -> bool:
    """Whether no step for dialogues can change a message."""
    return not (
        _PLAIN.fullmatch(text) is None
        or "  " in text
        or text[:1] in _ENDS
        or text[-1:] in _ENDS
        or ("\n" in text and (" \n" in text or "\n " in text))
        or pii.may_hold(text)
    )
