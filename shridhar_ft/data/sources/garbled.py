"""Finds text that was decoded wrongly and saved so: its bytes are in order, its letters are not.

UTF-8 that was read in another encoding shows as pairs of signs where letters were («РњРµС‚РµР»СЊ» for «Метель») and
can be read back. One Cyrillic encoding read as another («лЕРЕКЭ»), or as Western («Ìåòåëü»), shows by its letters'
frequencies. Old orthography, Church Slavonic, transliterated Sanskrit and other languages show neither.
"""

import re
from math import inf
from typing import NamedTuple

from shridhar_ft.data.sources.plausibility import FEWEST_IN_PIECE, PIECE, PLAUSIBLE, costs, count_high, reading

MOST = 100  # characters of such pairs that may stand in a text: an example in a book about encodings
MOST_SHARE = 0.01  # of the text

_WRONG = ("cp1251", "cp1252", "koi8-r", "cp866")  # what texts are taken for by mistake
_OPENING = b"\xc2\xd0\xd1\xd2\xd3"  # first bytes of Cyrillic letters, and of no-break spaces and quotes, in UTF-8
_ASCII = re.compile(r"[\x00-\x7f]+")


class Garbled(NamedTuple):
    """What was decoded wrongly."""

    line: int
    """The first such line."""
    right: str
    """The encoding that the text was in."""
    wrong: str
    """The one that it was read in."""


def find_garbled(text: str) -> Garbled | None:
    """What of a text was decoded wrongly, if anything was.

    Args:
        text: A work.

    Returns:
        The first place, in the way in which most of the text was misread; None for text that is in order.
    """
    for wrong, pattern in _PAIRS.items():
        found = list(pattern.finditer(text))
        if sum(len(match[0]) for match in found) > min(MOST, MOST_SHARE * len(text)):
            return Garbled(text.count("\n", 0, found[0].start()) + 1, "UTF-8", wrong)
    for start in range(0, 0 if text.isascii() else len(text), PIECE):
        if confused := _confused(text[start : start + PIECE]):
            return Garbled(text.count("\n", 0, start) + 1, confused.right, confused.wrong)
    return None


class _Confused(NamedTuple):
    lost: int
    """Signs that the wrong encoding does not have, so that it hardly was that one."""
    mean: float
    right: str
    wrong: str


def _confused(piece: str) -> _Confused | None:
    """How a piece that does not read as Russian does, if it does."""
    signs = len(_ASCII.sub("", piece))
    if signs < FEWEST_IN_PIECE:
        return None
    # Signs that cp1251 does not have, such as ѣ or a mark above a letter, are left out.
    as_it_is = piece.encode("cp1251", errors="ignore")
    known = count_high(as_it_is)
    if known >= signs / 2 and costs(as_it_is, "cp1251").sum() <= PLAUSIBLE * known:
        return None
    found = []
    for wrong in _WRONG:
        raw = piece.encode(wrong, errors="ignore")
        read = reading(raw)
        if read and read.encoding != wrong and _letters_cost(raw.decode(read.encoding)) < _letters_cost(piece):
            found.append(_Confused(len(piece) - len(raw), read.mean, read.encoding, wrong))
    return min(found, default=None)


def _letters_cost(text: str) -> float:
    """Nats a letter, whatever its case, as text in capitals is in order; without end where most are not Cyrillic."""
    raw = text.lower().encode("cp1251", errors="ignore")
    known = count_high(raw)
    return float(costs(raw, "cp1251").sum()) / known if known > len(_ASCII.sub("", text)) / 2 else inf


def _pairs(wrong: str) -> re.Pattern[str]:
    """Four letters or more of UTF-8 that were read in another encoding."""

    def signs(raw: bytes) -> str:
        # What an encoding leaves undefined passes as it is in most programs.
        read = (bytes([byte]).decode(wrong, errors="ignore") or chr(byte) for byte in raw)
        return "[" + "".join(map(re.escape, read)) + "]"

    return re.compile(f"(?:{signs(_OPENING)}{signs(bytes(range(0x80, 0xC0)))}){{4,}}")


_PAIRS = {wrong: _pairs(wrong) for wrong in _WRONG}
