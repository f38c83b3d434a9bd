"""Repairs text that was decoded wrongly, once or twice: UTF-8 read as cp1251, cp1252, koi8-r or cp866.

ftfy finds most of it, a line at a time; what it does besides is switched off here. It knows neither koi8-r nor cp866,
and leaves short lines alone, so a line is first read back strictly: correct Russian is practically never valid UTF-8
in those encodings, as every letter would have to be followed by a sign.
"""

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

ROUNDS = 3  # wrongly decoded thrice is the most that was ever seen
FEWEST_LETTERS = 3  # in a line that is read back on its own evidence

# What Python's cp1251 and cp1252 leave undefined, MySQL and browsers pass through; ftfy's sloppy codecs do too.
_ENCODINGS = ("sloppy-windows-1251", "sloppy-windows-1252", "latin-1", "koi8-r", "cp866")
_RUSSIAN = re.compile("[А-Яа-яЁё]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# What UTF-8's Russian letters begin with under each reading, and what can follow: correct text fails here and costs
# no more than this search.
_SIGNATURE = re.compile(
    "[РС][^А-Яа-яЁё\\sA-Za-z0-9.,;:!?()-]|[РС][Ёё]|[ÐÑÃÂâ][^\x00-\x7f]|[пя][─-▟⌠⌡√≈≤≥·÷╜║°²]|[╨╤]|[тВ][АБ─-╿]"
    "|[вÂГ][^А-Яа-яЁё\\sA-Za-z0-9.,;:!?()-]"
)


def mojibake(text: str) -> str:
    """The text as it was written; text that was decoded rightly is left as it is.

    Args:
        text: A work or a message.

    Returns:
        The text with wrongly decoded lines repaired.
    """
    for _ in range(ROUNDS):
        if not _SIGNATURE.search(text) or (repaired := _repaired_once(text)) == text:
            break
        text = repaired
    return text


def _repaired_once(text: str) -> str:
    lines = text.split("\n")
    readings: Counter[str] = Counter()
    doubtful = []  # not ASCII and not repaired
    for index, line in enumerate(lines):
        if not _NOT_ASCII.search(line):
            continue
        repaired, encoding = _repaired_line(line)
        if encoding:
            readings[encoding] += 1
            lines[index] = repaired
        else:
            doubtful.append(index)
    if readings:
        # Where most lines were misread in one way, a line of a letter or two was too.
        encoding, count = readings.most_common(1)[0]
        for index in doubtful if count > len(doubtful) else ():
            lines[index] = _read_back(lines[index], encoding) or lines[index]
    return "\n".join(lines)


def _repaired_line(line: str) -> tuple[str, str | None]:
    """The line, and the encoding that it was misread in; None where nothing was to repair."""
    from ftfy import fix_encoding

    if not _SIGNATURE.search(line):
        return line, None
    for encoding in _ENCODINGS:
        back = _read_back(line, encoding)
        if back and len(_RUSSIAN.findall(back)) >= FEWEST_LETTERS:
            return back, encoding
    fixed = fix_encoding(line, _decoding_only())
    return (fixed, "mixed") if fixed != line else (line, None)


def _read_back(line: str, encoding: str) -> str | None:
    """The line's bytes in that encoding as UTF-8; None where they are none."""
    import ftfy.bad_codecs  # noqa: F401  registers the sloppy encodings

    if encoding == "sloppy-windows-1251":
        # The one byte that cp1251 leaves undefined, in the letter И, is what strict readers put U+FFFD for.
        line = line.replace("\ufffd", "\x98")
    try:
        return line.encode(encoding).decode("utf-8") if encoding != "mixed" else None
    except UnicodeError:
        return None


def _decoding_only() -> "TextFixerConfig":
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        replace_lossy_sequences=False,
        fix_c1_controls=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
