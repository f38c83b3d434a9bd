"""`shridhar-ft data diff FILE`: what each cleaning step does to a book, before and after, in colour.

shridhar-ft data diff book.epub mojibake=true --step hyphenation --most 20
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from shridhar_ft import config_data
from shridhar_ft.config_errors import one_sentence
from shridhar_ft.data.changes import Change
from shridhar_ft.data.clean import STEPS, clean_text
from shridhar_ft.data.sources.books import read_book
from shridhar_ft.errors import UserError

MOST = 10  # changes shown of each step

_SHOWN = {
    "\n": "␤",
    "\t": "␉",
    "\xa0": "␣",
    "\xad": "‹SHY›",
    "\u2028": "‹LS›",
    "\u2029": "‹PS›",
    "\x0c": "‹FF›",
    "\r": "␍",
    "\u200b": "‹ZWSP›",
    "\ufeff": "‹BOM›",
    "\ufffc": "‹OBJ›",
}


def show(
    file: str, overrides: Sequence[str] = (), step: str | None = None, most: int = MOST, encoding: str = "auto"
) -> dict[str, Any]:
    """What each step does to one book.

    Args:
        file: A book in any format that `data.books` reads.
        overrides: Switches as in `data.clean`: `mojibake=true`, or with their whole key.
        step: The only step to show; the steps before it apply too.
        most: Changes to show of each step.
        encoding: Of a plain text, as `data.books.encoding`.

    Returns:
        For JSON: the file, characters before and after, and by step the characters that it changed and took away
        (`shortened`, negative where it added), and its first changes with their lines, as they stand at that step.

    Raises:
        UserError: The file cannot be read as a book, or a switch or step does not exist.
    """
    clean = _switches(overrides)
    if step is not None and step not in _steps():
        raise UserError(f"--step {step}: books have no such cleaning step; there are {', '.join(_steps())}")
    path = Path(file)
    if not path.exists():
        raise UserError(f"{file}: there is no such file; give the path of a book")
    document = read_book(path, encoding, mojibake_allowed=clean.mojibake)
    cleaned = clean_text(document.text, clean, is_book=True, examples=most)
    return {
        "file": file,
        "characters": {"before": len(document.text), "after": len(cleaned.text)},
        "steps": {
            name: {
                "changed": count,
                "shortened": cleaned.shortened[name],
                "changes": [_as_dict(change) for change in cleaned.examples.get(name, [])],
            }
            for name, count in cleaned.changed.items()
            if step in (None, name)
        },
    }


def render(shown: dict[str, Any], console: Console) -> None:
    """Print what `show` returned: what went in red and struck through, what came in green.

    Args:
        shown: What `show` returned.
        console: Where to.
    """
    before, after = shown["characters"]["before"], shown["characters"]["after"]
    _say(console, Text(f"{shown['file']}: {before:,} characters before, {after:,} after"))
    if not shown["steps"]:
        _say(console, Text("no step changes anything"))
    for name, step in shown["steps"].items():
        by = step["shortened"]
        length = f"{abs(by):,} {'fewer' if by > 0 else 'more'}" if by else "as long as before"
        _say(console, Text.assemble("\n", (name, "bold"), f" · {step['changed']:,} characters changed, {length}"))
        for change in step["changes"]:
            _say(
                console,
                Text.assemble(
                    (f"{change['line']:>7} ", "dim"),
                    _visible(change["lead"]),
                    (_visible(change["removed"], marked=True), "red strike"),
                    (_visible(change["inserted"], marked=True), "green"),
                    _visible(change["tail"]),
                ),
            )


def _steps() -> list[str]:
    return list(dict.fromkeys(step.name for step in STEPS if step.only != "dialogues"))


def _switches(overrides: Sequence[str]) -> config_data.Clean:
    wanted: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"'{override}': a switch is NAME=true or NAME=false, e.g. mojibake=true")
        wanted[key.removeprefix("data.clean.").removeprefix("clean.")] = value
    try:
        return config_data.Clean.model_validate(wanted)
    except ValidationError as error:
        raise UserError(one_sentence(error, Path("data.clean"), config_data.Clean)) from error


def _as_dict(change: Change) -> dict[str, Any]:
    return {**change._asdict(), "before": change.before, "after": change.after}


def _visible(text: str, marked: bool = False) -> str:
    """The text on one line, with characters made visible that a terminal does not show; `marked`: spaces too."""
    shown = "".join(_SHOWN.get(one) or (one if one.isprintable() else f"‹U+{ord(one):04X}›") for one in text)
    return shown.replace(" ", "·") if marked and not text.strip() else shown


def _say(console: Console, line: Text) -> None:
    console.print(line, soft_wrap=True)
