"""Batches of a Parquet file, in the memory of one of its row groups' pieces."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shridhar_ft.data.sources.batches import Batch
from shridhar_ft.data.sources.row import BATCH_ROWS, table_name
from shridhar_ft.errors import UserError, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def parquet_columns(file: Path, key: str) -> list[str]:
    """Names of the columns.

    Raises:
        UserError: It is no Parquet file, or a damaged one.
    """
    with _opened(file, key) as parquet:
        return list(parquet.schema_arrow.names)


def read_parquet(file: Path, wanted: Collection[str] | None, key: str) -> Iterator[Batch]:
    """Read batches lazily; lists and structs become lists and dicts.

    Args:
        file: The file.
        wanted: Columns that are read, of those that are there (None: all of them).
        key: Recipe key of the source, e.g. `data.dialogues.0`.

    Raises:
        UserError: It is no Parquet file, a damaged one, or one without rows.
    """
    import pyarrow as pa

    number, table = 0, table_name(file)
    with _opened(file, key) as parquet:
        names = [name for name in parquet.schema_arrow.names if wanted is None or name in wanted]
        try:
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False):
                yield Batch(table, file.name, f"{file} row {number + 1}", number, lists_of(batch))
                number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _broken(file, error, key) from error
    if not number:
        raise UserError(f"{file}: there are no rows; fill the file, or take it out of {key}.paths")


def lists_of(batch: "pa.RecordBatch | pa.Table") -> dict[str, list[object]]:
    """The columns of an Arrow batch as Python lists."""
    return {name: batch.column(name).to_pylist() for name in batch.schema.names}


def _opened(file: Path, key: str) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _broken(file, error, key) from error


def _broken(file: Path, error: Exception, key: str) -> UserError:
    return UserError(
        f"{file}: not readable as Parquet ({first_line(error)}); fetch it anew, or take it out of {key}.paths"
    )
