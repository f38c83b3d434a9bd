"""What of a run is copied, and what never is: checkpoints, finished weights, and small files that hold no text.

    <place>/<run>/owner.json                      which run this is, and which process copies it
                  run.zip                         recipe, statuses, receipts, metrics: one file, replaced whole
                  <part>/checkpoints/checkpoint-N the files, MANIFEST.json last
                  <part>/model | adapter          the weights of a finished part, MANIFEST.json last

People's texts stay where they are: data, windows (tokens of texts), the batch of a non-finite loss, and the mask
receipt, which prints a conversation. Weights and a tokenizer's vocabulary are made of the texts and do travel. An
address of `train.notify` stays too where a token may be written out in it.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import xxhash
import yaml

from shridhar_ft.addresses import command_without, held_back, without
from shridhar_ft.checkpoint import MANIFEST, checkpoints, has_whole_manifest
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import PART, read_json, settings_of

OWNER = "owner.json"
ARCHIVE = "run.zip"
IDENTITY = "backup.json"  # in the run folder: which run in the backup it is
WEIGHTS = ("model", "adapter")
SMALL = (
    *("recipe.yaml", "environment.json", "status.json", "live.json", "spending.json", IDENTITY),
    *("data/receipts/*.json", "export/certificate.json"),
)
SMALL_OF_PART = (PART, "metrics.jsonl", "spent.json", "means.json", "before.json", "receipts/*.json")
PRIVATE = ("receipts/mask.json",)  # a conversation in print
LARGEST = 64 << 20  # bytes of a small file


def parts(root: Path) -> list[str]:
    """Names of the training parts that a run folder holds."""
    stages = sorted((path for path in root.glob("stages/*") if path.is_dir()), key=lambda path: path.name)
    return [path.relative_to(root).as_posix() for path in (*stages, root / "sft") if path.is_dir()]


def small_files(root: Path) -> dict[str, bytes]:
    """The small files of a run by their names in it."""
    patterns = [*SMALL, *(f"{part}/{pattern}" for part in parts(root) for pattern in SMALL_OF_PART)]
    found: dict[str, bytes] = {}
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        name = path.relative_to(root).as_posix()
        if not name.endswith(PRIVATE) and path.stat().st_size <= LARGEST:
            found[name] = path.read_bytes()
    return found


def as_they_leave(files: dict[str, bytes]) -> tuple[dict[str, bytes], bool]:
    """The small files without an address that may hold a token, and whether there was one."""
    recipe = "recipe.yaml"
    try:
        settings = settings_of(files.get(recipe, b""), recipe)
        status = json.loads(files.get("status.json", b"{}"))
    except ValueError:  # damaged: copied as it is
        return files, False
    to = held_back(settings)
    if to is None:
        return files, False
    changed = {recipe: yaml.safe_dump(without(settings), allow_unicode=True, sort_keys=False).encode()}
    if status:
        status["resume"] = command_without(status.get("resume", ""), to)
        changed["status.json"] = (json.dumps(status, ensure_ascii=False, indent=1) + "\n").encode()
    return files | changed, True


def pack(files: dict[str, bytes]) -> bytes:
    """These files as one archive, with their hashes in its manifest."""
    entries = {name: {"bytes": len(held), "xxh3": _hash(held)} for name, held in files.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, held in {**files, MANIFEST: json.dumps({"files": entries}, indent=1).encode()}.items():
            archive.writestr(name, held)
    return buffer.getvalue()


def unpack(content: bytes, place: str) -> dict[str, bytes]:
    """The files of such an archive, verified.

    Raises:
        UserError: It is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = json.loads(archive.read(MANIFEST))["files"]
            files = {name: archive.read(name) for name in entries if _inside(name)}
        if files.keys() != entries.keys() or any(_hash(held) != entries[name]["xxh3"] for name, held in files.items()):
            raise ValueError("a file is not what was written")
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{place}/{ARCHIVE} is damaged ({error}); take another copy of the run") from error
    return files


def _inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def wanted_checkpoints(folder: Path) -> list[Path]:
    """A part's newest whole checkpoint, and the best one that a resume from it asks for; the others are not begun.

    Args:
        folder: The part's `checkpoints/`.
    """
    whole = [path for path in checkpoints(folder) if has_whole_manifest(path)]
    if not whole:
        return []
    best = best_of(read_json(whole[0] / "trainer_state.json"))
    return [whole[0], *(path for path in whole[1:] if path.name == best)]


def best_of(trainer_state: dict[str, Any]) -> str | None:
    """Name of the checkpoint of the lowest validation loss, from trainer_state.json."""
    best = trainer_state.get("best_model_checkpoint")
    return Path(best).name if best else None


def weights_of(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder of a finished part's weights, and what tells them from others; None where it is not finished."""
    kind = next((folder / kind for kind in WEIGHTS if (folder / kind).is_dir()), None)
    if kind is None or not (folder / PART).is_file():
        return None
    part = read_json(folder / PART)
    return kind, {key: part[key] for key in ("fingerprint", "hash")}
