"""Checkpoints: the manifest that makes one whole, its verification, and rotation (resume.py says which one is taken).

transformers' Trainer writes a checkpoint file by file and takes the newest folder on resume, whole or not. Here a
checkpoint counts only when its MANIFEST.json stands, written last, every file still has the size and hash that it
names, and no file has joined them since: what is opened later, some of it by loaders that run what they read, is what
was written here. The manifest holds a hash of itself, so that nothing in it is believed before it is known to be whole.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import as_json, file_hash, fingerprint, read_json, sync, write_json

MANIFEST = "MANIFEST.json"
SEAL = "seal"  # the manifest's key for the hash of all else in it
COMPARED = ("fingerprint", "settings", "recipe", "world_size", "engine", "code", "versions")
"""What a resume needs of a manifest beside its files (resume.Facts)."""
_BEFORE_SEALS = ({*COMPARED, "files"}, {"of", "files"})  # keys of a checkpoint's and of a backup's weights'
UNFINISHED = ".unfinished"  # what a checkpoint without a manifest is renamed by
_NAME = re.compile(r"checkpoint-(\d+)$")
# What a training can go on without, at the price of exactness. DeepSpeed's shards are not among them: its loader asks
# for all of them.
_STATE = re.compile(r"(optimizer[^/]*|scheduler|rng_state[^/]*)\.(pt|pth|bin)$")


def write_manifest(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Make a checkpoint whole: size and hash of each of its files, written after all of them, synced.

    Args:
        checkpoint: Folder `checkpoint-N`, all of whose files are written and on the disk.
        facts: What a resume compares, see resume.Facts.
    """
    entries = {name: {"bytes": p.stat().st_size, "xxh3": file_hash(p)} for name, p in _files(checkpoint).items()}
    write_json(checkpoint / MANIFEST, sealed({**facts, "files": entries}))
    for folder in (checkpoint, checkpoint.parent):  # the names too
        sync(folder)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the hash of all else in it."""
    return {**content, SEAL: fingerprint(as_json(content))}


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's manifest, known to be what was written.

    One from before manifests had a seal is taken where it has exactly the keys of that time: a seal whose name was
    garbled is one key too many.

    Raises:
        ValueError: It is not; says what is wrong, in a few words.
    """
    try:
        manifest = read_json(checkpoint / MANIFEST)
        if SEAL in manifest:
            held = {key: value for key, value in manifest.items() if key != SEAL}
            whole = fingerprint(held) == manifest[SEAL]
        else:
            whole = manifest.keys() in _BEFORE_SEALS and (
                "of" in manifest or fingerprint(manifest["settings"]) == manifest["fingerprint"]
            )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read") from error
    if not whole:
        raise ValueError(f"its {MANIFEST} is not what was written (another hash)")
    return dict(manifest)


def has_whole_manifest(checkpoint: Path) -> bool:
    """Whether a manifest stands, and is what was written; its files are not looked at."""
    try:
        read_manifest(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when it is whole."""
    return next((sentence for _, sentence in _problems(checkpoint)), None)


def lacking(checkpoint: Path) -> tuple[str, ...]:
    """Names of the optimizer, scheduler and RNG files that are missing where nothing else is wrong; () otherwise."""
    problems = list(_problems(checkpoint))
    missing = [name for name, sentence in problems if sentence.endswith(" is missing") and _STATE.search(name)]
    return tuple(missing) if len(missing) == len(problems) else ()


def _files(checkpoint: Path) -> dict[str, Path]:
    """Every file of a checkpoint but its manifest, by its path inside it."""
    found = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != MANIFEST}


def _problems(checkpoint: Path) -> Iterator[tuple[str, str]]:
    """File and sentence for each thing that is wrong, the cheap ones to find first."""
    if not (checkpoint / MANIFEST).is_file():
        yield MANIFEST, f"it was never finished (no {MANIFEST})"
        return
    try:
        files = read_manifest(checkpoint)["files"]
        wanted = {name: (int(entry["bytes"]), str(entry["xxh3"])) for name, entry in files.items()}
    except (KeyError, TypeError, AttributeError):
        yield MANIFEST, f"its {MANIFEST} cannot be read"
        return
    except ValueError as error:
        yield MANIFEST, str(error)
        return
    found = _files(checkpoint)
    for name in found.keys() - wanted.keys():
        yield name, f"{name} is not one of the files that were written"
    for name, (size, digest) in wanted.items():
        if name not in found:
            yield name, f"{name} is missing"
        elif (held := found[name].stat().st_size) != size:
            yield name, f"{name} has {held} bytes instead of {size}"
        elif file_hash(found[name]) != digest:
            yield name, f"{name} is not what was written (another hash)"


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


def rotate(folder: Path, keep: int, best: str | None, verified: set[str]) -> None:
    """Remove what is older than the newest `keep` whole checkpoints, the best one left out.

    Args:
        folder: The part's `checkpoints/`.
        keep: Whole ones that stay.
        best: Path or name of the checkpoint of the lowest validation loss.
        verified: Names of those whose files this process has hashed; more are added. Each is read once a process, so
            that a rotation costs nothing beside the save.
    """
    counted = 0
    for checkpoint in checkpoints(folder):
        if counted >= keep:
            if best is None or checkpoint.name != Path(best).name:
                shutil.rmtree(checkpoint)
        elif (checkpoint.name in verified and (checkpoint / MANIFEST).is_file()) or damage(checkpoint) is None:
            verified.add(checkpoint.name)
            counted += 1
            remove_unfinished(folder, step_of(checkpoint))


def remove_unfinished(folder: Path, until: int) -> list[str]:
    """Remove what was set aside without a manifest, and return the names.

    Args:
        folder: The part's `checkpoints/`.
        until: Step that a whole checkpoint stands at; one that came further stays.
    """
    gone = []
    for aside in folder.glob(f"checkpoint-*{UNFINISHED}"):
        if step_of(aside.with_suffix("")) <= until:
            shutil.rmtree(aside)
            gone.append(aside.name)
    return gone
