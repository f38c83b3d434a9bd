"""Looks at files before anything is built: formats, encodings, tables and columns, samples, a mapping to paste.

shridhar-ft data inspect my/books my/dump_aa my/dialogues.jsonl
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft import config_data
from shridhar_ft.data.column_stats import TableStats, share_of_cyrillic, shown
from shridhar_ft.data.sources.books import SUFFIXES, read_book
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.datasets_rows import is_saved_dataset
from shridhar_ft.data.sources.detection import detect
from shridhar_ft.data.sources.formats import Unit, format_of, units_of
from shridhar_ft.data.sources.mapping_guess import guess_mappings
from shridhar_ft.data.sources.mysql.foreign import HEADER
from shridhar_ft.data.sources.mysql.parts import dump_groups
from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.data.sources.mysql.stream import peek
from shridhar_ft.data.sources.reading import Reader
from shridhar_ft.data.sources.row import Row
from shridhar_ft.data.words import words_of
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand
from shridhar_ft.progress import counted

KEY = "data inspect"
AT_ONCE = 1000  # rows looked at together
SAMPLES = 3  # passages shown of a book
PASSAGE = 160  # characters


def inspect(paths: Sequence[str], samples: bool = True) -> dict[str, Any]:
    """What lies there, each file read once from its beginning to its end; rows in memory that does not grow with them.

    Args:
        paths: Files, folders (the files in them), or globs. The parts of a dump are one source.
        samples: Whether rows and passages are shown.

    Returns:
        `sources` (path, format, bytes, parts, encoding, notes, and either the figures of a book or `tables`; `error`
        where one of several cannot be read), `folders_passed_over`,
        `mapping` (a recipe's `data` section as a dict), `yaml` (the same as text; empty where nothing fits).

    Raises:
        UserError: A path matches nothing, or nothing of it can be read as what it is.
    """
    files = _files(paths)
    books = _books(files)
    found = [_of_book(book, samples) for book in books]
    units, unknown = _units([path for path in files if path not in set(books)])
    mapping: dict[str, Any] = {}
    if good := [file for file, told in zip(books, found, strict=True) if "error" not in told]:
        mapping["books"] = {"paths": _shortest(paths, good) if len(good) == len(books) else [str(one) for one in good]}
    for unit in units:
        stats, facts = _of_dump(unit) if unit.format == "mysql_dump" else _of_rows(unit)
        found.append(_described(unit, stats, facts, samples))
        guess = guess_mappings({name: table.held for name, table in stats.items()})
        for kind, source in (guess or {}).items():
            head = {"format": facts["format"], "paths": _paths_of(unit)}
            mapping.setdefault(kind, []).append({**head, **source})
    found += [_failed(file, "neither its name nor its beginning tells what it is") for file in unknown]
    errors = [told["error"] for told in found if "error" in told]
    if len(errors) == len(found):
        raise UserError(errors[0])
    text = yaml.safe_dump({"data": mapping}, allow_unicode=True, sort_keys=False) if mapping else ""
    below = [str(folder) for path in paths if Path(path).is_dir() for folder in _folders(Path(path))]
    return {"sources": found, "folders_passed_over": below, "mapping": mapping, "yaml": text}


# ------------------------------------------------------------------------------------------- which files


def _files(paths: Sequence[str]) -> list[Path]:
    folders = [Path(path) for path in paths if is_saved_dataset(Path(path))]
    others = [path for path in paths if Path(path) not in folders]
    files = [file for file in expand(others, ["[!.]*"], KEY) if file.is_file()] if others else []
    if not files and not folders:
        raise UserError(f"{', '.join(paths)}: no file lies there; name the folder that holds them")
    return [*folders, *files]


def _folders(folder: Path) -> list[Path]:
    """Folders below, which are not looked into."""
    return [] if is_saved_dataset(folder) else sorted(one for one in folder.iterdir() if one.is_dir())


def _books(files: Sequence[Path]) -> list[Path]:
    """The books among them: a .txt file may be a dump too."""
    named = [file for file in files if file.is_file() and file.name.lower().endswith(SUFFIXES)]
    return [file for file in named if not HEADER.search(peek(file, 256))]


def _shortest(paths: Sequence[str], books: Sequence[Path]) -> list[str]:
    """The given paths that hold the books."""
    return [path for path in paths if any(str(book).startswith(path.rstrip("*/")) for book in books)] or list(paths)


def _units(files: Sequence[Path]) -> tuple[list[Unit], list[Path]]:
    """What is read as one, and files that are nothing that is known; beside a dump, these may be its later parts."""
    formats = {path: "datasets" if path.is_dir() else format_of(path) for path in files}
    unknown = [path for path, found in formats.items() if found is None]
    series = {_series(path) for path, found in formats.items() if found == "mysql_dump"}
    if not series and len(unknown) > 1 and len({_series(path) for path in unknown}) == 1:
        dump_groups(unknown)  # parts without their first one, which it tells
    files = [path for path in files if path not in unknown or _series(path) in series]
    units = units_of(config_data.Rows(paths=[str(path) for path in files]), KEY) if files else []
    taken = {path for unit in units for path in unit.paths}
    return units, [path for path in unknown if path not in taken]


def _series(path: Path) -> str:
    """What the names of a dump's parts have in common."""
    return str(path).rstrip("abcdefghijklmnopqrstuvwxyz0123456789")


def _paths_of(unit: Unit) -> list[str]:
    """As few paths as name the unit's files: the parts of a dump by a glob."""
    if len(unit.paths) == 1:
        return [str(unit.paths[0])]
    names = [path.name for path in unit.paths]
    common = names[0]
    while not all(name.startswith(common) for name in names):
        common = common[:-1]
    return [str(unit.paths[0].with_name(common + "*"))]


# ------------------------------------------------------------------------------------------- what is in them


def _of_book(file: Path, samples: bool) -> dict[str, Any]:
    notes: list[str] = []
    told: Callable[[str], None] = lambda line: notes.append(line.removeprefix(f"{file.name}: "))  # noqa: E731
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if file.name.lower().endswith(suffix))
    facts = {"path": str(file), "format": suffix.removeprefix("."), "bytes": file.stat().st_size, "notes": notes}
    try:
        document = read_book(file, config_data.Books.model_fields["encoding"].default, KEY, told)
    except UserError as error:  # one bad book of a shelf is what one looks for
        return {**facts, "error": str(error), "notes": [str(error)]}
    text = document.text
    plain = suffix in (".txt", ".md", ".html", ".htm")
    passages = [text[at : at + PASSAGE].strip().replace("\n", " ⏎ ") for at in _places(len(text))]
    return {
        **facts,
        "encoding": detect(file.read_bytes()).encoding if plain else None,
        "title": document.title,
        "author": document.author,
        "characters": len(text),
        "words": len(words_of([text]).hashes),
        "chapters": len(document.chapters),
        "cyrillic": share_of_cyrillic(text),
        **({"samples": passages} if samples else {}),
    }


def _failed(file: Path, why: str) -> dict[str, Any]:
    error = f"{file}: {why}; take it out, or say its format in a recipe"
    return {"path": str(file), "format": "unknown", "bytes": file.stat().st_size, "notes": [error], "error": error}


def _places(length: int) -> list[int]:
    """Where passages are taken from: the beginning, and evenly on."""
    return [length * number // SAMPLES for number in range(SAMPLES)] if length > SAMPLES * PASSAGE else [0]


def _of_dump(unit: Unit) -> tuple[dict[str, TableStats], dict[str, Any]]:
    dump = Dump(unit.paths, KEY, partial=True)
    stats: dict[str, TableStats] = {}
    for batch in counted(dump.batches(), f"{dump.name}: batches"):
        stats.setdefault(batch.table, TableStats(batch.table)).see(batch.columns)
    for name, table in dump.tables.items():
        if table.is_view:
            stats.pop(name, None)
        else:
            stats.setdefault(name, TableStats(name)).declare({column.name: column.type for column in table.columns})
    facts = dump.facts
    notes = [note for note in facts.notes() if note != facts.charset]
    for double, columns in facts.double_encoded.items():
        notes.append(
            f"{double}: the texts of {', '.join(columns)} were encoded twice; set `encoding: double` to undo it"
        )
    return stats, {"format": "mysql_dump", "encoding": facts.charset, "notes": notes}


def _of_rows(unit: Unit) -> tuple[dict[str, TableStats], dict[str, Any]]:
    counts = RowCounts()
    reader = Reader(config_data.Rows(paths=[str(path) for path in unit.paths]), KEY, counts)
    stats: dict[str, TableStats] = {}
    rows = counted(reader.rows(), f"{unit.paths[0].name}: rows")
    while held := list(islice(rows, AT_ONCE)):
        for table, columns in _columns(held).items():
            stats.setdefault(table, TableStats(table)).see(columns)
    (note,) = counts.notes.values()
    form, _, encoding = note.partition(", ")
    known = form in ("json", "jsonl", "csv", "parquet")
    return stats, {"format": form if known else "datasets", "encoding": encoding or None, "notes": []}


def _columns(rows: Sequence[Row]) -> dict[str, dict[str, list[Any]]]:
    """Rows by table and column; a row of JSON that lacks a column of the others holds None there."""
    by_table: dict[str, list[Row]] = {}
    for row in rows:
        by_table.setdefault(row.table, []).append(row)
    return {
        table: {
            name: [row.value.get(name) for row in of_one] for name in dict.fromkeys(n for r in of_one for n in r.value)
        }
        for table, of_one in by_table.items()
    }


def _described(unit: Unit, stats: dict[str, TableStats], facts: dict[str, Any], samples: bool) -> dict[str, Any]:
    files = [file for path in unit.paths for file in ([path] if path.is_file() else sorted(path.rglob("*.arrow")))]
    tables = [
        {
            "name": table.name,
            "rows": table.rows,
            "columns": [column.as_dict(table.declared.get(name, "")) for name, column in table.columns.items()],
            **({"samples": [shown(row) for row in table.samples]} if samples else {}),
        }
        for table in stats.values()
    ]
    size = sum(file.stat().st_size for file in files)
    return {"path": _paths_of(unit)[0], **facts, "bytes": size, "parts": len(unit.paths), "tables": tables}
