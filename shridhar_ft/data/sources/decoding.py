"""Strict decoding: bytes that do not fit are refused with their place and the mend, never replaced."""

import codecs
import difflib
import encodings.aliases

from shridhar_ft.errors import UserError

AUTO = "auto"  # detect it


def check_encoding(encoding: str, key: str) -> None:
    """Refuse an encoding that Python does not know.

    Args:
        encoding: Its name, as in the recipe.
        key: Recipe key of the source, e.g. `data.books`.

    Raises:
        UserError: There is no text encoding of this name; names the nearest one.
    """
    if encoding == AUTO:
        return
    try:
        b" ".decode(encoding, errors="ignore")
    except LookupError as error:
        known = {name.replace("_", "-") for pair in encodings.aliases.aliases.items() for name in pair}
        near = difflib.get_close_matches(encoding.lower().replace("_", "-"), sorted(known), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "for example utf-8, cp1251, koi8-r"
        raise UserError(f"{key}.encoding: '{encoding}' is no text encoding; {hint}") from error


def is_utf8(encoding: str) -> bool:
    """Whether this name means UTF-8, with or without the byte order mark."""
    return encoding == AUTO or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def decode(raw: bytes, encoding: str, where: str, key: str, offset: int = 0) -> str:
    """Decode strictly; a byte order mark at the beginning is dropped.

    Args:
        raw: The bytes.
        encoding: A name that `check_encoding` let pass.
        where: FILE or FILE:LINE, for the message.
        key: Recipe key of the source, e.g. `data.books`.
        offset: Place of `raw` in its file, in bytes.

    Raises:
        UserError: A byte does not fit, or the text holds U+0000, as UTF-16 read in another encoding does.
    """
    utf8 = is_utf8(encoding)
    try:
        text = raw.decode("utf-8" if utf8 else encoding)
    except UnicodeDecodeError as error:
        name, other = ("UTF-8", "cp1251") if utf8 else (encoding, "utf-8")
        raise UserError(
            f"{where}: byte {offset + error.start} (0x{raw[error.start]:02X}) is not {name}; "
            f"if the file is in another encoding, say so with {key}.encoding={other}"
        ) from error
    if "\0" in text:
        raise UserError(
            f"{where}: there are zero bytes, which no text in {encoding} has; "
            f"if the file is UTF-16, say so with {key}.encoding=utf-16"
        )
    return text.removeprefix("\ufeff")
