"""Joins words that were divided at line ends, and keeps the hyphens that belong to a word.

What the rest of the text spells decides: a word that stands there whole was divided, one that stands there with its
hyphen was not. Where it spells neither, Russian spelling decides (кое-как, по-русски, что-то, да-с), and then whether
the text divides words at line ends at all.
"""

import re
from collections import Counter

from shridhar_ft.data.lines import is_hard_wrapped

LINES_A_DIVISION = 200  # a text with fewer divisions does not divide words: an odd hyphen there is something else

_WORD = re.compile(r"[^\W\d_][\w\u0300-\u036f]*+(?:[-\u2010][\w\u0300-\u036f]++)*+")
# The rest of the second line's first token goes up with it, so that no comma begins a line. Not a second hyphen: what
# follows that would then stand at a line end in its turn.
_DIVIDED = re.compile(
    r"(?<![\w\u0300-\u036f])(?P<left>[\w\u0300-\u036f]++)(?P<hyphen>[-\u2010])[ \t\xa0]*\n[ \t\xa0]*"
    r"(?P<right>[\w\u0300-\u036f]++)(?P<rest>\S*+)(?<![-\u2010])(?P<gap>[ \t\xa0]*\n?)"
)
_SOFT = re.compile(
    r"(?<=[\w\u0300-\u036f-])\xad[ \t\xa0]*\n[ \t\xa0]*(?P<right>[\w\u0300-\u036f]\S*+)(?P<gap>[ \t\xa0]*\n?)"
)
_VOWEL = re.compile("[аеёиоуыэюяіѣѵaeiouyäöüéèêàâôûî]", re.IGNORECASE)

_FIRST = re.compile("кое|кой|из|экс|вице|обер|унтер|штаб|лейб|камер|контр|генерал|северо|юго|санкт")
_PRONOUN = re.compile(
    r"(?:ч[ье]\w{1,3}|чей|чт?о|кт?о|ко(?:го|му)|кем|ком|как(?:\w{2,3})?|где|когда|куда|откуда|почему|зачем|отчего"
    r"|сколько|котор\w{2,3})",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"(?:п[её]рв|втор|трет|четв|пят|шест|седьм|восьм|девят|десят)\w*(?:ых|их)", re.IGNORECASE)
_MANNER = re.compile(
    r"\w+(?:ски|цки|ьи)|(?:мо|тво|сво|наш|ваш)ему|(?:нов|стар|прежн|настоящ|ин|разн|видим|хорош|добр|друг)(?:ому|ему)|их",
    re.IGNORECASE,
)


def hyphenation(text: str) -> str:
    """The text with divided words joined; the line end moves behind the word, or goes where lines are paragraphs.

    `сло-⏎во, и` becomes `слово,⏎и`; `кое-⏎как` becomes `кое-как`; `постного-⏎кушанья` in a text that divides no
    other word, `дефис -⏎` and a dash stay.

    Args:
        text: One work, with line feeds as line ends.

    Returns:
        The text; applied again, nothing changes.
    """
    if not _DIVIDED.search(text):
        return text
    end = "\n" if is_hard_wrapped(text.split("\n")) else " "
    while (joined := _joined_once(text, end)) != text:
        text = joined
    return text


def soft_hyphens(text: str) -> str:
    """Without U+00AD; where one stood at a line end, the word is whole again.

    Args:
        text: Any text.

    Returns:
        The text without the mark.
    """
    if "\xad" not in text:
        return text
    if _SOFT.search(text):
        end = "\n" if is_hard_wrapped(text.split("\n")) else " "
        text = _SOFT.sub(lambda match: match["right"] + _after(match["gap"], end), text)
    return text.replace("\xad", "")


def _after(gap: str, end: str) -> str:
    """What follows a joined word: the line end that was taken away, unless one is there or the text ends."""
    return "\n" if gap.endswith("\n") else (end if gap else "")


def _joined_once(text: str, end: str) -> str:
    matches = list(_DIVIDED.finditer(text))
    counts = Counter(word.lower().replace("\u2010", "-") for word in _WORD.findall(_DIVIDED.sub(" ", text)))
    habitual = len(matches) * LINES_A_DIVISION >= text.count("\n")

    def replaced(match: re.Match[str]) -> str:
        hyphen = _hyphen(match, counts, habitual)
        if hyphen is None:
            return match[0]
        return match["left"] + hyphen + match["right"] + match["rest"] + _after(match["gap"], end)

    return _DIVIDED.sub(replaced, text)


def _hyphen(match: re.Match[str], counts: Counter[str], habitual: bool) -> str | None:
    """What to put between the two: nothing or the hyphen; None if the lines are no one's word."""
    left, right = match["left"], match["right"]
    first, last = left[-1], right[0]
    if first.isdigit() or last.isdigit():
        return match["hyphen"] if first.isdigit() else None  # 1941-1945, 20-х; "т-34" is too rare to guess
    if last.isupper():
        whole = left.isupper() and right.isupper() and len(right) > 1
        if not whole:  # Римский-Корсаков; "нет-⏎Да" is speech
            return match["hyphen"] if left[0].isupper() else None
    joined, hyphened = counts[(left + right).lower()], counts[f"{left}-{right}".lower().replace("\u2010", "-")]
    if joined or hyphened:
        return "" if joined >= hyphened else match["hyphen"]
    if _spelled_with_hyphen(left.lower(), right.lower(), counts):
        return match["hyphen"]
    return "" if habitual else None


def _spelled_with_hyphen(left: str, right: str, counts: Counter[str]) -> bool:
    """Whether Russian spelling puts a hyphen there; a division leaves a vowel, and two letters, on either side."""
    if min(len(left), len(right)) == 1 or not (_VOWEL.search(left) and _VOWEL.search(right)):
        return True
    if _FIRST.fullmatch(left) or left == right or right.startswith(f"по{left[:-1]}") or right in ("нибудь", "либо"):
        return True
    if (left == "во" and _ORDINAL.fullmatch(right)) or (left == "по" and _MANNER.fullmatch(right)):
        return True
    if (right == "то" and (_PRONOUN.fullmatch(left) or counts[left] > 1)) or (right == "таки" and counts[left]):
        return True
    if right == "ка" and counts[left] > 1:
        return True
    # жар-птица: two words of the text. Short first ones are prefixes: за-шел, под-бежал.
    return min(len(left), len(right)) >= 4 and min(counts[left], counts[right]) > 1
