"""`shridhar-ft status`: where a run stands, from its files, here or in its backup."""

import json
import platform
import shlex
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from shridhar_ft.backup.contents import ARCHIVE, IDENTITY, OWNER, parts, small_files, unpack
from shridhar_ft.backup.pull import find_run, tried
from shridhar_ft.backup.store import scheme_of
from shridhar_ft.checkpoint import MANIFEST, checkpoints, step_of
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import STOPPED, UserError, first_line
from shridhar_ft.monitoring.live import LIVE
from shridhar_ft.runfolder import PART, Run, is_held, parts_of, settings_of

QUIET_AT_LEAST = 120.0  # seconds without a sign of life before it is worth a word; the backup copies once a minute
QUIET_STEPS = 5  # the same in steps beyond those between two lines of the log, where steps are long

Read = Callable[[], dict[str, Any]]


def reader(what: str) -> Read:
    """A function that reads the state of a run anew each time.

    Args:
        what: A run folder, or the place of a backup.

    Raises:
        UserError: It is neither.
    """
    folder = Path(what)
    if scheme_of(what) is None and ((folder / "status.json").is_file() or (folder / "recipe.yaml").is_file()):
        going_on = shlex.join(["shridhar-ft", "run", str(folder / "recipe.yaml")])
        return lambda: state_of(folder.resolve().name, small_files(folder), _newest(folder), going_on, here=True)
    if scheme_of(what) is None and (worked_on := is_held(Run(folder))) is not None:
        if worked_on:
            raise UserError(f"status: {what} is being prepared and has no status yet; ask again in a while")
        if folder.is_dir() and not (folder / OWNER).is_file():
            raise UserError(
                f"status: the run of {what} ended without a word before its data were there; the command that began "
                "it, shridhar-ft run RECIPE, begins it again"
            )
    if scheme_of(what) is None and not folder.is_dir():
        raise UserError(f"status: {what} is no run folder and no backup; e.g. shridhar-ft status runs/demo")
    if scheme_of(what) is None and any(folder.glob(".data.*")):  # a run has a status from its first data on
        raise UserError(f"status: the data of {what} are being read for the first time; ask again when they are there")
    if scheme_of(what) is None and (runs := sorted(file.parent.name for file in folder.glob("*/status.json"))):
        raise UserError(f"status: {what} holds the runs {', '.join(runs)}; name one of them")
    store = find_run(what, None)
    name = store.place.rsplit("/", 1)[-1]

    def read() -> dict[str, Any]:
        held = tried(lambda: store.read(ARCHIVE))
        if held is None:
            raise UserError(f"{store.place} holds no {ARCHIVE}: no copy was ever finished")
        files = unpack(held, store.place)
        names = [found.rsplit("/", 1)[0] for found in files if found.endswith(f"/{PART}")]
        running = (_json(files, LIVE) or {}).get("part")
        newest = {
            part: step
            for part in {*names, *([running] if running else [])}
            if (step := _newest_copied(tried(partial(store.children, f"{part}/checkpoints")))) is not None
        }
        return state_of(name, files, newest, shlex.join(["shridhar-ft", "pull", store.place]), here=False)

    return read


def _newest(folder: Path) -> dict[str, int]:
    """Step of the newest whole checkpoint of each part that has one."""
    found = {}
    for part in parts(folder):
        whole = [path for path in checkpoints(folder / part / "checkpoints") if (path / MANIFEST).is_file()]
        if whole:
            found[part] = step_of(whole[0])
    return found


def _newest_copied(names: list[str]) -> int | None:
    steps = [int(step) for name in names if (step := name.removeprefix("checkpoint-")).isdecimal()]
    return max(steps, default=None)


def state_of(name: str, files: dict[str, bytes], newest: dict[str, int], going_on: str, here: bool) -> dict[str, Any]:
    """All that is known of a run.

    Args:
        name: Its name.
        files: Its small files.
        newest: Step of the newest checkpoint of each part.
        going_on: The command that goes on with a run which left none.
        here: Whether the files are the run's own, and not a copy of a minute ago.

    Returns:
        State in words, part, step, figures, time and money, as `--json` prints it; what is not known is None.
    """
    status, live = _json(files, "status.json") or {}, _json(files, LIVE) or {}
    recipe = settings_of(files["recipe.yaml"], f"{name}/recipe.yaml") if "recipe.yaml" in files else {}
    names = parts_of(recipe)
    done = {part: found for part in names if (found := _json(files, f"{part}/{PART}"))}
    running = status.get("status") is None and bool(status)
    part = status.get("part", "")
    training = bool(live) and part in ("pretrain", "sft") and live["part"] not in done
    alive = _alive(status, live if training else {}, _steps_between_signs(recipe), here) if running else None
    state = _state(status, alive)
    per_hour = live.get("usd_per_hour")
    since = _age(live["at"]) if training and alive and alive["alive"] is not False else 0.0
    spent = live["seconds"] + live["seconds_of_other_parts"] + since if live else None
    eta = live.get("eta_seconds") if training else None
    figures = _figures(files, live)
    return {
        "run": name,
        "state": state,
        "message": status.get("message", ""),
        "resume": status.get("resume") or (going_on if state in ("gone", "silent") else ""),
        "part": live["part"] if training else part,
        "step": live.get("step") if training else None,
        "steps": live.get("steps") if training else None,
        **{key: figures.get(key) for key in ("loss", "eval_loss", "tokens_per_second")},
        "share_of_peak": live.get("share_of_peak"),
        "rates": live.get("rates"),
        "memory": {"peak_bytes": live.get("peak_bytes"), "planned_bytes": live.get("planned_peak_bytes")},
        "step_seconds": live.get("step_seconds"),
        "planned_step_seconds": live.get("planned_step_seconds"),
        "eta_seconds": None if eta is None else max(0.0, eta - since),
        "hours": None if spent is None else spent / 3600,
        "usd": {
            "per_hour": per_hour,
            "spent": None if per_hour is None else live["usd"] + per_hour * since / 3600,
            "to_go": None if per_hour is None or eta is None else per_hour * max(0.0, eta - since) / 3600,
            "max": (recipe.get("budget") or {}).get("max_usd"),
        },
        "checkpoint": _last_checkpoint(names, newest),
        "alive": alive,
        "parts": [{"part": part, "finished": part in done} for part in names],
        "backup": (_json(files, IDENTITY) or {}).get("place"),
        "at": live.get("at") if training else status.get("at"),
    }


def _json(files: dict[str, bytes], name: str) -> dict[str, Any] | None:
    try:
        return json.loads(files[name]) if name in files else None
    except ValueError as error:
        raise UserError(
            f"status: {name} is damaged ({first_line(error)}); remove it, and the run writes it anew"
        ) from error


def _figures(files: dict[str, bytes], live: dict[str, Any]) -> dict[str, float]:
    """The last of each figure: metrics.jsonl gets every logging step, live.json one every few seconds."""
    found: dict[str, float] = dict(live.get("figures", {}))
    lines = files.get(f"{live['part']}/metrics.jsonl", b"").splitlines() if live else []
    for line in lines[-50:]:
        try:
            found |= json.loads(line)
        except ValueError:  # the last line, which is being written
            continue
    return found


def _last_checkpoint(names: list[str], newest: dict[str, int]) -> str | None:
    found = [f"{part}/checkpoints/checkpoint-{newest[part]}" for part in names if part in newest]
    return found[-1] if found else None


def _steps_between_signs(recipe: dict[str, Any]) -> int:
    """Steps between two lines of the log, each a sign of life, with a few to spare."""
    parts = [recipe.get("train") or {}, recipe.get("sft") or {}]
    return QUIET_STEPS + max(part.get("log_every", Tuning.model_fields["log_every"].default) for part in parts)


def _alive(status: dict[str, Any], live: dict[str, Any], steps: int, here: bool) -> dict[str, Any]:
    """Whether the process is there: asked of this machine where it runs on it, else judged by its last sign of life."""
    latest = max((held for held in (status, live) if held), key=lambda held: held["at"])
    age = _age(latest["at"])
    told = {"pid": latest["pid"], "host": latest.get("host"), "at": latest["at"], "seconds_since_a_sign": round(age, 1)}
    if here and latest.get("host") == platform.node():
        return {**told, "alive": _is_there(latest["pid"], latest["at"]), "by": "process"}
    quiet = max(QUIET_AT_LEAST, steps * (live.get("step_seconds") or 0.0))
    return {**told, "alive": True if age <= quiet else None, "by": "last sign of life"}


def _is_there(pid: int, at: str) -> bool:
    """Whether that very process runs: its number may have gone to another one since."""
    try:
        process = psutil.Process(pid)
        return (
            process.create_time() <= datetime.fromisoformat(at).timestamp() + 1
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


def _state(status: dict[str, Any], alive: dict[str, Any] | None) -> str:
    """In words: running, silent, gone, done, stopped, failed; not begun."""
    if not status:
        return "not begun"
    if status["status"] is None:
        assert alive is not None, "a run without a status was asked for its process"
        return {True: "running", None: "silent", False: "gone"}[alive["alive"]]
    return {0: "done", **dict.fromkeys(STOPPED, "stopped")}.get(status["status"], "failed")


def _age(at: str) -> float:
    """Seconds since a time in ISO 8601."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())


def followed(read: Read, every: float) -> Iterator[dict[str, Any]]:
    """The state again and again until the run ends.

    Args:
        read: From `reader`.
        every: Seconds between two looks.
    """
    while True:
        state = read()
        yield state
        if state["state"] not in ("not begun", "running", "silent"):
            return
        time.sleep(every)
