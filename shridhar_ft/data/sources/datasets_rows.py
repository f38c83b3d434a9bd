"""Batches of a dataset of the `datasets` library: a folder that it saved, or one on the Hub, streamed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shridhar_ft import config_data
from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.parquet_rows import lists_of
from shridhar_ft.data.sources.row import BATCH_ROWS
from shridhar_ft.errors import UserError, first_line

_MARKS = ("state.json", "dataset_dict.json")  # of one dataset, of several splits


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return folder.is_dir() and any((folder / mark).is_file() for mark in _MARKS)


def open_folder(folder: Path, splits: Sequence[str], key: str) -> dict[str, Any]:
    """The splits of a saved folder, memory-mapped; a dataset without splits is one without a name.

    Args:
        folder: The folder.
        splits: Those that are wanted (none: all of them).
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: The folder does not load, or has no such split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever json, pyarrow and datasets raise over a damaged folder
        raise UserError(
            f"{folder}: not readable as a folder of the datasets library ({first_line(error)}); save it anew"
        ) from error
    return _chosen(loaded if isinstance(loaded, Mapping) else {"": loaded}, splits, str(folder), key)


def open_hub(source: config_data.Rows, key: str) -> dict[str, Any]:
    """The splits of a dataset on the Hub; nothing is downloaded before it is read, and no code of it is run.

    Raises:
        UserError: There is no such dataset, subset, revision or split, or the Hub cannot be reached.
    """
    import datasets

    assert source.hub is not None
    # load_dataset would take a folder of this name, wherever the command is run.
    if source.hub.count("/") != 1 or Path(source.hub).exists():
        raise UserError(
            f"{key}.hub: '{source.hub}' must be owner/name, and no folder here; for a folder write {key}.paths"
        )
    try:
        loaded = datasets.load_dataset(source.hub, source.subset, revision=source.revision, streaming=True)
    except Exception as error:  # its errors share no class: of the network, the Hub, the builders
        raise UserError(
            f"{key}.hub: {source.hub} does not load ({first_line(error)}); mend the name, subset or revision, or give "
            f"files with {key}.paths if the Hub is out of reach"
        ) from error
    return _chosen(loaded, source.splits, source.hub, key)


def _chosen(loaded: Mapping[str, Any], splits: Sequence[str], name: str, key: str) -> dict[str, Any]:
    if missing := [split for split in splits if split not in loaded]:
        there = ", ".join(filter(None, loaded)) or "no splits"
        raise UserError(f"{key}.splits: {name} has no '{missing[0]}'; it has {there}")
    return {split: rows for split, rows in loaded.items() if not splits or split in splits}


def dataset_columns(splits: Mapping[str, Any]) -> list[str] | None:
    """Names of the columns, None where a streamed dataset does not say them beforehand."""
    names: dict[str, None] = {}
    for rows in splits.values():
        if rows.column_names is None:
            return None
        names |= dict.fromkeys(rows.column_names)
    return list(names)


def read_dataset(splits: Mapping[str, Any], name: str, wanted: Collection[str] | None, key: str) -> Iterator[Batch]:
    """Read batches lazily; rows are numbered through all the splits.

    Args:
        splits: What `open_folder` or `open_hub` gave.
        name: Name of the folder or dataset, for messages and as the table's.
        wanted: Columns that are read, of those that are there (None: all of them).
        key: Recipe key of the source.

    Raises:
        UserError: There are no rows, or the Hub fails on the way.
    """
    number, table = 0, name.rpartition("/")[2]
    for rows in splits.values():
        if wanted is not None and rows.column_names is not None:
            rows = rows.select_columns([column for column in rows.column_names if column in wanted])
        try:
            # As Arrow: pictures and sounds are not decoded, and lists of objects stay lists of objects.
            for batch in rows.with_format("arrow").iter(BATCH_ROWS):
                yield Batch(table, name, f"{name} row {number + 1}", number, lists_of(batch))
                number += batch.num_rows
        except OSError as error:  # what requests, httpx, aiohttp and a damaged file have in common
            raise UserError(
                f"{name}: reading stopped after {number:,} rows ({first_line(error)}); try again"
            ) from error
    if not number:
        raise UserError(f"{name}: there are no rows; take it out of {key}")
