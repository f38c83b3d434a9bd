"""The run folder: parts appear whole or not at all, one process at a time, and a full disk has its own status."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shridhar_ft.errors import DiskFailed, UserError
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


@pytest.mark.parametrize("moment", ["inside the block", "between the renames", "before the old one is gone"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_and_the_next_run_tidies(tmp_path: Path, moment: str) -> None:
    script = f"""
import os, pathlib, shutil, signal
from shridhar_ft.runfolder import publishing

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

with publishing(pathlib.Path("data")) as folder:
    (folder / "file").write_text("old")
with publishing(pathlib.Path("data")) as folder:
    (folder / "file").write_text("new")
    if {moment!r} == "inside the block":
        die()
    elif {moment!r} == "between the renames":
        rename = pathlib.Path.rename
        pathlib.Path.rename = lambda self, to: die() if self.suffix == ".tmp" else rename(self, to)
    else:
        shutil.rmtree = lambda path, **_: die() if path.exists() else None
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(ValueError, match="no"), publishing(tmp_path / "data"):
        raise ValueError("no")
    left = "new" if moment == "before the old one is gone" else "old"
    assert (tmp_path / "data/file").read_text() == left
    with publishing(tmp_path / "data") as folder:
        (folder / "file").write_text("newest")
    assert (tmp_path / "data/file").read_text() == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_leavings_of_a_killed_process_with_the_same_id_are_no_obstacle(tmp_path: Path) -> None:
    # In a container the ids of two runs are often the same.
    for name in ("data", f".data.{os.getpid()}.old", f".data.{os.getpid()}.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    with publishing(tmp_path / "data") as folder:
        assert not list(folder.iterdir())
        (folder / "file").write_text("new")
    assert (tmp_path / "data/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import pathlib, time; from shridhar_ft.runfolder import publishing\n"
        "with publishing(pathlib.Path('data')) as folder:\n"
        "    (folder / 'file').write_text('other'); print('writing', flush=True); input()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdout.readline() == "writing\n"
    with publishing(tmp_path / "data") as folder:
        (folder / "file").write_text("ours")
    assert other.communicate("\n") == ("", None) and other.returncode == 0
    assert (tmp_path / "data/file").read_text() == "other"
    later = tmp_path / f".data.{os.getppid()}.tmp"  # left by a process whose id another one was given since
    later.mkdir()
    os.utime(later, (0, 0))
    with publishing(tmp_path / "data"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


FILL_A_DISK = """
import pathlib, sys
import torch
from safetensors.torch import save_file
from shridhar_ft.errors import DiskFailed
from shridhar_ft.runfolder import disk_errors, publishing, read_json, write_json

disk = pathlib.Path(sys.argv[1])
write_json(disk / "small.json", {"old": True})
with publishing(disk / "part") as folder:
    (folder / "file").write_text("old")
block = torch.ones(200_000)
writers = {
    "safetensors": lambda file: save_file({"a": block}, file),
    "torch": lambda file: torch.save(block, file),
    "plain": lambda file: file.write_bytes(bytes(800_000)),
    "json": lambda file: write_json(disk / "small.json", list(range(200_000))),
}
for name, write in writers.items():
    try:
        with publishing(disk / "part") as folder:
            write(folder / "big")
        sys.exit(f"{name}: nothing failed")
    except DiskFailed as error:
        assert error.status == 74 and "MB free" in str(error), (name, error)
    assert (disk / "part/file").read_text() == "old", name
    assert read_json(disk / "small.json") == {"old": True}, name
    assert sorted(path.name for path in disk.iterdir()) == ["part", "small.json"], name
print("all four")
"""


def test_a_real_full_disk_leaves_what_was_whole(tmp_path: Path) -> None:
    # A disk of 400 KB in a namespace of its own: it is gone with the process.
    mount = f'mount -t tmpfs -o size=400k none "{tmp_path}"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    command += [sys.executable, "-c", FILL_A_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "all four\n"), done.stderr


WRITE_NOWHERE = """
import os, pathlib, subprocess, sys
from run_folders import half_run
from shridhar_ft.cli import run_command
from shridhar_ft.errors import DiskFailed
from shridhar_ft.runfolder import publishing, write_json

disk, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
options = "size=20m" if kind == "read-only" else "nr_inodes=200"
if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], capture_output=True).returncode:
    sys.exit(77)
os.chdir(disk)
os.environ["XDG_CACHE_HOME"] = str(disk / "cache")
half_run(disk)
if kind == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
else:
    try:
        for number in range(1000):
            pathlib.Path(f"{number}.filler").touch()
    except OSError:
        pass
made = sorted(disk.rglob("*"))
for write in (lambda: write_json(disk / "new/file.json", 1), lambda: publishing(disk / "new/part").__enter__()):
    try:
        write()
        sys.exit("nothing failed")
    except DiskFailed as error:
        print(error)
commands = (
    ["run", "demo"], ["data", "build", "demo"], ["tokenizer", "train", "demo"], ["rehearse", "demo"],
    ["export", "runs/whole"], ["report", "runs/whole", "--no-samples"],
    ["cloud", "demo", "--to", "lambda", "-o", "new"],
)
for command in commands:
    print(command[0], run_command(command))
assert sorted(disk.rglob("*")) == made
"""


@pytest.mark.parametrize(("kind", "sentence"), [("read-only", "read-only file system"), ("full", "no inodes are left")])
def test_a_disk_that_takes_no_file_is_told_in_a_sentence(tmp_path: Path, kind: str, sentence: str) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    command = ["unshare", "-m", sys.executable, "-c", WRITE_NOWHERE, str(tmp_path), kind]
    where = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=where)
    if done.returncode == 77:
        pytest.skip("this user may not mount")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [sentence in line for line in told[:2]] == [True, True], told
    assert {line.split()[-1] for line in told[2:]} == {"74"}, told
    assert done.stderr.count("shridhar-ft: ") == done.stderr.count(sentence) == len(told) - 2, done.stderr


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
        (tmp_path / "runs/x").mkdir()
        (tmp_path / "link").mkdir()
        (tmp_path / "link/x").symlink_to(tmp_path / "runs/x")
        for same in (tmp_path / "runs/x", tmp_path / "link/x"):
            with pytest.raises(UserError, match="another process"), only_one(Run(same)):
                pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x"], "no lock file is left"


def test_a_part_is_current_only_for_what_it_was_made_from(tmp_path: Path) -> None:
    assert not is_current(tmp_path, "a")
    finish_part(tmp_path, "a", 1.23, loss=2.0)
    assert is_current(tmp_path, "a") and not is_current(tmp_path, "b")
    part = read_json(tmp_path / "part.json")
    assert part["seconds"] == 1.2 and part["loss"] == 2.0 and part["peak_rss_bytes"] > 1e6


def test_fingerprints_are_stable_and_see_every_change() -> None:
    # Golden: another value would make every finished part of every run folder stale.
    assert fingerprint({"имя": [1, 2.5, None, True]}, "x") == "f9c0e9426839d602f95be19fae819335"
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(v) for v in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, None, "")}) == 6


def test_a_run_folder_belongs_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "recipe.yaml").write_text("name: one\n")
    with pytest.raises(UserError, match="holds the run 'one'"):
        check_owner(Run(tmp_path / "two"))
    (tmp_path / "two" / "recipe.yaml").write_text("name: two\n")
    check_owner(Run(tmp_path / "two"))


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
