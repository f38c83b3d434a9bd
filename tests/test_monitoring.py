"""What is told of a run while it trains and when it ends: status, watch, word to a URL or a command, TensorBoard."""

import base64
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from shridhar_ft.backup.mirror import Mirror
from shridhar_ft.backup.pull import pull
from shridhar_ft.checkpoint import write_manifest
from shridhar_ft.cli import run_command
from shridhar_ft.config import load_recipe
from shridhar_ft.errors import Resumable, UserError
from shridhar_ft.monitoring import notify
from shridhar_ft.monitoring.board import Board
from shridhar_ft.monitoring.live import Live
from shridhar_ft.monitoring.reporters import check_reporters
from shridhar_ft.monitoring.status import reader
from shridhar_ft.monitoring.view import lines, watch
from shridhar_ft.progress import quiet
from shridhar_ft.runfolder import PART, Run, only_one, write_json

PLAN = {
    "peak_bytes": 2 << 30,
    "step_seconds": 2.0,
    "rates": "calibrated",
    "operations": 1e9,
    "tokens": 1000,
    "peak_operations_per_second": 1e9,
}


class Spent:
    seconds = 1800.0


class Money:
    usd_per_hour = 2.0
    usd = 2.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in its second stage, whose process is this one."""
    monkeypatch.chdir(tmp_path)
    root = Path("runs/r")
    root.mkdir(parents=True)
    stages = [{"name": "8k", "context": 64}, {"name": "32k", "context": 128}]
    budget = {"max_usd": 10.0}
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "stages": stages, "budget": budget}))
    write_json(root / "stages/8k" / PART, {"fingerprint": "f", "hash": "h", "seconds": 1800.0})
    Run(root).status(None, "pretrain", "training")
    live = Live(root, "stages/32k", PLAN, Money(), Spent())
    live.begin(0, 100)
    live.began -= 20
    live.written = float("-inf")
    live.figures_at(10, {"loss": 3.25, "tokens_per_second": 400.0}, 1 << 30)
    checkpoint = root / "stages/32k/checkpoints/checkpoint-10"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    write_manifest(checkpoint, {})
    return root


def moved(root: Path, minutes: float = 0, **changes: object) -> None:
    """Change what live.json and status.json say of the process."""
    at = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")
    for name in ("live.json", "status.json"):
        write_json(root / name, json.loads((root / name).read_text()) | {"at": at} | changes)


# ------------------------------------------------------------------------------------------------------- status


def test_a_live_run_is_told_with_its_money_and_time(run: Path) -> None:
    state = reader(str(run))()
    assert (state["state"], state["part"], state["step"], state["steps"]) == ("running", "stages/32k", 10, 100)
    assert state["loss"] == 3.25 and state["share_of_peak"] == pytest.approx(0.4)
    assert state["usd"] == {
        "per_hour": 2.0,
        "spent": pytest.approx(2.0, abs=0.05),
        "to_go": pytest.approx(180 * 2 / 3600, abs=0.02),  # 90 steps of two seconds
        "max": 10.0,
    }
    assert state["checkpoint"] == "stages/32k/checkpoints/checkpoint-10"
    assert state["alive"]["alive"] is True and state["alive"]["pid"] == os.getpid()
    told = "\n".join(lines(state))
    for part in (
        "step 10 of 100",
        "loss 3.2500",
        "400 tokens/s",
        "40.0% of the peak",
        "1.00 GiB",
        "(-50%)",
        "of $10.00",
    ):
        assert part in told


def test_a_process_that_is_gone_is_told_from_one_that_is_silent(run: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    moved(run, pid=ended.pid)
    state = reader(str(run))()
    assert state["state"] == "gone"
    told = list(lines(state))
    assert re.match(r"r: gone since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d · stages/32k", told[0])
    assert told[-1] == "  to go on: shridhar-ft run runs/r/recipe.yaml"
    moved(run, minutes=1, host="another")
    assert reader(str(run))()["state"] == "running"
    moved(run, minutes=30, host="another")
    state = reader(str(run))()
    told = list(lines(state))
    assert state["state"] == "silent" and "nothing was heard of it" in "\n".join(told)
    assert told[0].startswith("r: silent since ") and "to go on, where it has ended: shridhar-ft run" in told[-1]
    moved(run, minutes=30, host="another", step_seconds=600.0)
    assert reader(str(run))()["state"] == "running", "half an hour is three steps here"


def test_a_process_number_that_another_process_has_got_is_not_the_run(run: Path) -> None:
    moved(run, minutes=60 * 24 * 365)  # long before this process began
    assert reader(str(run))()["state"] == "gone"


def test_an_ended_run_says_how_to_go_on(run: Path, capsys: pytest.CaptureFixture) -> None:
    Run(run).status(75, "pretrain", "stages/32k: stopped by SIGTERM after step 10", resume="shridhar-ft run r.yaml")
    assert run_command(["status", "runs/r"]) == 0
    told = capsys.readouterr().out
    assert "r: stopped · stages/32k" in told and "to go on: shridhar-ft run r.yaml" in told
    assert run_command(["status", "runs/r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alive"] is None


def test_the_backup_tells_the_same(run: Path, tmp_path: Path) -> None:
    Mirror(run, str(tmp_path / "far"), quiet).update(last=True)
    here, there = reader("runs/r")(), reader(str(tmp_path / "far"))()
    for key in ("state", "part", "step", "loss", "checkpoint", "parts"):
        assert here[key] == there[key]
    assert there["alive"]["by"] == "last sign of life"
    moved(run, minutes=30)
    Mirror(run, str(tmp_path / "far"), quiet).update(last=True)
    state = reader(str(tmp_path / "far"))()
    assert state["state"] == "silent" and state["resume"] == f"shridhar-ft pull {tmp_path / 'far/r'}"


def test_between_two_lines_of_the_log_a_run_elsewhere_is_not_silent(run: Path) -> None:
    moved(run, minutes=9, host="another", step_seconds=60.0)
    assert reader(str(run))()["state"] == "running", "the log has a line in ten steps"
    moved(run, minutes=16, host="another", step_seconds=60.0)
    assert reader(str(run))()["state"] == "silent"


def test_a_run_that_was_brought_back_is_not_told_as_running(run: Path, tmp_path: Path) -> None:
    moved(run, host="another")
    Mirror(run, str(tmp_path / "far"), quiet).update(last=True)
    pull(str(tmp_path / "far"), None, tmp_path / "there/runs", quiet)
    state = reader(str(tmp_path / "there/runs/r"))()
    assert state["state"] == "stopped" and state["resume"].endswith("shridhar-ft run runs/r/recipe.yaml")


def test_a_run_that_ended_before_its_first_status_is_told_from_one_that_prepares(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/new/.data.1.tmp").mkdir(parents=True)
    with only_one(Run(Path("runs/new"))), pytest.raises(UserError, match="is being prepared"):
        reader("runs/new")
    Path("runs/.new.run.lock").touch()  # as a kill leaves it
    with pytest.raises(UserError, match="ended without a word before"):
        reader("runs/new")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder and no backup"):
        reader(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="holds no backup"):
        reader(str(tmp_path))
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text("{}")
    with pytest.raises(UserError, match="holds the runs a, b; name one of them"):
        reader(str(tmp_path))


def test_watching_ends_with_the_run(run: Path) -> None:
    def end() -> None:
        time.sleep(0.5)
        Run(run).status(0, "run", "done")

    threading.Thread(target=end).start()
    seen: list[str] = []
    watch(reader("runs/r"), 0.1, Console(quiet=True), lambda state: seen.append(state["state"]))
    assert seen == ["running", "done"]


def test_a_watch_waits_for_a_run_that_has_not_begun(run: Path) -> None:
    (run / "status.json").unlink()

    def begin_and_end() -> None:
        time.sleep(0.3)
        Run(run).status(None, "pretrain", "training")
        time.sleep(0.5)
        Run(run).status(0, "run", "done")

    threading.Thread(target=begin_and_end).start()
    seen: list[str] = []
    watch(reader("runs/r"), 0.1, Console(quiet=True), lambda state: seen.append(state["state"]))
    assert seen == ["not begun", "running", "done"]


def test_a_run_whose_first_data_are_being_read_is_no_missing_backup(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/new/.data.1.tmp").mkdir(parents=True)
    with pytest.raises(UserError, match="being read for the first time"):
        reader("runs/new")


def test_a_watch_in_json_is_a_line_a_state(run: Path, capsys: pytest.CaptureFixture) -> None:
    Run(run).status(0, "run", "done")
    assert run_command(["status", "runs/r", "--watch", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["state"] == "done"


def test_ctrl_c_leaves_the_watch_in_peace(run: Path) -> None:
    def read() -> dict:
        raise KeyboardInterrupt

    watch(read, 0.1, Console(quiet=True), None)


# ------------------------------------------------------------------------------------------------------- notify


@pytest.fixture
def inbox():
    """A real server that keeps what is posted to it; its address and what came."""
    came: list[dict] = []

    class Inbox(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/slow":
                time.sleep(3)
            came.append({"path": self.path, "type": self.headers["Content-Type"], **json.loads(body)})
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Inbox) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", came
        server.shutdown()


def recipe_that_tells(to: str):
    recipe = load_recipe("demo", ["name=r"])
    recipe.train.notify = to
    return recipe


def test_a_url_hears_of_stop_failure_end_and_part_and_no_private_text(
    run: Path, inbox: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, came = inbox
    monkeypatch.setenv("WORD", "secret")
    recipe = recipe_that_tells(f"{address}/$WORD")
    with pytest.raises(Resumable), notify.notifying(recipe, Run(run), quiet):
        raise Resumable("частный разговор")
    with pytest.raises(ZeroDivisionError), notify.notifying(recipe, Run(run), quiet):
        raise ZeroDivisionError("частный разговор")
    notify.notify_part(recipe, Run(run), "stages/32k", {"steps": 3}, quiet)
    with notify.notifying(recipe, Run(run), quiet):
        pass
    assert [(event["event"], event["status"]) for event in came] == [
        ("stopped", 75), ("failed", None), ("part", 0), ("done", 0),
    ]  # fmt: skip
    assert "частный" not in json.dumps(came, ensure_ascii=False)
    assert came[0]["path"] == "/secret" and came[0]["type"].startswith("application/json")
    assert came[0]["text"] == "r: stopped, and can go on in stages/32k at step 10 of 100"
    assert came[0]["figures"]["loss"] == 3.25 and came[0]["host"] == platform.node()


def test_an_address_in_any_letters_arrives(inbox: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    address, came = inbox
    monkeypatch.setenv("TOPIC", "полка 1")
    said: list[str] = []
    notify.send(f"{address}/обучение/%D1%8F/$TOPIC?ключ=да&x=a%20b", {"event": "done"}, said.append)
    assert not said
    assert urllib.parse.unquote(came[0]["path"]) == "/обучение/я/полка 1?ключ=да&x=a b"
    assert notify._request("https://Я:слово@почта.рф:8443/x") == (
        "https://xn--80a1acny.xn--p1ai:8443/x",
        {"Authorization": "Basic " + base64.b64encode("Я:слово".encode()).decode()},
    )
    assert notify._request("http://[::1]:80/x#y")[0] == "http://[::1]:80/x"


def test_an_address_whose_variable_is_not_set_is_refused_before_the_run(run: Path) -> None:
    sentence = r"train.notify: \$NOWHERE is not set"
    recipe = recipe_that_tells("https://ntfy.sh/${NOWHERE}")
    with pytest.raises(UserError, match=sentence), notify.notifying(recipe, Run(run), quiet):
        raise AssertionError("the run began")


def test_a_command_gets_the_event_on_standard_input(run: Path) -> None:
    recipe = recipe_that_tells("cat > event.json")
    with notify.notifying(recipe, Run(run), quiet):
        pass
    assert json.loads(Path("event.json").read_text())["event"] == "done"


def test_word_that_cannot_be_delivered_is_one_line_and_nothing_else(
    run: Path, inbox: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT", 0.5)
    said: list[str] = []
    began = time.monotonic()
    for to, told in (
        (f"{inbox[0]}/broken", "127.0.0.1 answered 500"),
        (f"{inbox[0]}/slow", "timed out"),
        ("http://127.0.0.1:1/", "refused"),
        ("echo wrong >&2; exit 3", "ended with 3: wrong"),
        ("sleep 30 & sleep 30", "did not end within"),
        ("no-such-command-anywhere", "ended with 127"),
    ):
        notify.send(to, {"event": "done"}, said.append)
        assert told in said[-1] and len(said[-1].splitlines()) == 1
    assert len(said) == 6 and time.monotonic() - began < 15


# ------------------------------------------------------------------------------------- TensorBoard, reporters, cost


def test_tensorboard_has_the_figures_and_forgets_what_a_resume_undoes(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, loss in ((0, 5.0), (2, 4.0)):
        board = Board(tmp_path)
        board.begin(first)
        for step in range(first + 1, first + 4):
            pieces = [{"from": 0, "to": 8, "loss": loss}, {"from": 8, "to": 16, "loss": None}]
            board.figures(step, {"loss": loss, "eval_loss": loss, "eval_by_position": pieces})
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/loss", "eval_position/0"}
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 5), (2, 5), (3, 4), (4, 4), (5, 4)]


def test_a_service_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shridhar_ft.monitoring.reporters.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb is not installed; pip install wandb"):
        check_reporters(["wandb"])
    check_reporters([])
    with pytest.raises(UserError, match=r"report_to"):
        load_recipe("demo", ["train.report_to=[comet]"])


@pytest.mark.parametrize("to", ["http://h/a b", "http://h:bad/x", "http://[::1/x", "echo \0", "HTTP://127.0.0.1:9/x"])
def test_an_address_that_is_none_is_one_line_and_stops_nothing(to: str) -> None:
    said: list[str] = []
    notify.send(to, {"event": "stopped"}, said.append)
    assert len(said) == 1 and "stopped was not delivered" in said[0]


@pytest.mark.parametrize(
    ("file", "content"), [("live.json", "{"), ("status.json", "{"), ("recipe.yaml", "{"), ("recipe.yaml", "[1]")]
)
def test_a_damaged_file_of_a_run_is_one_sentence(run: Path, file: str, content: str) -> None:
    (run / file).write_text(content)
    with pytest.raises(UserError, match=file):
        reader(str(run))()


def test_the_live_file_is_written_seldom(run: Path) -> None:
    live = Live(run, "stages/32k", PLAN, Money(), Spent())
    live.begin(0, 1000)
    written = (run / "live.json").stat().st_mtime_ns
    for step in range(1, 200):
        live.figures_at(step, {"loss": 1.0}, 1)
    assert (run / "live.json").stat().st_mtime_ns == written
    live.figures_at(1000, {"loss": 1.0}, 1)
    assert json.loads((run / "live.json").read_text())["step"] == 1000


def test_help_loads_nothing_of_the_cloud() -> None:
    script = (
        "import sys; from shridhar_ft.cli import run_command; assert run_command(['--help']) == 0; "
        "sys.exit(any(name in sys.modules for name in ('tensorboard', 'fsspec', 's3fs', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False).returncode == 0
