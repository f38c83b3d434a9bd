"""The place that a backup lies in: a bucket or a folder, through fsspec; each file is whole or not there."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import sync

NEEDED = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "file": "fsspec"}  # scheme → package behind it
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def check_place(place: str, key: str) -> None:
    """Refuse a place that nothing here can write to.

    Args:
        place: `s3://bucket/folder`, `gs://bucket/folder`, or a path.
        key: What named it, for the sentence.

    Raises:
        UserError: The scheme is unknown, or its package is not installed.
    """
    scheme = scheme_of(place)
    if scheme is None:
        return
    if scheme not in NEEDED:
        raise UserError(f"{key}: {scheme}:// is not known; write s3://bucket/folder, gs://bucket/folder, or a path")
    if find_spec(NEEDED[scheme]) is None:
        raise UserError(f"{key}: {scheme}:// needs {NEEDED[scheme]}; run `pip install 'shridhar_ft[cloud]'`")


def scheme_of(place: str) -> str | None:
    """What stands before `://`, or None for a path."""
    match = _SCHEME.match(place)
    return match.group(1).lower() if match else None


class Store:
    """Files by their names below one place, with `/` between folders."""

    def __init__(self, place: str) -> None:
        """
        Args:
            place: See `check_place`; whose it is, the environment says (AWS_…, GOOGLE_APPLICATION_CREDENTIALS).
        """
        import fsspec

        self.place = place.rstrip("/")
        options: dict[str, Any] = {}
        if scheme_of(place) == "s3":
            # Parts of 50 MB are held in memory while they are sent: four of them at once, and not ten.
            options = {"max_concurrency": 4}
        found: tuple[Any, str] = fsspec.core.url_to_fs(
            self.place, use_listings_cache=False, skip_instance_cache=True, **options
        )
        self.fs, self.root = found[0], found[1].rstrip("/")
        self.local = "file" in self.fs.protocol

    def below(self, name: str) -> "Store":
        """The place of this name inside this one."""
        return Store(f"{self.place}/{name}")

    def read(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is none."""
        try:
            return self.fs.cat_file(self._at(name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file, whole or not at all."""
        self._whole(name, lambda target: self.fs.pipe_file(target, content), len(content))

    def put(self, source: Path, name: str) -> None:
        """Copy a file there.

        Raises:
            OSError: What arrived has another size; it is taken away again.
        """
        self._whole(name, lambda target: self.fs.put_file(str(source), target), source.stat().st_size)

    def get(self, name: str, target: Path) -> None:
        """Copy a file from there."""
        self.fs.get_file(self._at(name), str(target))

    def children(self, name: str = "") -> list[str]:
        """Names directly below a folder, sorted; none where it is not there."""
        try:
            listed = self.fs.ls(self._at(name), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in listed} - {""})

    def remove(self, name: str, first: str) -> None:
        """Take a folder away, one of its files before the others: what is left of it then no longer counts.

        Args:
            name: The folder.
            first: The file, inside it.
        """
        for path, recursive in ((f"{name}/{first}", False), (name, True)):
            if self.fs.exists(self._at(path)):
                self.fs.rm(self._at(path), recursive=recursive)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _whole(self, name: str, write: Any, wanted: int) -> None:  # noqa: ANN401 - a function of the target
        """Write under the final name where the store shows whole objects only, and beside it in a folder."""
        final = self._at(name)
        target = final
        if self.local:
            self.fs.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
            target = "{}/.{}.tmp".format(*final.rsplit("/", 1))
        write(target)
        held = self.fs.info(target)["size"]
        if held != wanted:
            self.fs.rm(target)
            raise OSError(f"{name} arrived with {held} bytes instead of {wanted}")
        if self.local:
            sync(Path(target))
            Path(target).replace(final)
