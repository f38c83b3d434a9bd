"""Text files of any encoding, decoded as the recipe says or as detected; what was decoded wrongly is refused."""

from collections.abc import Callable
from pathlib import Path

from shridhar_ft.data.sources.archives import check_text_size
from shridhar_ft.data.sources.decoding import AUTO, decode, is_utf8
from shridhar_ft.data.sources.detection import Detection, detect
from shridhar_ft.data.sources.garbled import find_garbled
from shridhar_ft.errors import UserError

MOST_LOST = 0.001  # of a text's characters


def read_text(
    file: Path,
    encoding: str,
    key: str,
    say: Callable[[str], None],
    declared_in: Callable[[bytes], str | None] = lambda raw: None,
) -> str:
    """The text of a file.

    Args:
        file: The file.
        encoding: From the recipe: a name that `check_encoding` let pass, or `auto`.
        key: Recipe key of the source, e.g. `data.books`.
        say: Takes a line that names the encoding, where it was detected and is not UTF-8.
        declared_in: Finds the encoding that the text itself declares, which goes before the recipe's.

    Raises:
        UserError: The bytes do not fit, the encoding cannot be told, or it is not that of the text.
    """
    check_text_size(file, file.stat().st_size)
    raw = file.read_bytes()
    declared = declared_in(raw)
    given = declared or (encoding if encoding != AUTO else None)
    found = Detection(given, 1.0, "") if given else detect(raw)
    if found.encoding is None:
        raise UserError(f"{file}: {found.why}; {found.mend.format(key=key)}")
    if not given and found.encoding != "utf-8":
        say(f"{file.name}: encoding {found.encoding} (detected: {found.why})")
    text = decode(raw, found.encoding, str(file), key)
    if given and not is_utf8(given) and (garbled := find_garbled(text)):
        mend = f"set {key}.encoding=auto" if not declared else "mend what it declares"
        raise UserError(f"{file}:{garbled.line}: it reads as {garbled.right}, not as {given}; {mend}")
    return text


def check_in_order(text: str, where: str, mojibake_allowed: bool) -> None:
    """Refuse a text that was decoded wrongly before it was saved, or lost letters then.

    Args:
        text: The text.
        where: Its file, for messages.
        mojibake_allowed: Let UTF-8 that was read in another encoding pass, because cleaning repairs it.

    Raises:
        UserError: It was.
    """
    if (lost := text.count("\ufffd")) > MOST_LOST * len(text):
        raise UserError(
            f"{where}: {lost:,} letters were lost when it was saved (U+FFFD); get it from where it is right"
        )
    garbled = find_garbled(text)
    if garbled is None or (mojibake_allowed and garbled.right == "UTF-8"):
        return
    what = (
        f"{where}: line {garbled.line} of the text is {garbled.right} that was read as {garbled.wrong} and saved again"
    )
    mend = "data.clean.mojibake=true repairs it"
    if garbled.right != "UTF-8":
        mend = f"read it back: iconv -f utf-8 -t {garbled.wrong} FILE | iconv -f {garbled.right} -t utf-8"
    raise UserError(f"{what}; get it from where it is right, or {mend}")
