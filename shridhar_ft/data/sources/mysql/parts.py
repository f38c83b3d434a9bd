"""Which files are the parts of one dump, and in what order: `split` names them aa, ab, …, 00, 01, … or 001, 002, …"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shridhar_ft.data.sources.mysql.foreign import HEADER, begins_like_sql, foreign_dump
from shridhar_ft.data.sources.mysql.stream import GZIP, ZSTD, peek
from shridhar_ft.errors import UserError

_NAME = re.compile(r"(?P<before>.*?)(?P<run>[0-9a-z]+)(?P<ending>(?:\.(?:sql|dump|txt))?(?:\.(?:gz|zst))?)", re.DOTALL)
_PLAIN_NAME = re.compile(r"(?P<before>.*?)(?P<run>[0-9a-z]+)(?P<ending>)", re.DOTALL)
_ALPHABETS = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "0123456789abcdef")
_PEEK = 4096  # bytes of a part that tell whether a dump begins there
_HEADER_WITHIN = 256  # bytes


class _Order(NamedTuple):
    suffixes: list[str]
    """Those that follow one another, from the first one on."""
    missing: str | None
    """The one that should follow, if there are later ones."""


def dump_name(files: Sequence[Path]) -> str:
    """What to call a dump: its file's name, or what the names of its parts begin with."""
    if len(files) == 1:
        return files[0].name
    match = _named(files[0])
    before = match["before"] if match else ""
    return (before or _common([file.name for file in files])).rstrip("._-") or files[0].name


def _named(file: Path) -> re.Match[str] | None:
    """The file's name, taken apart as that of a part."""
    packed = file.name.endswith((".gz", ".zst"))
    if packed:
        with file.open("rb") as handle:
            packed = handle.read(4).startswith((GZIP, ZSTD))
        if not packed:  # after dump.sql.gy comes dump.sql.gz
            return _PLAIN_NAME.fullmatch(file.name)
    return _NAME.fullmatch(file.name)


def _common(names: list[str]) -> str:
    """What all these begin with."""
    first, last = min(names), max(names)
    return first[
        : next((at for at, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))
    ]


def dump_groups(files: Sequence[Path]) -> list[list[Path]]:
    """Put the parts of each dump together, in their order, whatever order they are given in.

    Names decide; where they cannot (`backup01.sql` and `backup02.sql` may be two dumps or two parts of one), the
    beginnings of the files do.

    Args:
        files: Files, packed or not, each once.

    Returns:
        Dumps, each with its parts.

    Raises:
        UserError: A part is missing.
    """
    families: dict[tuple[Path, str, str], dict[str, Path]] = {}
    groups: list[list[Path]] = []
    for file in sorted(files):
        if match := _named(file):
            families.setdefault((file.parent, match["before"], match["ending"]), {})[match["run"]] = file
        else:
            groups.append([file])
    for (folder, before, ending), family in families.items():
        parts = _parts(family, folder, before, ending)
        groups += [parts] if parts else []
        groups += [[file] for file in family.values() if file not in set(parts)]
    return sorted(groups)


def _parts(family: dict[str, Path], folder: Path, before: str, ending: str) -> list[Path]:
    """Those of these files that are parts of one dump, in order; none if each is a dump of its own.

    Args:
        family: Files by the run of letters and digits in which their names differ.
        folder: Where they are.
        before: The name up to that run.
        ending: The name behind it.
    """
    heads = {run: peek(file, _PEEK) for run, file in family.items()}
    whole = all(begins_like_sql(head) or foreign_dump(head) for head in heads.values())
    if whole and (len(family) == 1 or ending.startswith((".sql", ".dump", ".txt"))):
        return []
    if sum(bool(HEADER.search(head[:_HEADER_WITHIN])) for head in heads.values()) > 1:
        return []
    common = _common(list(family))
    longest = min(len(common), min(map(len, family)) - 1)  # something is left of every run
    orders = [
        (common[:cut], order)
        for cut in range(longest + 1)
        if (order := _order({run[cut:] for run in family})) is not None
    ]
    if orders:
        prefix, order = min(orders, key=lambda found: (found[1].missing is not None, -len(found[1].suffixes)))
        start = order.suffixes[0]
        if not (start[-1] == "1" and len(family) > 1 and not begins_like_sql(heads[prefix + start])):
            if order.missing is not None:
                missing = folder / (before + prefix + order.missing + ending)
                raise UserError(
                    f"{missing}: this part of the dump is missing, though {family[prefix + order.suffixes[-1]].name} "
                    f"and later ones are there; put it there"
                )
            return [family[prefix + suffix] for suffix in order.suffixes]
    if not whole and (first := _first(family, before)):
        other = f" (or {before}{first[:-1]}1{ending})" if first.endswith("0") else ""
        raise UserError(
            f"{folder / (before + first + ending)}: the first part of the dump{other} is missing, as "
            f"{min(family.values()).name} begins in its middle; put it there"
        )
    return []


def _first(family: dict[str, Path], before: str) -> str | None:
    """What the first run should have been, or None if these are none of split's."""
    prefix = _common(list(family)) if len(family) > 1 else ""
    suffixes = [run[len(prefix) :] for run in family]
    width = min(map(len, suffixes))
    if not 1 <= width <= 4 or (len(family) == 1 and not before.endswith((".", "_", "-"))):
        return None
    same = "".join(suffix for suffix in suffixes if len(suffix) == width)
    alphabet = next((letters for letters in _ALPHABETS if set(same) <= set(letters)), None)
    return prefix + alphabet[0] * width if alphabet else None


def _order(suffixes: set[str]) -> _Order | None:
    """Follow the suffixes from the first one; None if the first one is not there, or they are none of split's."""
    first = min(suffixes, key=lambda suffix: (len(suffix), suffix))
    letters, digits, hexadecimal = _ALPHABETS
    if first and first == "a" * len(first):
        return _follow(first, suffixes, letters)
    if first and first[:-1].strip("0") == "" and first[-1] in "01":
        same = "".join(suffix for suffix in suffixes if len(suffix) == len(first))
        return _follow(first, suffixes, digits if set(same) <= set(digits) else hexadecimal)
    return None


def _follow(first: str, suffixes: set[str], alphabet: str) -> _Order:
    order = [first]
    while True:
        nexts = _successors(order[-1], alphabet)
        found = next((suffix for suffix in nexts if suffix in suffixes), None)
        if found is None:
            break
        order.append(found)
    later = {
        suffix
        for suffix in suffixes.difference(order)
        if set(suffix) <= set(alphabet)
        and (
            len(suffix) == len(first)
            or (len(suffix) > len(first) and (suffix[0] == alphabet[-1] or alphabet[0] == "0"))
        )
    }
    if not later or not nexts:
        return _Order(order, None)
    return _Order(order, nexts[0] if len(min(later, key=len)) <= len(order[-1]) else nexts[-1])


def _successors(suffix: str, alphabet: str) -> list[str]:
    """What may follow: the next one of the same width, or the first of GNU split's next width (yz, then zaaa)."""
    nexts = []
    digits = list(suffix)
    for place in reversed(range(len(digits))):
        if digits[place] != alphabet[-1]:
            digits[place] = alphabet[alphabet.index(digits[place]) + 1]
            nexts.append("".join(digits))
            break
        digits[place] = alphabet[0]
    else:
        if alphabet[-1] == "9":
            nexts.append("1" + "".join(digits))  # 9, then 10, where numbers are not padded
    wide = len(suffix) - len(suffix.lstrip(alphabet[-1]))
    body = suffix[wide:]
    if len(body) > 1 and body == alphabet[-2] + alphabet[-1] * (len(body) - 1):
        nexts.append(alphabet[-1] * (wide + 1) + alphabet[0] * (len(body) + 1))
    return nexts
