"""The languages of the run page: its words, its numbers, and the sentences that a run's files hold in English.

words.yaml     key → {en, ru}: what the page says itself, with {places} for numbers
phrases.yaml   sentences that other parts of the library write into their files, and the same in Russian
"""

import re
from functools import cache
from typing import Any, Literal, get_args

import yaml

from shridhar_ft.report.pages import HERE
from shridhar_ft.report.svg import compact

Language = Literal["en", "ru"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
GIB = 2**30
NONE = "–"


@cache
def words() -> dict[str, dict[str, str]]:
    """words.yaml."""
    return yaml.safe_load((HERE / "words.yaml").read_text(encoding="utf-8"))


@cache
def phrases() -> list[tuple[re.Pattern[str], str]]:
    """phrases.yaml: the pattern of each English sentence, and its Russian."""
    pairs = yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8"))
    return [(_pattern(english), russian) for english, russian in pairs.items()]


def _pattern(english: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", english)
    return re.compile(
        "".join(f"(?P<{piece}>.+?)" if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    )


class Tongue:
    """One language."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def say(self, key: str, **values: Any) -> str:  # noqa: ANN401 - whatever is formatted
        """A word or sentence of the page; numbers among the values are written the language's way."""
        shown = {
            name: self.number(value) if isinstance(value, int | float) else value for name, value in values.items()
        }
        return words()[key][self.language].format(**shown)

    def sentence(self, english: str) -> str:
        """A sentence of a run's files in this language; one that is not known stays as it is."""
        if self.language == "en":
            return english
        for pattern, russian in phrases():
            if found := pattern.fullmatch(english):
                return russian.format(**{name: self._inside(text) for name, text in found.groupdict().items()})
        return english

    def _inside(self, text: str) -> str:
        """What stands in a place of a sentence: a number of English form, or words."""
        if re.fullmatch(r"-?[\d,]*\.?\d+%?", text):
            return text.replace(",", "\u00a0").replace(".", ",").replace("%", "\u00a0%")
        return self.sentence(text)

    def number(self, value: float | None, digits: int | None = None) -> str:
        """A number: whole ones by thousands, others with so many digits behind the point, or three that count."""
        if value is None:
            return NONE
        if isinstance(value, int) or (digits is None and float(value).is_integer() and abs(value) < 1e15):
            text = f"{value:,.0f}"
        else:
            text = f"{value:,.{digits}f}" if digits is not None else f"{value:.3g}"
        return self._written(text)

    def signed(self, value: float | None, digits: int = 3) -> str:
        """A difference, with its sign."""
        return NONE if value is None else self._written(f"{value:+,.{digits}f}")

    def share(self, value: float | None, digits: int = 1) -> str:
        """A share of 1, in per cent."""
        return NONE if value is None else self._written(f"{100 * value:.{digits}f}") + self._percent

    def off(self, value: float | None) -> str:
        """How far off a forecast was."""
        return NONE if value is None else self._written(f"{100 * value:+.0f}") + self._percent

    @property
    def _percent(self) -> str:
        return "%" if self.language == "en" else "\u00a0%"

    def compact(self, value: float) -> str:
        """A number in three digits at most, for axes."""
        if abs(value) < 1000:
            return self._written(f"{value:.3g}")
        text = self._written(compact(value))
        for english, russian in (("K", "тыс."), ("M", "млн"), ("B", "млрд")) if self.language == "ru" else ():
            text = text.replace(english, f"\u00a0{russian}")
        return text

    def memory(self, size: float | None) -> str:
        """Bytes in GiB."""
        return NONE if size is None else f"{self.number(size / GIB, 2)}\u00a0{self.say('gib')}"

    def time(self, seconds: float | None) -> str:
        """Seconds as a person says them."""
        if seconds is None:
            return NONE
        if seconds < 120:
            return f"{self.number(float(seconds), 2 if seconds < 10 else 0)}\u00a0{self.say('seconds')}"
        if seconds < 7200:
            return f"{self.number(seconds / 60, 0)}\u00a0{self.say('minutes')}"
        return f"{self.number(seconds / 3600, 1)}\u00a0{self.say('hours')}"

    def _written(self, text: str) -> str:
        text = text.replace("-", "−") if "e" not in text else text
        return text if self.language == "en" else text.replace(",", "\u00a0").replace(".", ",")
