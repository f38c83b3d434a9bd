"""Cuts texts for tasks: passages of a length, sentences, words."""

import re
from collections.abc import Iterator

WORD = re.compile(r"\w+(?:-\w+)*")
_END = re.compile(r"(?<=[.!?…»])\s+(?=[«\"(—–-]*\s*[А-ЯЁA-Z])|\n+")
_YO = str.maketrans("ёЁ", "еЕ")


def passages(text: str, characters: int) -> Iterator[str]:
    """Passages of about `characters`, cut at spaces, without the rest at the end."""
    begin = 0
    while len(text) - begin >= characters:
        end = text.rfind(" ", begin, begin + characters)
        end = end if end > begin else begin + characters
        yield text[begin:end].strip()
        begin = end


def sentences(text: str) -> list[str]:
    """Sentences by their marks and line ends: rough, and of no package, for haystacks."""
    return [part.strip() for part in _END.split(text) if part and part.strip()]


def words(text: str) -> list[str]:
    """Words in lower case, ё as е: in print the two stand for one another."""
    return WORD.findall(text.lower().translate(_YO))


def first_words(text: str, count: int) -> str:
    """The text up to its `count`-th word."""
    for number, found in enumerate(WORD.finditer(text), start=1):
        if number == count:
            return text[: found.end()]
    return text
