"""Word of a part's end, and of a run's end, stop or failure, to any command or URL (`train.notify`).

    train.notify='https://ntfy.sh/$TOPIC'      a POST of the event as JSON; $NAME in it comes from the environment
    train.notify='mail -s training me@here'    a shell command; the event is its standard input

The event says which run, which part, which status and figures, never the sentence that a run ended with: that may quote
a file, a path or a text. It has ten seconds; whatever goes wrong is one line, and nothing else.
"""

import base64
import json
import os
import platform
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from shridhar_ft.addresses import is_url, named_in
from shridhar_ft.config import Recipe
from shridhar_ft.errors import STOPPED, Resumable, Stop, UserError, first_line
from shridhar_ft.monitoring.live import read_live
from shridhar_ft.runfolder import Run, read_json

TIMEOUT = 10.0  # seconds
MEANS = {
    0: "done",
    1: "a receipt or a check does not hold",
    2: "a setting or an input is wrong",
    65: "a number became NaN or infinite",
    74: "the disk failed or is full",
    75: "stopped, and can go on",
    76: "the budget is spent",
}

Say = Callable[[str], None]


@contextmanager
def notifying(recipe: Recipe, run: Run, say: Say) -> Iterator[None]:
    """Send word of how the block ends; the error, where there is one, goes on as it was.

    Raises:
        UserError: See `check_variables`, before the block begins.
    """
    if recipe.train.notify is None:
        yield
        return
    check_variables(recipe.train.notify)
    try:
        yield
    except Stop as stop:
        _send_end(recipe, run, stop.status, say)
        raise
    except KeyboardInterrupt:
        _send_end(recipe, run, Resumable.status, say)
        raise
    except BaseException:
        _send_end(recipe, run, None, say)
        raise
    _send_end(recipe, run, 0, say)


def check_variables(to: str) -> None:
    """Refuse an address whose variables are not set: word of the run would go to a place of the name `$TOPIC`.

    Raises:
        UserError: One is not.
    """
    if lost := [name for name in named_in(to) if not os.environ.get(name)]:
        raise UserError(
            f"train.notify: ${lost[0]} is not set in the environment; export {lost[0]}=…, or train.notify=null"
        )


def notify_part(recipe: Recipe, run: Run, part: str, figures: dict[str, Any], say: Say) -> None:
    """Send word that a part has ended well.

    Args:
        recipe: Names where to, or nothing.
        run: The run.
        part: The part's name.
        figures: Numbers of its part.json.
        say: Told what went wrong.
    """
    if recipe.train.notify is not None:
        send(recipe.train.notify, event("part", f"{run.name}: {part} is finished", run, part, 0, figures), say)


def event(kind: str, text: str, run: Run, part: str, status: int | None, figures: dict[str, Any]) -> dict[str, Any]:
    """An event as it is sent: `event` is part, done, stopped or failed; `text` is one line for a person."""
    return {
        "event": kind,
        "text": text,
        "run": run.name,
        "part": part,
        "status": status,
        **figures,
        "host": platform.node(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _send_end(recipe: Recipe, run: Run, status: int | None, say: Say) -> None:
    assert recipe.train.notify is not None, "the caller asks"
    file = run.root / "status.json"
    try:
        live, part = read_live(run.root) or {}, read_json(file)["part"] if file.is_file() else ""
    except (OSError, ValueError):  # cut off by a full disk, say, which may be what is to be told
        live, part = {}, ""
    if part in ("pretrain", "sft") and live:
        part = live["part"]
    kind = "done" if status == 0 else "stopped" if status in STOPPED else "failed"
    what = MEANS.get(status, f"status {status}") if status is not None else "an error of the program"
    figures: dict[str, Any] = {key: live[key] for key in ("step", "steps", "figures") if key in live}
    where = f" in {part}" + (f" at step {live['step']} of {live['steps']}" if part == live.get("part") else "")
    text = f"{run.name}: {what}" + (where if status != 0 and part else "")
    send(recipe.train.notify, event(kind, text, run, part, status, figures), say)


def send(to: str, what: dict[str, Any], say: Say) -> None:
    """Send one event; says in one line what went wrong, without the address, which may hold a secret.

    Args:
        to: A URL or a shell command.
        what: The event.
        say: Told what went wrong.
    """
    body = json.dumps(what, ensure_ascii=False).encode()
    try:
        trouble = _post(to, body) if is_url(to) else _run(to, body)
    except Exception as error:  # noqa: BLE001 - whatever a server brings about: a run's end stays what it was
        trouble = type(error).__name__  # its text may hold the address
    if trouble:
        say(f"train.notify: {what['event']} was not delivered ({trouble}); the run is not touched by it")


def _post(url: str, body: bytes) -> str | None:
    address, headers = _request(os.path.expandvars(url))
    headers["Content-Type"] = "application/json; charset=utf-8"
    request = urllib.request.Request(address, body, headers, method="POST")
    host = urllib.parse.urlsplit(address).hostname
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return f"{host} answered {error.code}"
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        return f"{host}: {first_line(getattr(error, 'reason', error))}"


def _request(address: str) -> tuple[str, dict[str, str]]:
    """An address in the ASCII that HTTP carries, and the header that a name and password in it mean.

    Letters of the host become IDNA, those of path and query %XX; what is written as %XX already stays.
    """
    parts = urllib.parse.urlsplit(address)
    user, at, _ = parts.netloc.rpartition("@")
    host = (parts.hostname or "").encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    where = host if parts.port is None else f"{host}:{parts.port}"
    path, query = (urllib.parse.quote(held, safe="%/:;=&?+!$,'()*@~") for held in (parts.path, parts.query))
    login = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return urllib.parse.urlunsplit((parts.scheme, where, path, query, "")), (
        {"Authorization": f"Basic {login}"} if at else {}
    )


def _run(command: str, body: bytes) -> str | None:
    # A session of its own, so that all that the shell starts ends with it.
    child = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said = child.communicate(body, timeout=TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return f"the command did not end within {TIMEOUT:.0f} s"
    if child.returncode:
        last = said.decode(errors="replace").strip().rsplit("\n", 1)[-1][:200]
        return f"the command ended with {child.returncode}{f': {last}' if last else ''}"
    return None
