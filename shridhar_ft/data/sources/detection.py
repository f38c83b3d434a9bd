"""Which encoding a text is in: byte order marks and UTF-8 are proved, Cyrillic encodings are told by how they read.

A text that is too short, reads no better one way than another, or changes its encoding in the middle is refused, with
what was seen. Measured on slices of nineteenth-century Russian prose, 3000 a length and encoding: cp1251, koi8-r,
cp866 and ISO 8859-5 are never mistaken; of 100 characters, 3 slices in 1000 are refused for their few letters, of 200
none. mac-cyrillic has the small letters of cp1251: of 100 characters a quarter is refused and one in thirty taken for
cp1251, of 300 one in 100 is refused and one in 3000 mistaken. charset-normalizer alone took up to a fifth of slices of
50 to 100 characters for another encoding, and a book in cp866 for cp1125; here it names what a text that is not Russian
might be in.
"""

import codecs
import io
import re
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shridhar_ft.data.sources.decoding import AUTO
from shridhar_ft.data.sources.plausibility import (
    CYRILLIC,
    PIECE,
    PLAUSIBLE,
    costs,
    count_high,
    rarity,
    reading,
    strange_pieces,
)
from shridhar_ft.data.sources.signatures import signature
from shridhar_ft.errors import UserError

FEWEST = 50  # bytes above ASCII: fewer do not tell the encoding
CERTAIN = 5.0  # nats by which the best reading must beat the second (odds of 150 to 1)
SAMPLE = 1 << 20  # bytes with letters above ASCII that the encoding is told by
_CHUNK = 1 << 16
_MOST_CONTROLS = 1 / 1000  # of all bytes; a picture or an archive has a hundred times more
_FEW_CONTROLS = 2  # that many may stand in any text, however short
_HINTED = 1 << 15  # bytes that are shown to charset-normalizer, which takes its time

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1a\x1b")) + b"\x7f"
# «яю» in cp1251 is UTF-16's mark; what follows then is of the private area, as no letter is.
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_MOST_PRIVATE = 1 / 50  # of all signs
# What UTF-16 text is made of here: ASCII, Latin with its marks, Greek, Cyrillic, punctuation, arrows and signs.
_USUAL = re.compile("[\t\n\r\f\x1a\x20-\x7e\xa0-\u058f\u1c80-\u1c8f\u1e00-\u22ff\u2500-\u26ff\ua640-\ua69f\ufeff]")

_SAY = "if the file is in another encoding, say so with {key}.encoding=cp1251"
_SAVE = f"save it anew in one encoding, or, {_SAY}"
_CONVERT = "convert it to text, or do not name it under {key}"


class Detection(NamedTuple):
    """What a text's bytes say of their encoding."""

    encoding: str | None
    """As Python names it; None where it cannot be told."""
    confidence: float
    """Chance that it is this one and not another (0 to 1)."""
    why: str
    """What was seen: the reason, or what is wrong, as a part of a sentence."""
    mend: str = ""
    """What to do about it, with {key} for the source's recipe key."""
    line: int = 1
    """Line of what is wrong."""


def detect(raw: bytes) -> Detection:
    """Tell the encoding of a text.

    Args:
        raw: The whole text.

    Returns:
        The encoding, or what is in the way of telling it.
    """
    return _detect(io.BytesIO(raw))


def encoding_of(file: Path, encoding: str, key: str) -> str:
    """The encoding that a file is to be decoded in.

    Args:
        file: A text file of any size; it is read through in pieces, up to three times.
        encoding: From the recipe: a name that `check_encoding` let pass, or `auto`.
        key: Recipe key of the source, e.g. `data.dialogues.0`, for messages.

    Returns:
        The given one; for `auto`, `utf-8` where that is what the file is in, else what was detected.

    Raises:
        UserError: It cannot be told, or the file is no text.
    """
    if encoding != AUTO:
        return encoding
    with file.open("rb") as handle:
        found = _detect(handle)
    if found.encoding is None:
        raise UserError(f"{file}:{found.line}: {found.why}; {found.mend.format(key=key)}")
    return found.encoding


def _detect(handle: BinaryIO) -> Detection:
    head = handle.read(_CHUNK)
    for mark, name in _BOMS:
        if head.startswith(mark) and not (name == "utf-16" and _is_private(head)):
            return _proved(handle, name, "byte order mark")
    if kind := signature(head):
        return Detection(None, 0, f"it is {kind}, not a text", _CONVERT)
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls > max(len(head) * _MOST_CONTROLS, _FEW_CONTROLS):
        if wide := _wide(head):
            return _proved(handle, wide, "every second byte is a small number")
        why = f"{controls:,} of its first {len(head):,} bytes are control characters: it is no text"
        return Detection(None, 0, why, _CONVERT)
    utf8 = _proved(handle, "utf-8", "valid UTF-8")
    return utf8 if utf8.encoding else _cyrillic(handle, utf8)


def _chunks(handle: BinaryIO) -> Iterator[bytes]:
    handle.seek(0)
    while chunk := handle.read(_CHUNK):
        yield chunk


def _proved(handle: BinaryIO, encoding: str, why: str) -> Detection:
    """This encoding if the whole file decodes in it, else where it does not."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done, line, waiting = 0, 1, 0
    try:
        for chunk in _chunks(handle):
            waiting = len(decoder.getstate()[0])
            decoder.decode(chunk)
            done += len(chunk)
            line += chunk.count(b"\n")
        waiting = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        place, byte = done - waiting + error.start, error.object[error.start]
        line += error.object[: error.start].count(b"\n")
        return Detection(None, 0, f"byte {place} (0x{byte:02X}) is not {encoding.upper()}", _SAY, line)
    return Detection(encoding, 1.0, why)


def _is_private(head: bytes) -> bool:
    text = head.decode("utf-16", errors="ignore")
    return len(_PRIVATE.findall(text)) > len(text) * _MOST_PRIVATE


def _wide(head: bytes) -> str | None:
    """UTF-16 without a byte order mark, in the byte order in which its signs are usual ones."""
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        # In the wrong byte order, and in arbitrary bytes, nearly every sign is Chinese or nothing.
        if len(_USUAL.findall(text)) >= len(text) * 0.9:
            return encoding
    return None


def _cyrillic(handle: BinaryIO, utf8: Detection) -> Detection:
    """The encoding in which the file reads as Russian, in all its parts.

    Args:
        handle: The file.
        utf8: Why it is not UTF-8, and where.
    """
    sample = bytearray()
    for chunk in _chunks(handle):
        if not chunk.isascii():
            sample += chunk
            if len(sample) >= SAMPLE:
                break
    raw = bytes(sample)
    if _utf8_letters(raw) is not None:
        return utf8._replace(why=f"{utf8.why}, though letters elsewhere are: damaged, or two encodings", mend=_SAVE)
    letters = bytes(sorted(set(raw) - set(range(0x80))))
    high = count_high(raw)
    if high < FEWEST:
        return utf8._replace(why=f"{utf8.why}, and {high} bytes above ASCII are too few to tell what else it is")
    paid = {encoding: float(costs(raw, encoding).sum()) for encoding in CYRILLIC}
    total = {encoding: paid[encoding] + rarity(raw, encoding) for encoding in CYRILLIC}
    best, *others = sorted(CYRILLIC, key=total.__getitem__)
    if paid[best] > PLAUSIBLE * high:
        return utf8._replace(why=f"{utf8.why}, and in no Cyrillic encoding does it read as Russian{_hint(raw)}")
    read = letters.decode(best, errors="replace")
    rivals = [encoding for encoding in others if letters.decode(encoding, errors="replace") != read]
    if total[rivals[0]] - total[best] < CERTAIN:
        return utf8._replace(why=f"{utf8.why}, and it reads as {best} and as {rivals[0]} alike")
    broken = _proved(handle, best, "")
    if broken.encoding is None:
        return broken._replace(why=f"{broken.why}, though the rest reads as it", mend=_SAVE)
    if other := _other_passage(handle, best):
        return other
    odds = sum(exp(total[best] - total[encoding]) for encoding in rivals)
    return Detection(best, 1 / (1 + odds), "reads as Russian")


def _hint(raw: bytes) -> str:
    """What charset-normalizer takes it for."""
    from charset_normalizer import from_bytes

    found = from_bytes(raw[:_HINTED]).best()
    return f" ({found.encoding.replace('_', '-')} would be a guess)" if found else ""


def _other_passage(handle: BinaryIO, encoding: str) -> Detection | None:
    """The first passage that is in another encoding than the rest."""
    line = 1
    for chunk in _chunks(handle):
        if (start := _utf8_letters(chunk)) is not None:
            return _two(encoding, "UTF-8", line + chunk[:start].count(b"\n"))
        for start in strange_pieces(chunk, encoding):
            piece = chunk[start : start + PIECE]
            if other := reading(piece):
                return _two(encoding, other.encoding, line + chunk[:start].count(b"\n"))
        line += chunk.count(b"\n")
    return None


def _utf8_letters(raw: bytes) -> int | None:
    """Where the first four Cyrillic letters of UTF-8 in a row stand; no text in another encoding has them."""
    import numpy as np

    codes = np.frombuffer(raw, dtype=np.uint8)
    letters = ((codes[:-1] & 0xFE) == 0xD0) & ((codes[1:] & 0xC0) == 0x80)
    if len(letters) < 7 or not letters.any():
        return None
    rows = np.flatnonzero(letters[:-6] & letters[2:-4] & letters[4:-2] & letters[6:])
    return int(rows[0]) if len(rows) else None


def _two(encoding: str, other: str, line: int) -> Detection:
    return Detection(None, 0, f"line {line} reads as {other}, most of the file as {encoding}", _SAVE, line)
