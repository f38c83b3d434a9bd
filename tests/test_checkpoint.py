"""Checkpoints: whole when the manifest stands; damage is found, named and stepped over."""

from pathlib import Path

import pytest

from shridhar_ft.checkpoint import checkpoints, damage, newest_whole, rotate, write_manifest
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import read_json


def make(folder: Path, step: int, made_from: str = "f", finished: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (checkpoint / "deep" / "optimizer.pt").write_bytes(b"state" * step)
    if finished:
        write_manifest(checkpoint, {"fingerprint": made_from, "world_size": 1})
    return checkpoint


def flip(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "flipped byte": (flip, "another hash"),
    "truncated": (lambda c: (c / "model.safetensors").write_bytes(b"x"), "1 bytes instead of 1024"),
    "missing file": (lambda c: (c / "deep/optimizer.pt").unlink(), "optimizer.pt is missing"),
    "garbled manifest": (lambda c: (c / "MANIFEST.json").write_text('{"files": {"mod'), "MANIFEST.json cannot be read"),
    "empty manifest": (lambda c: (c / "MANIFEST.json").write_text("{}"), "MANIFEST.json cannot be read"),
    "no manifest": (lambda c: (c / "MANIFEST.json").unlink(), "never finished"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_one_before_is_taken(name: str, tmp_path: Path) -> None:
    harm, told = DAMAGE[name]
    good, bad = make(tmp_path, 5), make(tmp_path, 10)
    assert damage(bad) is None
    harm(bad)
    said: list[str] = []
    assert newest_whole(tmp_path, "f", 1, said.append) == good
    assert len(said) == 1 and told in said[0] and "checkpoint-10" in said[0]
    assert not bad.exists() and (tmp_path / "checkpoint-10.damaged").is_dir() is (name != "no manifest")


def test_one_damaged_after_another_is_stepped_over_to_the_newest_whole_one(tmp_path: Path) -> None:
    good = make(tmp_path, 5)
    for step in (10, 15, 20):
        flip(make(tmp_path, step))
    said: list[str] = []
    assert newest_whole(tmp_path, "f", 1, said.append) == good
    assert [line.split()[0] for line in said] == ["checkpoint-20", "checkpoint-15", "checkpoint-10"]
    assert newest_whole(tmp_path, "f", 1, said.append) == good and len(said) == 3, "what was set aside stays so"


def test_the_manifest_names_every_file_but_itself(tmp_path: Path) -> None:
    files = read_json(make(tmp_path, 5) / "MANIFEST.json")["files"]
    assert sorted(files) == ["deep/optimizer.pt", "model.safetensors"]
    assert files["model.safetensors"]["bytes"] == 1024


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        make(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-5"]


def test_a_checkpoint_of_other_settings_is_removed_and_said(tmp_path: Path) -> None:
    foreign = make(tmp_path, 5, made_from="other")
    said: list[str] = []
    assert newest_whole(tmp_path, "f", 1, said.append) is None
    assert not foreign.exists() and "other settings" in said[0]


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 5)
    with pytest.raises(UserError, match="left by 1 processes and 2 go on"):
        newest_whole(tmp_path, "f", 2, print)


def test_rotation_counts_whole_ones_and_keeps_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    make(tmp_path, 5, finished=False)
    rotate(tmp_path, keep=2, best=str(tmp_path / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (1, 3, 4, 5)]
