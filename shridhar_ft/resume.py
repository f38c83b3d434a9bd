"""Which checkpoint a part goes on from: the newest whole one, and only where its settings are the part's.

A setting that changed since is shown, old and new, and has to be allowed by name on the command line (allowed.py).
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from shridhar_ft.allowed import GO_ON, RESTART, WEIGHTS_ONLY
from shridhar_ft.checkpoint import (
    COMPARED,
    MANIFEST,
    UNFINISHED,
    checkpoints,
    damage,
    has_whole_manifest,
    lacking,
    read_manifest,
)
from shridhar_ft.errors import UserError
from shridhar_ft.pickles import foreign_pickle
from shridhar_ft.plan.layout import layout_here
from shridhar_ft.runfolder import file_hash, fingerprint, packages, part_of
from shridhar_ft.shipped import PACKAGE

if TYPE_CHECKING:
    from accelerate import PartialState

BEFORE = "before"  # the part before: made anew, it leaves other weights, and nothing here fits them


@dataclass(frozen=True)
class Facts:
    """What a manifest holds beside its files."""

    settings: dict[str, Any]
    """Everything that the weights hang on, by name: settings, hashes of data, tokenizer and base."""
    recipe: str
    """Hash of the whole recipe."""
    world_size: int
    engine: str
    """What shards the optimizer, or `none`."""
    code: str
    """Hash of this package's source."""
    versions: dict[str, str]
    """Libraries."""

    @classmethod
    def now(cls, settings: dict[str, Any], recipe: dict[str, Any], world_size: int) -> "Facts":
        """Those of a training that would begin now, in this process."""
        source = {str(path.relative_to(PACKAGE)): file_hash(path) for path in PACKAGE.rglob("*.py")}
        engine = layout_here().shards_name or "none"
        return cls(settings, fingerprint(recipe), world_size, engine, fingerprint(source), packages())

    def as_dict(self) -> dict[str, Any]:
        return {"fingerprint": fingerprint(self.settings), **asdict(self)}


@dataclass(frozen=True)
class Resume:
    """A verified checkpoint to go on from."""

    checkpoint: Path
    changed: tuple[str, ...] = ()
    """Settings that differ from the checkpoint's, allowed by name."""
    lacking: tuple[str, ...] = ()
    """Files of its state that it goes on without."""


def choose(folder: Path, facts: Facts, allowed: frozenset[str], tell: Callable[[str], None]) -> Resume | None:
    """The newest whole checkpoint of a part, or None where there is none; unfinished and damaged ones leave the way.

    Args:
        folder: The part's `checkpoints/`.
        facts: The part's, as it would train now.
        allowed: From `parse_allowed`.
        tell: Told about everything that is set aside, removed, or goes on changed.

    Raises:
        UserError: Its settings differ, or its optimizer's state is missing, and that is not allowed by name.
    """
    found = _newest(folder, allowed, tell)
    if found is None:
        return None
    manifest = read_manifest(found.checkpoint)
    differing = _differences(manifest, facts)
    _tell_surroundings(found.checkpoint, manifest, facts, tell)
    if not differing:
        return found
    shown = ", ".join(f"{name}: {_shown(old)} → {_shown(new)}" for name, (old, new) in differing.items())
    if BEFORE in differing or RESTART in allowed:
        shutil.rmtree(folder)
        why = "the part before was made anew" if BEFORE in differing else f"--allow {RESTART}"
        tell(f"the checkpoints are removed and this part begins anew ({why}; {shown})")
        return None
    fixed = [name for name in differing if name not in _can_go_on(manifest)]
    mend = "take the change back"
    if not fixed and allowed >= set(differing):
        tell(f"{found.checkpoint.name} goes on with changed settings, as allowed: {shown}")
        return Resume(found.checkpoint, tuple(differing), found.lacking)
    if not fixed:
        mend += f", or add --allow {','.join(differing)} to go on from it with the new values"
    why = f" ({', '.join(fixed)} cannot change in the middle of a part)" if fixed else ""
    raise UserError(
        f"{found.checkpoint} was made with other settings ({shown}); {mend}, or add --allow {RESTART} to remove the "
        f"checkpoints and begin this part anew{why}"
    )


def choose_together(
    part: str,
    folder: Path,
    facts: Facts,
    allowed: frozenset[str],
    state: "PartialState",
    tell: Callable[[str], None],
) -> Resume | None:
    """What `choose` finds for a part, verified by the first rank and the same on all.

    Args:
        part: Its name, for what is told.
        folder: Its folder.
        facts: See `choose`.
        allowed: See `choose`.
        state: Processes.
        tell: See `choose`.

    Raises:
        UserError: See `choose`.
    """
    chosen: list[Any] = [None]
    held = folder / "checkpoints"
    if state.is_main_process:
        if part_of(folder) and held.is_dir():
            # What is protected is unfinished work; a finished part is made again where its settings changed.
            shutil.rmtree(held)
            tell(f"{part}: its settings or its data changed since it was finished; it is made again")
        try:
            chosen = [choose(held, facts, allowed, lambda said: tell(f"{part}: {said}"))]
        except UserError as error:
            chosen = [error]
    broadcast_object_list(chosen)
    if isinstance(chosen[0], UserError):
        raise chosen[0]
    return chosen[0]


def _newest(folder: Path, allowed: frozenset[str], tell: Callable[[str], None]) -> Resume | None:
    """The newest whole checkpoint; those above it are set aside once it is found."""
    without_state: list[tuple[Path, tuple[str, ...]]] = []
    for checkpoint in checkpoints(folder):
        if not (checkpoint / MANIFEST).is_file():
            # A save that was killed, or a whole one that lost its manifest: which, cannot be told from here.
            _set_aside(checkpoint, f"it was never finished (no {MANIFEST})", tell, UNFINISHED)
        elif unknown := _unknown(checkpoint):
            _set_aside(checkpoint, unknown, tell)
        elif gone := lacking(checkpoint):
            if WEIGHTS_ONLY in allowed and not foreign_pickle(checkpoint):
                tell(f"{checkpoint.name} goes on without {', '.join(gone)}, as allowed: its numbers will differ")
                return Resume(checkpoint, lacking=gone)
            without_state.append((checkpoint, gone))
        elif problem := damage(checkpoint) or foreign_pickle(checkpoint):
            _set_aside(checkpoint, problem, tell)
        else:
            for newer, gone in without_state:
                _set_aside(newer, f"{', '.join(gone)} is missing", tell)
            return Resume(checkpoint)
    if without_state:
        checkpoint, gone = without_state[0]
        raise UserError(
            f"{checkpoint} lacks {', '.join(gone)}, and no older checkpoint is whole; put it back, or add --allow "
            f"{WEIGHTS_ONLY} to go on with its weights alone, or remove {folder} to begin this part anew"
        )
    return None


def _unknown(checkpoint: Path) -> str | None:
    """What a resume needs of a manifest and does not find in it; None for one that is not even whole (damage)."""
    if not has_whole_manifest(checkpoint):
        return None
    manifest = read_manifest(checkpoint)
    gone = [name for name in COMPARED if name not in manifest]
    return f"its {MANIFEST} says nothing of {', '.join(gone)}" if gone else None


def _set_aside(checkpoint: Path, problem: str, tell: Callable[[str], None], named: str = ".damaged") -> None:
    aside = checkpoint.with_name(checkpoint.name + named)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    tell(f"{checkpoint.name} is set aside as {aside.name}: {problem}")


def _differences(manifest: dict[str, Any], facts: Facts) -> dict[str, tuple[Any, Any]]:
    """Name → (the checkpoint's value, today's) of everything that differs."""
    old = {**manifest["settings"], "world_size": manifest["world_size"], "engine": manifest["engine"]}
    new = {**facts.settings, "world_size": facts.world_size, "engine": facts.engine}
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _can_go_on(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Settings that may change; shards of an optimizer fit the number of processes that wrote them only."""
    return GO_ON if manifest["engine"] == "none" else tuple(name for name in GO_ON if name != "world_size")


def _tell_surroundings(checkpoint: Path, manifest: dict[str, Any], facts: Facts, tell: Callable[[str], None]) -> None:
    """Say what else is not as it was: other code or libraries may compute other numbers."""
    if manifest["code"] != facts.code:
        tell(f"{checkpoint.name} was written by another state of this package's code; its numbers may differ")
    old, new = manifest["versions"], facts.versions
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed := [f"{name} {old.get(name)} → {new.get(name)}" for name in differing]:
        tell(f"{checkpoint.name} was written with other libraries ({', '.join(changed)}); its numbers may differ")


def _shown(value: Any) -> str:  # noqa: ANN401 - any setting
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
