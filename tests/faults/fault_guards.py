"""What takes a guard out, so that a case shows that it fails without it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import shridhar_ft.adapter_base
import shridhar_ft.adapters
import shridhar_ft.callbacks
import shridhar_ft.checkpoint
import shridhar_ft.data.sources.archives
import shridhar_ft.data.sources.json_rows
import shridhar_ft.data.sources.mysql.window
import shridhar_ft.data.sources.shapes
import shridhar_ft.guarded
import shridhar_ft.preparation
import shridhar_ft.resume
import shridhar_ft.stages
import shridhar_ft.starting
import shridhar_ft.training
import shridhar_ft.votes
import shridhar_ft.watchdog
from shridhar_ft.resume import Resume


def _newest_as_it_is() -> None:
    """As transformers does it: the newest folder, whole or not."""

    def newest(folder: Any, allowed: Any, tell: Any) -> Resume | None:
        found = shridhar_ft.checkpoint.checkpoints(folder)
        return Resume(found[0]) if found else None

    shridhar_ft.resume._newest = newest  # type: ignore[assignment]
    read = shridhar_ft.resume.read_json

    def manifest(path: Any) -> Any:
        return read(path) if path.is_file() else None

    shridhar_ft.resume.read_json = manifest  # type: ignore[assignment]
    differences = shridhar_ft.resume._differences
    shridhar_ft.resume._differences = lambda held, facts: differences(held, facts) if held else {}  # type: ignore[assignment]
    shridhar_ft.resume._tell_surroundings = lambda *_: None  # type: ignore[assignment]


def _no_sentence_for_the_disk() -> None:
    for module in (shridhar_ft.guarded, shridhar_ft.training):
        module.disk_errors = lambda path: nullcontext()  # type: ignore[attr-defined]


def _no_room_asked() -> None:
    shridhar_ft.training.check_room = lambda *_, **__: None  # type: ignore[attr-defined]
    shridhar_ft.guarded.need_room = lambda *_, **__: None  # type: ignore[attr-defined]


def _state_may_be_missing() -> None:
    shridhar_ft.resume.lacking = lambda checkpoint: ()  # type: ignore[assignment]
    shridhar_ft.resume.damage = lambda checkpoint: None  # type: ignore[assignment]


def _signals_as_python_has_them() -> None:
    shridhar_ft.callbacks.StopVote.on_train_begin = lambda *_, **__: None  # type: ignore[method-assign]


def _each_rank_for_itself() -> None:
    shridhar_ft.callbacks.highest = lambda level, device, processes: level  # type: ignore[assignment]


def _numbers_as_they_come() -> None:
    shridhar_ft.guarded.GuardedTrainer._vote_on_update = lambda self: None  # type: ignore[method-assign]
    shridhar_ft.guarded.GuardedTrainer._refuse_non_finite_weights = lambda self, model: None  # type: ignore[method-assign]


def _memory_as_it_comes() -> None:
    shridhar_ft.training.memory_errors = lambda *_: nullcontext()  # type: ignore[attr-defined]


def _settings_as_they_are_now() -> None:
    shridhar_ft.resume._differences = lambda manifest, facts: {}  # type: ignore[assignment]


def _data_from_the_start() -> None:
    whole = shridhar_ft.training.arguments

    def from_the_start(*args: Any, **kwargs: Any) -> Any:
        settings = whole(*args, **kwargs)
        settings.ignore_data_skip = True
        return settings

    shridhar_ft.training.arguments = from_the_start  # type: ignore[attr-defined]


def _nobody_watches() -> None:
    shridhar_ft.watchdog.Watchdog.on_train_begin = lambda *_, **__: None  # type: ignore[method-assign]


def _pickles_as_they_are() -> None:
    shridhar_ft.resume.foreign_pickle = lambda checkpoint: None  # type: ignore[assignment]


def _rope_unchecked() -> None:
    for module in (shridhar_ft.starting, shridhar_ft.training):
        module.check_rope = lambda *_, **__: ({"rope": "unchecked"}, {"rope": "unchecked"}, True)  # type: ignore[attr-defined]


def _rows_of_any_kind() -> None:
    shridhar_ft.data.sources.shapes.takes_lists = lambda *_: True  # type: ignore[assignment]
    shridhar_ft.data.sources.json_rows.UserError = KeyError  # type: ignore[attr-defined]


def _ids_of_any_size() -> None:
    shridhar_ft.preparation.check_ids = lambda *_: None  # type: ignore[assignment]


def _mask_unseen() -> None:
    shridhar_ft.stages._mask_receipt = lambda *_: None  # type: ignore[assignment]


GUARDS: dict[str, Callable[[], None]] = {
    "manifest": _newest_as_it_is,
    "disk errors": _no_sentence_for_the_disk,
    "room": _no_room_asked,
    "state": _state_may_be_missing,
    "stop at a step": _signals_as_python_has_them,
    "vote": _each_rank_for_itself,
    "finite loss": _numbers_as_they_come,
    "finite gradient norm": _numbers_as_they_come,
    "finite weight": _numbers_as_they_come,
    "token ids": _ids_of_any_size,
    "memory errors": _memory_as_it_comes,
    "settings": _settings_as_they_are_now,
    "data skip": _data_from_the_start,
    "watchdog": _nobody_watches,
    "pickles": _pickles_as_they_are,
    "rope": _rope_unchecked,
    "reader": _rows_of_any_kind,
    "mask receipt": _mask_unseen,
}

# Those of what is tried in the process of the suite itself: owner, name, and what stands there instead.
HERE: dict[str, tuple[Any, str, Any]] = {
    "archive size": (shridhar_ft.data.sources.archives, "check_size", lambda *_: None),
    "archive names": (shridhar_ft.data.sources.archives, "_OUTSIDE", re.compile(r"(?!)")),
    "statement size": (shridhar_ft.data.sources.mysql.window, "MOST", 600 << 20),
    "adapter base": (shridhar_ft.adapter_base.AdapterBase, "check", lambda *_: None),
}


@contextmanager
def taken_out(name: str | None) -> Iterator[None]:
    """Without a guard of HERE, for a while; another name, or None, changes nothing."""
    if name not in HERE:
        yield
        return
    owner, attribute, instead = HERE[name]
    whole = getattr(owner, attribute)
    setattr(owner, attribute, instead)
    try:
        yield
    finally:
        setattr(owner, attribute, whole)
