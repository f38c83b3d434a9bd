"""Brings the backup of a run up to date, once: what is new goes there, what was rotated away here goes there too.

A checkpoint counts there, as here, when its MANIFEST.json stands, written after all of its files; each file is hashed
before it is sent, so that only what was written is copied.
"""

import json
import platform
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shridhar_ft.backup.contents import (
    ARCHIVE,
    IDENTITY,
    OWNER,
    WEIGHTS,
    as_they_leave,
    pack,
    parts,
    small_files,
    wanted_checkpoints,
    weights_of,
)
from shridhar_ft.backup.store import Store
from shridhar_ft.checkpoint import MANIFEST, checkpoints, sealed
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import file_hash, fingerprint, read_json, write_json


class Mirror:
    """One run and its backup."""

    def __init__(self, root: Path, place: str, say: Callable[[str], None], small_every: float = 60) -> None:
        """
        Args:
            root: The run folder.
            place: Where its backup lies, without the run's name.
            say: Told what was copied.
            small_every: Seconds between copies of the small files.
        """
        self.root, self.store, self.say, self.small_every = (
            root,
            Store(f"{place.rstrip('/')}/{root.name}"),
            say,
            small_every,
        )
        self.session = uuid.uuid4().hex
        self.sent_small: tuple[str, float] | None = None  # fingerprint, time
        self.claimed = self.told_of_address = False
        self._manifests: dict[str, dict[str, Any] | None] = {}  # what stands there, as far as it was read
        self._arrived: dict[str, str] = {}  # files of this process that are there, their hashes

    # ------------------------------------------------------------------------------------------- whose it is

    def check_owner(self) -> None:
        """Refuse a backup that another run of this name left: its checkpoints would be taken for old ones and removed.

        Raises:
            UserError: It is another run's.
        """
        there = self._owner()
        own = read_json(self.root / IDENTITY)["id"] if (self.root / IDENTITY).is_file() else None
        if there is not None and there["id"] != own:
            raise UserError(
                f"train.backup: {self.store.place} holds a run that did not begin in {self.root} (last copied from "
                f"{there['host']}, {there['at']}); go on with it by `shridhar-ft pull {self.store.place}`, or name "
                "another place, or another run"
            )

    def _owner(self) -> dict[str, Any] | None:
        held = self.store.read(OWNER)
        return json.loads(held) if held is not None else None

    def _claim(self) -> None:
        """Write down that this process copies this run; another one that did so before stops when it sees it.

        Raises:
            UserError: The backup is another run's, or another process has taken it over since.
        """
        there = self._owner() if self.claimed else None
        if there is not None:
            if there["session"] != self.session:
                raise UserError(
                    f"{self.store.place}: {there['host']} goes on with this run; from here nothing goes there"
                )
            return
        if self.claimed:  # somebody emptied the place
            self._manifests, self._arrived, self.sent_small = {}, {}, None
        self.check_owner()
        file = self.root / IDENTITY
        if not file.is_file():
            write_json(file, {"id": uuid.uuid4().hex, "place": self.store.place})
        own = {"id": read_json(file)["id"], "session": self.session, "host": platform.node(), "at": _now()}
        self.store.write(OWNER, json.dumps(own, indent=1).encode())
        self.claimed = True

    # -------------------------------------------------------------------------------------------------- a pass

    def pending(self) -> list[str]:
        """Names of what should be there and is not, by what is known."""
        return [name for name, _, manifest in self._units() if not _same(self._manifests.get(name), manifest)]

    def update(self, last: bool = False) -> None:
        """Copy what is due; raises what the store raises, and can be called again.

        Args:
            last: Nothing comes after: the small files are due however recently they were sent.

        Raises:
            UserError: The backup belongs to another run or process.
        """
        if not (self.root / "recipe.yaml").is_file():
            return  # nothing is made yet
        due = last or self.sent_small is None or time.monotonic() - self.sent_small[1] >= self.small_every
        new = [unit for unit in self._units() if not self._stands(unit[0], unit[2])]
        if not (due or new):
            return
        self._claim()
        self._send_small()
        failed: OSError | None = None
        for name, folder, manifest in new:
            try:
                self._send(name, folder, manifest)
            except OSError as error:  # a damaged one must not keep the others from going
                failed = failed or error
        if new:
            self._rotate()
            self._send_small()
        if failed is not None:
            raise failed

    def _units(self) -> list[tuple[str, Path, dict[str, Any]]]:
        """Name, folder and manifest of everything with a manifest that should be there: finished weights first."""
        finished, running = [], []
        for part in parts(self.root):
            folder = self.root / part
            if found := weights_of(folder):
                finished.append((f"{part}/{found[0].name}", found[0], {"of": found[1]}))
            for checkpoint in wanted_checkpoints(folder / "checkpoints"):
                manifest = read_json(checkpoint / MANIFEST)
                running.append((f"{part}/checkpoints/{checkpoint.name}", checkpoint, manifest))
        return [*finished, *running]

    def _stands(self, name: str, manifest: dict[str, Any]) -> bool:
        """Whether the very thing is there, whole."""
        if name not in self._manifests:
            held = self.store.read(f"{name}/{MANIFEST}")
            self._manifests[name] = _read(held)
        return _same(self._manifests[name], manifest)

    def _send(self, name: str, folder: Path, manifest: dict[str, Any]) -> None:
        """Copy a folder file by file, its manifest last; what this process has sent already is not sent again."""
        if self._manifests[name] is not None:  # another thing of the same name: it stops counting first
            self.store.remove(name, MANIFEST)
            self._manifests[name] = None
        began, total = time.monotonic(), 0
        written = manifest.get("files")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        entries = {}
        for path in files:
            inside = path.relative_to(folder).as_posix()
            size, digest = path.stat().st_size, file_hash(path)
            if written is not None and written.get(inside) != {"bytes": size, "xxh3": digest}:
                raise OSError(f"{path} is not what the manifest says; it is not copied")
            entries[inside] = {"bytes": size, "xxh3": digest}
            target = f"{name}/{inside}"
            if self._arrived.get(target) != digest:
                self._claim()
                self.store.put(path, target)
                self._arrived[target] = digest
            total += size
        if written is not None and written.keys() != entries.keys():
            raise OSError(f"{folder} lacks {', '.join(written.keys() - entries.keys())}; it is not copied")
        whole = manifest if written is not None else sealed({**manifest, "files": entries})
        self.store.write(f"{name}/{MANIFEST}", json.dumps(whole, ensure_ascii=False, indent=1).encode())
        self._manifests[name] = whole
        self._arrived = {there: digest for there, digest in self._arrived.items() if not there.startswith(f"{name}/")}
        self.say(f"backup: {name} is copied ({total / 1e6:,.1f} MB in {time.monotonic() - began:.0f} s)")

    def _rotate(self) -> None:
        """Remove there what is no longer here, part by part, where the newest of here stands there."""
        for part in parts(self.root):
            folder = self.root / part / "checkpoints"
            wanted = wanted_checkpoints(folder)
            names = [f"{part}/checkpoints/{path.name}" for path in wanted]
            if not names or any(self._manifests.get(name) is None for name in names):
                continue
            kept = {path.name for path in checkpoints(folder)}
            for old in self.store.children(f"{part}/checkpoints"):
                if old not in kept:
                    self._claim()
                    self.store.remove(f"{part}/checkpoints/{old}", MANIFEST)
                    self._manifests.pop(f"{part}/checkpoints/{old}", None)
            held = weights_of(self.root / part)
            for kind in WEIGHTS:  # a part that is made again, by another method even
                name = f"{part}/{kind}"
                if (held is None or held[0].name != kind) and self._manifests.get(name) is not None:
                    self.store.remove(name, MANIFEST)
                    self._manifests[name] = None

    def _send_small(self) -> None:
        files = small_files(self.root)
        mark = fingerprint({name: content.hex() for name, content in files.items()})
        if self.sent_small is None or self.sent_small[0] != mark:
            leaving, held_back = as_they_leave(files)
            self.store.write(ARCHIVE, pack(leaving))
            if held_back and not self.told_of_address:
                self.told_of_address = True
                self.say(
                    "backup: train.notify is left out of the copied recipe: it may hold a token; one that is written "
                    "as $NAME comes from the environment, and goes along"
                )
        self.sent_small = (mark, time.monotonic())


def _same(there: dict[str, Any] | None, here: dict[str, Any]) -> bool:
    """Whether two manifests are of the same thing; that of finished weights gets its files only as they are sent."""
    if there is None:
        return False
    return there.get("of") == here["of"] if "of" in here else there == here


def _read(held: bytes | None) -> dict[str, Any] | None:
    """A manifest that was read there; one that cannot be read does not count."""
    try:
        return None if held is None else json.loads(held)
    except ValueError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
