"""The run folder: parts appear whole or not at all, one process at a time, and a full disk has its own status."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shridhar_ft.errors import CheckFailed, DiskFailed, UserError
from shridhar_ft.receipts import read_receipts, write_receipt
from shridhar_ft.runfolder import (
    Run,
    begin_peak_rss,
    check_owner,
    disk_errors,
    fingerprint,
    finish_part,
    is_current,
    only_one,
    peak_rss_bytes,
    publishing,
    read_json,
    write_json,
)


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with publishing(tmp_path / "run" / "data") as folder:
            (folder / "file").write_text(text)
            assert not (tmp_path / "run" / "data" / "file").exists() or text == "new"
    assert (tmp_path / "run/data/file").read_text() == "new"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]


def test_a_failure_leaves_the_old_folder_and_no_traces(tmp_path: Path) -> None:
    with publishing(tmp_path / "data") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(ValueError, match="no"), publishing(tmp_path / "data") as folder:
        (folder / "file").write_text("half")
        raise ValueError("no")
    assert (tmp_path / "data/file").read_text() == "old"
    with pytest.raises(ValueError, match="no"), publishing(tmp_path / "run" / "data"):
        raise ValueError("no")
    assert not (tmp_path / "run").exists()


def test_a_kill_leaves_nothing_that_the_next_run_trips_over(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib; from shridhar_ft.runfolder import publishing\n"
        "with publishing(pathlib.Path('data')) as folder:\n"
        "    (folder / 'file').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    with publishing(tmp_path / "data") as folder:
        (folder / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_is_told_with_its_own_status(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed) as failed, publishing(tmp_path / "data"), Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
    assert failed.value.status == 74
    assert "No space left" in str(failed.value)
    assert not (tmp_path / "data").exists()
    with pytest.raises(DiskFailed), disk_errors(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(OSError) as other, disk_errors(tmp_path):
        raise OSError(errno.ENOENT, "not there")
    assert not isinstance(other.value, DiskFailed)


def test_only_one_process_works_on_a_run_and_a_killed_one_frees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = (
        "import time, pathlib; from shridhar_ft.runfolder import only_one, Run\n"
        "with only_one(Run(pathlib.Path('runs/x'))):\n    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), only_one(Run(Path("runs/x"))):
        pass
    with only_one(Run(Path("runs/y"))):
        pass
    holder.kill()
    holder.wait()
    time.sleep(0.05)
    with only_one(Run(Path("runs/x"))):
        pass


def test_a_part_is_current_only_for_what_it_was_made_from(tmp_path: Path) -> None:
    assert not is_current(tmp_path, "a")
    finish_part(tmp_path, "a", 1.23, loss=2.0)
    assert is_current(tmp_path, "a") and not is_current(tmp_path, "b")
    part = read_json(tmp_path / "part.json")
    assert part["seconds"] == 1.2 and part["loss"] == 2.0 and part["peak_rss_bytes"] > 1e6


def test_fingerprints_are_stable_and_see_every_change() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(v) for v in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, None, "")}) == 6


def test_a_run_folder_belongs_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "recipe.yaml").write_text("name: one\n")
    with pytest.raises(UserError, match="holds the run 'one'"):
        check_owner(Run(tmp_path / "two"))
    (tmp_path / "two" / "recipe.yaml").write_text("name: two\n")
    check_owner(Run(tmp_path / "two"))


def test_a_receipt_is_on_disk_before_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "stages/a/receipts/rope.json"
    with pytest.raises(CheckFailed, match="load it again") as failed:
        write_receipt(path, {"x": 1}, {"x": 2}, ok=False, mend="load it again")
    assert failed.value.status == 1
    assert read_receipts(tmp_path)["stages/a/receipts/rope.json"]["ok"] is False
    assert write_receipt(path, {"x": 1}, {"x": 1}, ok=True)["receipt"] == "rope"


def test_peaks_are_counted_anew_for_each_part() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not forget a peak")
    block = bytearray(300_000_000)
    high = peak_rss_bytes()
    del block
    begin_peak_rss()
    assert peak_rss_bytes() < high - 200_000_000


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep/file.json", {"ж": 1})
    assert read_json(tmp_path / "deep/file.json") == {"ж": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.json"]
