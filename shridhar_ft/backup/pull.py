"""`shridhar-ft pull`: brings a run back from its backup, every file verified, nothing half-written at the target."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from shridhar_ft.backup.contents import ARCHIVE, IDENTITY, OWNER, WEIGHTS, best_of, unpack
from shridhar_ft.backup.store import Store, check_place
from shridhar_ft.checkpoint import MANIFEST, damage, step_of
from shridhar_ft.errors import Resumable, UserError, first_line
from shridhar_ft.runfolder import PART, RUNS, parts_of, publishing, read_json, settings_of, write_json

TRIES = 4

Say = Callable[[str], None]


def find_run(place: str, name: str | None) -> Store:
    """The backup of a run: the place itself, or the one of this name, or the only one, below it.

    Raises:
        UserError: There is none, or there are several and no name.
    """
    check_place(place, "the backup")
    store = Store(place)
    if name is None and tried(lambda: store.read(OWNER)) is not None:
        return store
    below = [name] if name else tried(store.children)
    names = [found for found in below if tried(partial(store.read, f"{found}/{OWNER}")) is not None]
    if len(names) > 1:
        raise UserError(f"{place} holds the runs {', '.join(names)}; name one of them")
    if not names:
        raise UserError(
            f"{place} holds no backup{f' of {name}' if name else ''}; mend the place, e.g. s3://bucket/backups"
        )
    return store.below(names[0])


def pull(place: str, name: str | None, into: Path, say: Say) -> dict[str, Any]:
    """Bring a run back.

    Args:
        place: The backup's place, with or without the run's name.
        name: The run's.
        into: Folder that gets the run folder.
        say: Told each thing that arrives or is damaged.

    Returns:
        The run folder, the finished parts, the checkpoint that the next run goes on from, and the command for it.

    Raises:
        UserError: There is no such backup, the run folder exists already, or the small files are damaged.
    """
    store = find_run(place, name)
    name = store.place.rsplit("/", 1)[-1]
    target = into / name
    if target.exists():
        raise UserError(f"{target} exists, and a pull never writes over a run; go on with it, or move it away first")
    archive = tried(lambda: store.read(ARCHIVE))
    if archive is None:
        raise UserError(f"{store.place} holds no {ARCHIVE}: no copy was ever finished")
    files = unpack(archive, store.place)
    own = _owner(store)
    recipe = settings_of(files.get("recipe.yaml", b""), f"{store.place}/{ARCHIVE}: recipe.yaml")
    finished, checkpoint = [], None
    with publishing(target) as folder:
        parts = parts_of(recipe)
        for place_in_order, part in enumerate(parts):
            kind = _weights(store, part, files, folder, say)
            if kind is None and f"{part}/{PART}" in files:
                say(f"pull: {part} was finished, and its weights are not there whole; it goes on from its checkpoint")
                del files[f"{part}/{PART}"]
            if kind is not None:
                finished.append(part)
            if kind is None or _is_read_later(recipe, part):
                found = _checkpoint(store, part, folder, say)
                if kind is None and found is not None:
                    checkpoint = f"{part}/checkpoints/{found}"
            if kind is None:  # what stands behind it hangs on it, and must not count as finished without weights
                for later in parts[place_in_order + 1 :]:
                    files.pop(f"{later}/{PART}", None)
                break
        _stopped(files, target)
        for inside, content in files.items():
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            (folder / inside).write_bytes(content)
        write_json(folder / IDENTITY, {"id": own, "place": store.place})
    return {
        "run": str(target),
        "finished": finished,
        "checkpoint": checkpoint,
        "files": len(files),
        "resume": _resume_command(target),
    }


def _stopped(files: dict[str, bytes], target: Path) -> None:
    """Let the status of what was copied while it ran say what is true here: nothing runs, and it can go on."""
    try:
        status = json.loads(files.get("status.json", b"{}"))
    except ValueError:  # a damaged one is told by `status`
        return
    if status and status.get("status") is None:
        status |= {"status": Resumable.status, "message": "brought here from the backup of a run that had not ended"}
        status["resume"] = _resume_command(target)
        files["status.json"] = json.dumps(status, ensure_ascii=False, indent=1).encode()


def _owner(store: Store) -> str | None:
    """Which run's backup it is.

    Raises:
        UserError: The file that says so is damaged.
    """
    try:
        return json.loads(tried(lambda: store.read(OWNER)) or b"{}").get("id")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{store.place}/{OWNER} is damaged ({first_line(error)}); put {{}} into it to pull") from error


def _resume_command(target: Path) -> str:
    """What goes on with the run: `run` knows it by its name, below a folder `runs`."""
    command = shlex.join(["shridhar-ft", "run", str(RUNS / target.name / "recipe.yaml")])
    if target.parent == RUNS:
        return command
    if target.parent.name == RUNS.name:
        return f"cd {shlex.quote(str(target.parent.parent))} && {command}"
    return f"mkdir -p {RUNS} && {shlex.join(['mv', str(target), str(RUNS / target.name)])} && {command}"


def _is_read_later(recipe: dict[str, Any], part: str) -> bool:
    """Whether the stage behind this one takes over more than its weights."""
    stages = recipe.get("stages") or []
    names = [f"stages/{stage['name']}" for stage in stages]
    if part not in names[:-1]:
        return False
    carry = stages[names.index(part) + 1].get("carry") or {}
    return bool(carry.get("optimizer") or carry.get("data"))


def _weights(store: Store, part: str, files: dict[str, bytes], folder: Path, say: Say) -> str | None:
    """Bring the weights of a finished part; their kind, or None where it is not finished or they are not whole."""
    if f"{part}/{PART}" not in files:
        return None
    told = json.loads(files[f"{part}/{PART}"])
    for kind in WEIGHTS:
        manifest = _manifest(store, f"{part}/{kind}")
        if manifest is None or manifest.get("of") != {key: told[key] for key in ("fingerprint", "hash")}:
            continue
        if problem := _bring(store, f"{part}/{kind}", manifest, folder, say):
            say(f"pull: {part}/{kind} is damaged ({problem})")
            shutil.rmtree(folder / part / kind, ignore_errors=True)
            continue
        (folder / part / kind / MANIFEST).unlink()  # such a folder has none of its own
        return kind
    return None


def _checkpoint(store: Store, part: str, folder: Path, say: Say) -> str | None:
    """Bring the newest whole checkpoint of a part, and the best one that it names; its name."""
    for name in _newest_first(store, part):
        place = f"{part}/checkpoints/{name}"
        manifest = _manifest(store, place)
        if manifest is None:
            say(f"pull: {place} was never copied to its end (no {MANIFEST}); it is left out")
            continue
        if problem := _bring(store, place, manifest, folder, say):
            aside = folder / part / "checkpoints" / f"{name}.damaged"
            (folder / place).rename(aside)
            say(f"pull: {place} is damaged ({problem}); it is set aside as {aside.name}, and an older one is taken")
            continue
        best = best_of(read_json(folder / place / "trainer_state.json"))
        if best is not None and best != name:
            _best(store, f"{part}/checkpoints/{best}", folder, say)
        return name
    return None


def _best(store: Store, place: str, folder: Path, say: Say) -> None:
    """Bring the checkpoint of the lowest validation loss; without it the training keeps its last weights."""
    manifest = _manifest(store, place)
    problem = "it is not there" if manifest is None else _bring(store, place, manifest, folder, say)
    if problem:
        shutil.rmtree(folder / place, ignore_errors=True)
        say(f"pull: {place}, the best so far, cannot be brought ({problem}); keep: best knows later ones only")


def _newest_first(store: Store, part: str) -> Iterator[str]:
    names = [name for name in store.children(f"{part}/checkpoints") if name.removeprefix("checkpoint-").isdecimal()]
    yield from sorted(names, key=lambda name: step_of(Path(name)), reverse=True)


def _manifest(store: Store, place: str) -> dict[str, Any] | None:
    """The manifest there; one that is no JSON counts as none."""
    held = tried(lambda: store.read(f"{place}/{MANIFEST}"))
    try:
        return None if held is None else json.loads(held)
    except ValueError:
        return None


def _bring(store: Store, place: str, manifest: dict[str, Any], folder: Path, say: Say) -> str | None:
    """Copy the files that a manifest names, and verify them; what is wrong, or None."""
    began, target = time.monotonic(), folder / place
    target.mkdir(parents=True)
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"its manifest names {name}, which lies outside of it"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            tried(partial(store.get, f"{place}/{name}", target / name))
        except FileNotFoundError:
            return f"{name} is missing"
    write_json(target / MANIFEST, manifest)
    if problem := damage(target):
        return problem
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    say(f"pull: {place}: {total / 1e6:,.1f} MB in {time.monotonic() - began:.0f} s, verified")
    return None


def tried(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the work returns
    """Do it, again where the place does not answer; what is not there is not asked for again.

    Raises:
        UserError: It never answered.
    """
    for number in range(TRIES):
        try:
            return work()
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a bucket's library raises
            if number == TRIES - 1:
                raise UserError(
                    f"the backup's place does not answer ({type(error).__name__}: {first_line(error)[:200]}); mend the "
                    "place or the credentials in the environment, and ask again"
                ) from error
            time.sleep(2.0**number / 2)
    raise AssertionError("the loop returns or raises")
