"""The run folder: where each part lies, how it gets there whole, and what it was made from.

    runs/<name>/  recipe.yaml environment.json status.json
                  data/ tokenizer/ stages/<stage>/ sft/ export/

A finished part holds `part.json`, written last, with the fingerprint of what it was made from. A part whose
fingerprint is the wanted one is current and is not made again. Folders that are written in one go come under a
temporary name, are synced, and are renamed, so that a kill leaves the old folder or the new one, never a half.
"""

import errno
import fcntl
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import xxhash
import yaml
from safetensors import SafetensorError

from shridhar_ft.errors import DiskFailed, UserError, first_line

RUNS = Path("runs")
PART = "part.json"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
REPORTED_PACKAGES = (
    *("shridhar_ft", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed"),
    *("bitsandbytes", "datasets", "evaluate", "tokenizers", "safetensors"),
)


# --------------------------------------------------------------------------------------------- small files


ANEW = "copy it again, or let the command that wrote it make it anew"


def read_json(path: Path, mend: str = ANEW) -> Any:  # noqa: ANN401 - whatever the file holds
    """What a JSON file holds.

    Raises:
        UserError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({first_line(error)}); {mend}") from error


def read_object(path: Path, *keys: str, mend: str = ANEW) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        keys: What it has to hold; `a.b` is b inside a.
        mend: What to do where it does not.

    Raises:
        UserError: It is damaged, holds something else, or lacks a key.
    """
    held = read_json(path, mend)
    if not isinstance(held, dict):
        raise UserError(f"{path}: it holds a {type(held).__name__} and no object with keys; {mend}")
    for key in keys:
        inside: Any = held
        for name in key.split("."):
            if not isinstance(inside, dict) or name not in inside:
                raise UserError(f"{path}: it holds no {key}; {mend}")
            inside = inside[name]
    return held


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a small file so that after a kill it is the old one or the new one, whole.

    Args:
        path: The file.
        text: What it holds.
        durable: Push it to the disk, so that this holds after a loss of power too; a busy disk can take seconds for it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any, durable: bool = True) -> None:  # noqa: ANN401 - whatever JSON holds
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", durable)


def as_json(value: Any) -> Any:  # noqa: ANN401
    """A value as it comes back from a JSON file, so that the two compare."""
    return json.loads(json.dumps(value, default=str))


def fingerprint(*parts: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Stable hash (xxh3, 128 bits, hex) of values that JSON can hold."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())


def file_hash(path: Path) -> str:
    """xxh3 (128 bits, hex) of a file's bytes, read in blocks of 4 MiB."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, failing or read-only disk into one sentence with status 74.

    safetensors and torch wrap the system's error into their own, so their texts are looked at too.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        failed = isinstance(error, OSError) and error.errno in DISK_ERRORS
        # The last three are torch.save's.
        signs = (
            "No space left",
            "StorageFull",
            "os error 28",
            "Read-only file system",
            "os error 30",
            "PytorchStreamWriter",
            "unexpected pos",
            "iostream error",
        )
        if failed or any(sign in str(error) for sign in signs):
            raise disk_failed(path, error) from error
        raise


def disk_failed(path: Path, error: Exception) -> DiskFailed:
    """What to tell of a disk that could not be written at this path."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    held = os.statvfs(there)
    if held.f_flag & os.ST_RDONLY:
        return DiskFailed(
            f"{path}: it lies on a read-only file system; mount that for writing, or work in another folder"
        )
    if held.f_files and not held.f_favail:
        return DiskFailed(
            f"{path}: the disk holds as many files as it can (no inodes are left; {first_line(error)}); remove some "
            "and run the same command again"
        )
    return DiskFailed(
        f"{path}: the disk failed while it was written ({first_line(error)}; "
        f"{shutil.disk_usage(there).free / 1e6:,.0f} MB free); make room and run the same command again"
    )


def sync_tree(folder: Path) -> None:
    """Push a folder and everything in it to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends well, and vanishes when it does not."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if not final.exists():  # killed between the two renames of replace_folder: the old one is whole
        for old in final.parent.glob(f".{final.name}.*.old"):
            old.rename(final)
            break
    for stale in final.parent.glob(f".{final.name}.*.tmp"):  # a killed run's leavings
        if not _being_written(stale):
            shutil.rmtree(stale, ignore_errors=True)
    created = [parent for parent in (final.parent, *final.parent.parents) if not parent.exists()]
    try:
        with disk_errors(final):
            temporary.mkdir(parents=True)
            yield temporary
            sync_tree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in created:  # leave no empty run folder behind
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    with disk_errors(final):
        replace_folder(temporary, final)


def _being_written(temporary: Path) -> bool:
    """Whether the process whose id such a folder bears is alive, and no later one that was given the same id."""
    try:
        process = psutil.Process(int(temporary.name.split(".")[-2]))
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= temporary.stat().st_mtime
    except (ValueError, FileNotFoundError, psutil.Error):
        return False


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a whole, synced folder in the place of `final`, which may exist."""
    if final.exists():
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        shutil.rmtree(old, ignore_errors=True)  # in a container, a killed run had the same process id
        final.rename(old)
    temporary.rename(final)
    sync(final.parent)
    for old in final.parent.glob(f".{final.name}.*.old"):  # a killed run's too
        shutil.rmtree(old)


def sync(path: Path) -> None:
    """Push one file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------- the folder


@dataclass(frozen=True)
class Run:
    """Paths of one run."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def stage(self, name: str) -> Path:
        return self.root / "stages" / name

    @property
    def sft(self) -> Path:
        return self.root / "sft"

    @property
    def export(self) -> Path:
        return self.root / "export"

    def status(self, status: int | None, part: str, message: str = "", resume: str = "") -> None:
        """Record where the run stands: `status` is the exit status, or None while a part works."""
        write_json(
            self.root / "status.json",
            {
                "status": status,
                "part": part,
                "message": message,
                "resume": resume,
                "pid": os.getpid(),
                "host": platform.node(),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )


def run_folder(name: str) -> Run:
    """The folder of the run of this name; it may not exist yet.

    Raises:
        UserError: The folder holds the run of another name (it was copied or moved there).
    """
    run = Run(RUNS / name)
    check_owner(run)
    return run


def settings_of(content: bytes, where: object) -> dict[str, Any]:
    """The mapping in a run's own recipe.yaml, as it was when it ran: it need not be valid today.

    Raises:
        UserError: It is damaged, or no mapping.
    """
    try:
        held = yaml.safe_load(content.decode()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where} cannot be read ({first_line(error)}); put the recipe back there") from error
    if not isinstance(held, dict):
        raise UserError(f"{where} holds no recipe but a {type(held).__name__}; put the recipe back there")
    return held


def parts_of(settings: dict[str, Any]) -> list[str]:
    """Names of the training parts of such a mapping, in order, as folders of the run."""
    stages = [f"stages/{stage['name']}" for stage in settings.get("stages") or []]
    return [*stages, *(["sft"] if settings.get("sft") else [])]


def check_owner(run: Run) -> None:
    """Refuse a run folder whose recipe bears another name than the folder."""
    recipe = run.root / "recipe.yaml"
    if recipe.is_file():
        owner = settings_of(recipe.read_bytes(), recipe).get("name")
        if owner != run.root.resolve().name:
            raise UserError(
                f"{run.root} holds the run '{owner}': a run folder belongs to one name; "
                f"rename it to {run.root.with_name(str(owner))}, or choose another `name` in the recipe"
            )


def record_recipe(run: Run, recipe_yaml: str, seed: int) -> None:
    """Write recipe.yaml and environment.json of a run whose first parts stand."""
    write_text(run.root / "recipe.yaml", recipe_yaml)
    write_json(run.root / "environment.json", {"seed": seed, **environment()})


@contextmanager
def only_one(run: Run, what: str = "run") -> Iterator[None]:
    """Hold a run for this process; the lock goes with the process, however it ends.

    Args:
        run: The run.
        what: `run` for the order of its parts, `training` for the process that trains: it can outlive the other.

    Raises:
        UserError: Another process is working on the same run.
    """
    busy = f"{run.root}: another process is working on this run; wait for it, or stop it"
    with locked(_lock_of(run, what), busy):
        yield


def is_held(run: Run) -> bool | None:
    """Whether a process of this machine works on a run; None where none does and none was killed at it here."""
    found = [_is_locked(_lock_of(run, what)) for what in ("run", "training")]
    return None if found == [None, None] else any(found)


def _lock_of(run: Run, what: str) -> Path:
    """Beside the run folder, which need not exist yet; by its true path, so that a link to it is the same run."""
    root = run.root.resolve()
    return root.with_name(f".{root.name}.{what}.lock")


def _is_locked(file: Path) -> bool | None:
    """Whether a process holds a lock file; None where there is none: it goes with its holder unless that was killed."""
    try:
        lock_file = file.open()
    except OSError:
        return None
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Hold a lock file for this process; it vanishes with the block, and the lock with the process, however that ends.

    Args:
        file: The lock file.
        busy: The sentence for whoever comes second.

    Raises:
        UserError: Another process holds it.
    """
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = file.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed the file between our two calls; then somebody could hold a new one.
                if file.exists() and os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    break
            except BlockingIOError as error:
                lock.close()
                raise UserError(busy) from error
            lock.close()
    with lock:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def is_current(folder: Path, wanted: str) -> bool:
    """Whether the part in this folder is finished and made from what `wanted` is the fingerprint of."""
    part = part_of(folder)
    return part is not None and part.get("fingerprint") == wanted


def part_of(folder: Path, *keys: str) -> dict[str, Any] | None:
    """part.json of a finished part, or None.

    Raises:
        UserError: It is damaged, or lacks one of these keys.
    """
    if not (folder / PART).is_file():
        return None
    return read_object(
        folder / PART, *keys, mend=f"put it back, or remove {folder}, and `shridhar-ft run` makes it anew"
    )


def finish_part(folder: Path, made_from: str, seconds: float, **facts: Any) -> None:  # noqa: ANN401
    """Write part.json, the last file of a part: its fingerprint, cost, and the facts a reader wants first."""
    write_json(
        folder / PART,
        {
            "fingerprint": made_from,
            "seconds": round(seconds, 1),
            "peak_rss_bytes": peak_rss_bytes(),
            "version": _version("shridhar_ft"),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        },
    )


def begin_peak_rss() -> None:
    """Forget the peak so far, so that each part reports its own; where the system cannot, peaks are the process's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """Peak resident memory of this process since `begin_peak_rss`, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for environment.json."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": packages(),
        "commit": commit.stdout.strip() or None,
    }


def packages() -> dict[str, str]:
    """Versions of the libraries that numbers hang on, those that are installed."""
    return {name: found for name in REPORTED_PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
