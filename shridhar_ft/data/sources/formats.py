"""Which format a source's files have, by their names and first bytes, and which files belong together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from shridhar_ft import config_data
from shridhar_ft.data.sources.datasets_rows import is_saved_dataset
from shridhar_ft.data.sources.mysql.foreign import looks_like_dump
from shridhar_ft.data.sources.mysql.parts import dump_groups
from shridhar_ft.data.sources.row import table_name
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand

Format = Literal["json", "jsonl", "csv", "parquet", "datasets", "mysql_dump"]
SUFFIXES: dict[str, Format | Literal["auto"]] = {
    ".json": "auto",  # a list, or JSON Lines: the first character tells
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".sql": "mysql_dump",
}
_PACKED = (".gz", ".zst")
_ROWS = [*(f"*{suffix}" for suffix in SUFFIXES), "*.json.gz", "*.jsonl.gz", "*.csv.gz", "*.sql.gz", "*.sql.zst"]
"""What a folder stands for."""
_LOOKED_AT = 4096  # bytes


class Unit(NamedTuple):
    """What is read as one: a file, a `datasets` folder, or a dump with its parts."""

    format: Format | Literal["auto"]
    """auto: JSON whose first character tells the rest."""
    paths: list[Path]


def units_of(source: config_data.Rows, key: str) -> list[Unit]:
    """What a source reads, in order; none for a dataset on the Hub.

    Raises:
        UserError: A path matches nothing, a part of a dump is missing, or a file's format cannot be told.
    """
    saved = [Path(path) for path in source.paths if is_saved_dataset(Path(path))]
    if source.format == "datasets":
        if others := [path for path in source.paths if Path(path) not in saved]:
            raise UserError(
                f"{key}.paths: {others[0]} is no folder that save_to_disk of the datasets library wrote; mend the path"
            )
        return [Unit("datasets", [folder]) for folder in saved]
    units = [Unit("datasets", [folder]) for folder in saved if source.format == "auto"]
    rest = [path for path in source.paths if not units or Path(path) not in saved]
    patterns = ["[!.]*"] if source.format == "mysql_dump" else _ROWS
    files = [file for file in expand(rest, patterns, f"{key}.paths") if file.is_file()] if rest else []
    return units + _units(files, source, key)


def row_files(source: config_data.Rows, key: str) -> list[Path]:
    """All files of a source, for its fingerprint; none for a dataset on the Hub.

    Raises:
        As `units_of`.
    """
    if source.hub:
        return []
    paths = [path for unit in units_of(source, key) for path in unit.paths]
    return [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]


def unit_table(unit: Unit) -> str | None:
    """The name of the one table that it is; None for a dump, which holds several."""
    return None if unit.format == "mysql_dump" else table_name(unit.paths[0])


def _units(files: Sequence[Path], source: config_data.Rows, key: str) -> list[Unit]:
    """Files by their formats; those that make up a dump stand where its first part does."""
    formats = {file: format_of(file) if source.format == "auto" else source.format for file in files}
    # The later parts of a dump begin anywhere and look like nothing.
    parts = [file for file, found in formats.items() if found in ("mysql_dump", None)]
    dumps = {group[0]: group for group in dump_groups(parts)} if "mysql_dump" in formats.values() else {}
    units = []
    for file, found in formats.items():
        if file in dumps:
            units.append(Unit("mysql_dump", dumps[file]))
        elif found is None and not dumps:
            raise UserError(
                f"{file}: neither name nor beginning tells the format; say it with {key}.format=… "
                f"(json, jsonl, csv, parquet, datasets, mysql_dump)"
            )
        elif found not in ("mysql_dump", None):
            units.append(Unit(found, [file]))
    return units


def format_of(file: Path) -> Format | Literal["auto"] | None:
    """The format that name or beginning tells, if they do."""
    name = file.name
    for packed in _PACKED:
        name = name.removesuffix(packed)
    if found := SUFFIXES.get(Path(name).suffix.lower()):
        return found
    if looks_like_dump(file):
        return "mysql_dump"
    with file.open("rb") as handle:
        head = handle.read(_LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    return None
