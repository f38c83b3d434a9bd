"""Russian words by pymorphy3: readings, and forms that cannot agree however they are read.

pymorphy3 and razdel are the extra `eval`; a task that needs them says so when they are missing.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from shridhar_ft.errors import UserError

CASES = ("nomn", "gent", "datv", "accs", "ablt", "loct")
GENDERS = ("masc", "femn", "neut")
NUMBERS = ("sing", "plur")
_SAME_CASE = {"gen2": "gent", "loc2": "loct", "acc2": "accs", "gen1": "gent", "loc1": "loct"}


class Token(NamedTuple):
    """A word or mark of a sentence."""

    text: str
    start: int
    stop: int


@lru_cache(1)
def _analyzer() -> Any:  # noqa: ANN401 - pymorphy3's own
    if find_spec("pymorphy3") is None or find_spec("razdel") is None:
        raise UserError("eval: Russian grammar needs pymorphy3 and razdel; run `pip install 'shridhar_ft[eval]'`")
    import pymorphy3

    return pymorphy3.MorphAnalyzer()


@lru_cache(200_000)
def readings(word: str) -> tuple[Any, ...]:
    """All readings of a word by the dictionary; empty for words that it does not hold."""
    return tuple(reading for reading in _analyzer().parse(word) if reading.is_known)


def sentences(text: str) -> list[str]:
    """Sentences of a text, by razdel; none reaches over a line end."""
    _analyzer()
    from razdel import sentenize

    return [sentence.text for line in text.split("\n") for sentence in sentenize(line) if sentence.text.strip()]


def tokens(sentence: str) -> list[Token]:
    """Words and marks of a sentence, by razdel."""
    from razdel import tokenize

    return [Token(token.text, token.start, token.stop) for token in tokenize(sentence)]


def case_of(tag: Any) -> str | None:  # noqa: ANN401 - pymorphy3's tag
    """The case, the second genitive, locative and accusative counted as the first."""
    return _SAME_CASE.get(tag.case, tag.case)


def sure(word: str, *grammemes: str) -> Any | None:  # noqa: ANN401 - pymorphy3's reading
    """The reading of a word if all its readings have these grammemes, so that there is no doubt; else None."""
    found = readings(word)
    if not found or not all(all(wanted in reading.tag for wanted in grammemes) for reading in found):
        return None
    return found[0]


def agreement(tag: Any) -> tuple[str | None, str | None, str | None]:  # noqa: ANN401
    """Number, gender (of the singular only) and case: what an adjective and its noun share."""
    number = tag.number
    return number, tag.gender if number == "sing" else None, case_of(tag)


def like(form: str, model: str) -> str:
    """A form with the capitals of the word whose place it takes, and without ё where the word's text has none."""
    form = form if "ё" in model.lower() else form.replace("ё", "е")
    if model.isupper() and len(model) > 1:
        return form.upper()
    return form[:1].upper() + form[1:] if model[:1].isupper() else form


def inflected(reading: Any, *grammemes: str) -> str | None:  # noqa: ANN401
    """The form of a word with these grammemes, or None where it has none."""
    found = reading.inflect(frozenset(grammemes))
    return None if found is None else str(found.word)
