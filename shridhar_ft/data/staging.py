"""Cleaned sources on disk, each with the fingerprint of what it was made from, so that a stopped build goes on.

Reading and cleaning is what takes long; what follows (the draw, duplicates, decontamination) needs all sources at
once. A source is whole when its account stands, which is written last.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from shridhar_ft.data.account import SourceAccount
from shridhar_ft.data.rows import RowStream
from shridhar_ft.errors import DiskFailed, Resumable, Stop
from shridhar_ft.runfolder import disk_errors, read_json, write_json


class Staged(NamedTuple):
    """One source after reading and cleaning."""

    stream: Path
    """Arrow stream of whole works or conversations."""
    accounts: list[SourceAccount]
    """One for each of its files."""
    fresh: bool
    """Whether it was read now; else an earlier build had read it."""


class Staging:
    """The folder of the staged sources; a context manager that removes it, unless the build can go on later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self, made_from: str, write: Callable[[RowStream], list[SourceAccount]]) -> Staged:
        """A source, read only if no earlier build has left it whole.

        Args:
            made_from: Fingerprint of the settings and files that it hangs on.
            write: Appends its rows to the stream and returns its accounts.
        """
        stream, account = self.folder / f"{made_from}.arrow", self.folder / f"{made_from}.json"
        if account.is_file():
            return Staged(stream, [SourceAccount.from_dict(one) for one in read_json(account)], fresh=False)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with RowStream(stream) as rows:
                accounts = write(rows)
            write_json(account, [one.as_state() for one in accounts])
        return Staged(stream, accounts, fresh=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        can_go_on = isinstance(error, KeyboardInterrupt | Resumable | DiskFailed) or (
            error and not isinstance(error, Stop)
        )
        if not can_go_on:
            shutil.rmtree(self.folder, ignore_errors=True)
