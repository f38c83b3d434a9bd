"""How well bytes read as Russian in each Cyrillic encoding: the cost of every byte under a small model of the language.

Detectors that cover all the world's encodings confuse the Cyrillic ones with each other, as each of them turns
Russian into other Cyrillic letters. The letters' frequencies and their capitals tell them apart within a few words.
"""

from functools import cache
from math import log
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CYRILLIC = {"cp1251": 0.0, "koi8-r": 0.0, "cp866": 0.0, "koi8-u": 0.0, "mac-cyrillic": 9.0, "iso8859-5": 3.0}
"""How rare each encoding is, in nats. mac-cyrillic has the small letters of cp1251 and hardly any files."""
PLAUSIBLE = 3.9
"""Nats a byte above ASCII: Russian costs about 3.2 in its own encoding; taken for another one, 3.5 (cp1251 and
mac-cyrillic for each other) or 5 to 8."""
_AT_EACH = 2.0  # nats
PIECE = 2048  # bytes: a passage this long in another encoding than the rest is noticed
FEWEST_IN_PIECE = 100  # bytes above ASCII; with fewer, a piece is passed over

# Of 1000 letters of Russian, how many are this one (S. Sharov's count over the Russian National Corpus).
_COMMON = {
    109.7: "о", 84.5: "е", 80.1: "а", 73.5: "и", 67.0: "н", 62.6: "т", 54.7: "с", 47.3: "р", 45.4: "в", 44.0: "л",
    34.9: "к", 32.1: "м", 29.8: "д", 28.1: "п", 26.2: "у", 20.1: "я", 19.0: "ы", 17.4: "ь", 17.0: "г", 16.5: "з",
    15.9: "б", 14.4: "ч", 12.1: "й", 9.7: "х", 9.4: "ж", 7.3: "ш", 6.4: "ю", 4.8: "ц", 3.6: "щ", 3.2: "э", 2.6: "ф",
    2.0: "іїєґў", 0.4: "ъё",
}  # fmt: skip
_LETTERS = {letter: count for count, letters in _COMMON.items() for letter in letters}
_HIGH = bytes(range(0x80, 0x100))
_MARKS = "«»—–…„“”‘’№\xa0\xad•°§"

_OTHER, _LOWER, _UPPER, _MARK, _LATIN = range(5)
# Chance of each kind after each kind. Only bytes above ASCII are counted, so a column for ASCII is not needed.
_AFTER = {
    _OTHER: {_LOWER: 0.7, _UPPER: 0.2, _MARK: 0.1},
    _LOWER: {_LOWER: 0.97, _UPPER: 0.001, _MARK: 0.03},
    _UPPER: {_LOWER: 0.37, _UPPER: 0.6, _MARK: 0.03},
    _MARK: {_LOWER: 0.4, _UPPER: 0.4, _MARK: 0.2},
    _LATIN: {_LOWER: 0.01, _UPPER: 0.01, _MARK: 0.1},
}
_STRANGE = 1e-6  # another sign: a box, a foreign letter, an undefined byte


def costs(raw: bytes, encoding: str) -> "np.ndarray":
    """Cost of every byte, in nats; 0 for ASCII, which is the same in all of these encodings.

    Args:
        raw: Text in one of `CYRILLIC`.
        encoding: Which of them it is taken for.

    Returns:
        float32, shape (len(raw),).
    """
    import numpy as np

    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.uint16)
    pairs = codes.copy()
    pairs[1:] |= codes[:-1] << 8
    return _table(encoding)[pairs]


def rarity(raw: bytes, encoding: str) -> float:
    """How much better, in nats, a text has to read in this encoding than in a usual one.

    A mac-cyrillic text that is read as cp1251 has a strange sign for every capital. The other way round, a capital
    becomes a mark or another letter, which a phrase that comes again and again may make look likely; so mac-cyrillic
    has to be better at every byte that the two read differently, and not only on the whole.
    """
    if encoding != "mac-cyrillic":
        return CYRILLIC[encoding]
    return CYRILLIC[encoding] + _AT_EACH * (len(raw) - len(raw.translate(None, _unlike_cp1251())))


@cache
def _unlike_cp1251() -> bytes:
    """Bytes that mac-cyrillic and cp1251 read differently."""
    return bytes(
        byte
        for byte in range(0x80, 0x100)
        if bytes([byte]).decode("mac-cyrillic", "replace") != bytes([byte]).decode("cp1251", "replace")
    )


def count_high(raw: bytes) -> int:
    """How many bytes are above ASCII."""
    return len(raw) - len(raw.translate(None, _HIGH))


def strange_pieces(raw: bytes, encoding: str) -> list[int]:
    """Where pieces of `PIECE` bytes begin that do not read as Russian in this encoding."""
    import numpy as np

    if not raw:
        return []
    starts = np.arange(0, len(raw), PIECE)
    high = np.add.reduceat(np.frombuffer(raw, dtype=np.uint8) >= 0x80, starts, dtype=np.int64)
    paid = np.add.reduceat(costs(raw, encoding), starts)
    return starts[(high >= FEWEST_IN_PIECE) & (paid > PLAUSIBLE * high)].tolist()


class Reading(NamedTuple):
    """How well a piece reads in the encoding in which it reads best."""

    mean: float
    """Nats a byte above ASCII."""
    encoding: str


def reading(piece: bytes) -> Reading | None:
    """The encoding in which a piece reads as Russian; None where there is none, or too little to tell."""
    high = count_high(piece)
    if high < FEWEST_IN_PIECE:
        return None
    best = min(Reading(float(costs(piece, encoding).sum()) / high, encoding) for encoding in CYRILLIC)
    return best if best.mean <= PLAUSIBLE else None


@cache
def _table(encoding: str) -> "np.ndarray":
    """Cost of each byte after each byte: float32, shape (65536,)."""
    import numpy as np

    kinds, letters = zip(*(_reading(byte, encoding) for byte in range(256)), strict=True)
    table = np.zeros((256, 256), dtype=np.float32)
    for before, chances in _AFTER.items():
        row = [0.0 if byte < 0x80 else letters[byte] - log(chances.get(kinds[byte], _STRANGE)) for byte in range(256)]
        table[[kind == before for kind in kinds]] = row
    return table.reshape(-1)


def _reading(byte: int, encoding: str) -> tuple[int, float]:
    """Kind of the sign that this byte is, and its cost among its kind in nats."""
    sign = bytes([byte]).decode(encoding, errors="replace")
    if sign.isascii():
        return (_LATIN if sign.isalpha() else _OTHER), 0.0
    if sign in _MARKS:
        return _MARK, log(len(_MARKS))
    if sign.lower() in _LETTERS:
        return (_LOWER if sign.islower() else _UPPER), -log(_LETTERS[sign.lower()] / 1000)
    return _OTHER, 0.0
