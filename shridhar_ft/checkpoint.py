"""Checkpoints: the manifest that makes one whole, its verification, rotation, and which one to resume from.

transformers' Trainer writes a checkpoint file by file and takes the newest folder on resume, whole or not. Here a
checkpoint counts only when its MANIFEST.json stands, written last, and every file still has the size and hash that
it names. A damaged one is set aside by name and the one before it is taken.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import file_hash, read_json, write_json

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


def write_manifest(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Make a checkpoint whole: size and hash of each of its files, written after all of them.

    Args:
        checkpoint: Folder `checkpoint-N`, all of whose files are written.
        facts: What a resume compares, e.g. the fingerprint of the part and the world size.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {str(p.relative_to(checkpoint)): {"bytes": p.stat().st_size, "xxh3": file_hash(p)} for p in files}
    write_json(checkpoint / MANIFEST, {**facts, "files": entries})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when it is whole."""
    if not (checkpoint / MANIFEST).is_file():
        return "it was never finished (no MANIFEST.json)"
    try:
        files = read_json(checkpoint / MANIFEST)["files"]
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for name, entry in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        if file_hash(file) != entry["xxh3"]:
            return f"{name} is not what was written (another hash)"
    return None


def whole(checkpoint: Path, wanted_by: str) -> Path:
    """This checkpoint, after it was verified.

    Raises:
        UserError: It is gone or damaged, and the setting `wanted_by` cannot do without.
    """
    if problem := damage(checkpoint):
        raise UserError(
            f"{wanted_by}: {checkpoint} is needed and {problem}; set {wanted_by} to false, or remove "
            f"{checkpoint.parent.parent} to train that stage again"
        )
    return checkpoint


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest step first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.match(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Optimizer step at which a checkpoint was taken."""
    match = _NAME.match(checkpoint.name)
    assert match, f"{checkpoint} is no checkpoint folder"
    return int(match.group(1))


def newest_whole(folder: Path, made_from: str, world_size: int, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of this part; damaged ones are set aside, unfinished and foreign ones removed.

    Args:
        folder: The part's `checkpoints/`.
        made_from: Fingerprint of the part; a checkpoint of other settings or data is of no use to it.
        world_size: Processes that train now.
        say: Told about everything that is set aside or removed.

    Raises:
        UserError: The checkpoint was left by another number of processes: steps and windows would not fit.
    """
    for checkpoint in checkpoints(folder):
        if not (checkpoint / MANIFEST).is_file():
            shutil.rmtree(checkpoint)  # kept, it would only fill the disk that may have stopped it
            say(f"{checkpoint.name} was never finished (no MANIFEST.json); it is removed")
        elif problem := damage(checkpoint):
            aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            say(f"{checkpoint.name} is set aside as {aside.name}: {problem}")
        elif read_json(checkpoint / MANIFEST).get("fingerprint") != made_from:
            shutil.rmtree(checkpoint)
            say(f"{checkpoint.name} was made from other settings or data; it is removed and this part begins anew")
        elif (before := read_json(checkpoint / MANIFEST).get("world_size")) != world_size:
            raise UserError(
                f"{checkpoint} was left by {before} processes and {world_size} go on; use a launch.config with "
                f"{before}, or remove the checkpoints to begin this part anew"
            )
        else:
            return checkpoint
    return None


def rotate(folder: Path, keep: int, best: str | None) -> None:
    """Remove all but the newest `keep` whole checkpoints and the best one."""
    whole = [path for path in checkpoints(folder) if (path / MANIFEST).is_file()]
    for checkpoint in whole[keep:]:
        if best is None or checkpoint.name != Path(best).name:
            shutil.rmtree(checkpoint)
