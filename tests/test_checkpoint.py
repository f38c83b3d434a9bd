"""Checkpoints: whole when the manifest stands; damage is found, named and stepped over; rotation counts whole ones."""

import shutil
from pathlib import Path

import pytest
import torch

from shridhar_ft.allowed import allow_option, parse_allowed
from shridhar_ft.checkpoint import checkpoints, damage, lacking, read_manifest, rotate, write_manifest
from shridhar_ft.errors import DiskFailed, UserError
from shridhar_ft.resume import Facts, Resume, choose
from shridhar_ft.room import check_room, need_room
from shridhar_ft.runfolder import read_json, write_json

NOW = Facts({"learning_rate": 0.1, "rank": 8, "before": "a"}, "recipe", 1, "none", "code", {"torch": "2"})
NOTHING: frozenset[str] = frozenset()


def facts(world_size: int = 1, engine: str = "none", **settings: object) -> Facts:
    return Facts({**NOW.settings, **settings}, "recipe", world_size, engine, "code", {"torch": "2"})


def make(folder: Path, step: int, made_of: Facts = NOW, finished: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (checkpoint / "deep" / "figures.npy").write_bytes(b"state" * step)
    torch.save({"step": step}, checkpoint / "optimizer.pt")
    torch.save({"last_epoch": step}, checkpoint / "scheduler.pt")
    if finished:
        write_manifest(checkpoint, made_of.as_dict())
    return checkpoint


def flip(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)


def swap(checkpoint: Path, old: str, new: str) -> None:
    file = checkpoint / "MANIFEST.json"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


DAMAGE = {
    "flipped byte": (flip, "another hash"),
    "truncated": (lambda c: (c / "model.safetensors").write_bytes(b"x"), "1 bytes instead of 1024"),
    "missing file": (lambda c: (c / "deep/figures.npy").unlink(), "figures.npy is missing"),
    "missing optimizer": (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "file that joined": (lambda c: (c / "pytorch_model.bin").write_bytes(b"x"), "not one of the files"),
    "garbled manifest": (lambda c: (c / "MANIFEST.json").write_text('{"files": {"mod'), "MANIFEST.json cannot be read"),
    "empty manifest": (lambda c: (c / "MANIFEST.json").write_text("{}"), "MANIFEST.json is not what was written"),
    "manifest that is a list": (lambda c: (c / "MANIFEST.json").write_text("[1]"), "MANIFEST.json cannot be read"),
    "a setting that changed in it": (lambda c: swap(c, '"learning_rate": 0.1', '"learning_rate": 0.3'), "another hash"),
    "a key that changed in it": (lambda c: swap(c, '"world_size"', '"world_sixe"'), "another hash"),
    "its seal under another name": (lambda c: swap(c, '"seal"', '"sea1"'), "another hash"),
    "a manifest of something else": (lambda c: write_manifest(c, {"settings": {}}), "says nothing of fingerprint, rec"),
    "no manifest": (lambda c: (c / "MANIFEST.json").unlink(), "never finished"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_one_before_is_taken(name: str, tmp_path: Path) -> None:
    harm, told = DAMAGE[name]
    good, bad = make(tmp_path, 5), make(tmp_path, 10)
    assert damage(bad) is None
    harm(bad)
    said: list[str] = []
    assert choose(tmp_path, NOW, NOTHING, said.append) == Resume(good)
    assert len(said) == 1 and told in said[0] and "checkpoint-10" in said[0]
    aside = "checkpoint-10.unfinished" if name == "no manifest" else "checkpoint-10.damaged"
    assert sorted(path.name for path in tmp_path.iterdir()) == [aside, "checkpoint-5"]


def test_no_flipped_byte_of_a_manifest_is_believed(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    file = held / "MANIFEST.json"
    content, whole = file.read_bytes(), read_manifest(held)
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert read_manifest(held) == whole, f"byte {place} is believed"  # between the values it changes nothing
        except ValueError as error:
            assert "MANIFEST.json" in str(error)


def test_a_manifest_from_before_the_seal_is_taken_where_it_holds_what_it_held_then(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    manifest = read_json(held / "MANIFEST.json")
    del manifest["seal"]
    write_json(held / "MANIFEST.json", manifest)
    assert choose(tmp_path, NOW, NOTHING, print) == Resume(held)
    manifest["settings"]["learning_rate"] = 0.3  # its settings had a hash of their own
    write_json(held / "MANIFEST.json", manifest)
    assert "not what was written" in str(damage(held))


def test_a_checkpoint_without_its_manifest_stays_until_a_later_one_is_whole(tmp_path: Path) -> None:
    (make(tmp_path, 10) / "MANIFEST.json").unlink()
    said: list[str] = []
    assert choose(tmp_path, NOW, NOTHING, said.append) is None, "there is no other: it may be all that is left"
    assert "checkpoint-10 is set aside as checkpoint-10.unfinished: it was never finished" in said[0]
    aside = tmp_path / "checkpoint-10.unfinished"
    make(tmp_path, 5)
    rotate(tmp_path, keep=2, best=None, verified=set())
    assert aside.is_dir(), "the one that came further stays"
    make(tmp_path, 10)
    rotate(tmp_path, keep=2, best=None, verified=set())
    assert not aside.exists()


def test_it_goes_for_room_only_where_a_whole_one_stands(tmp_path: Path) -> None:
    aside = make(tmp_path, 10, finished=False).rename(tmp_path / "checkpoint-10.unfinished")
    too_much = shutil.disk_usage(tmp_path).free + (1 << 40)
    with pytest.raises(DiskFailed):
        need_room(tmp_path, too_much, "the files of a checkpoint")
    assert aside.is_dir()
    make(tmp_path, 5)
    with pytest.raises(DiskFailed):
        need_room(tmp_path, too_much, "the files of a checkpoint")
    assert not aside.exists()


def test_one_damaged_after_another_is_stepped_over_to_the_newest_whole_one(tmp_path: Path) -> None:
    good = make(tmp_path, 5)
    for step in (10, 15, 20):
        flip(make(tmp_path, step))
    said: list[str] = []
    assert choose(tmp_path, NOW, NOTHING, said.append) == Resume(good)
    assert [line.split()[0] for line in said] == ["checkpoint-20", "checkpoint-15", "checkpoint-10"]
    assert choose(tmp_path, NOW, NOTHING, said.append) == Resume(good) and len(said) == 3, "what was set aside stays so"


def test_the_manifest_names_every_file_but_itself_and_all_that_a_resume_compares(tmp_path: Path) -> None:
    manifest = read_json(make(tmp_path, 5) / "MANIFEST.json")
    assert sorted(manifest["files"]) == ["deep/figures.npy", "model.safetensors", "optimizer.pt", "scheduler.pt"]
    assert manifest["files"]["model.safetensors"]["bytes"] == 1024
    assert {key: manifest[key] for key in ("settings", "recipe", "world_size", "engine", "code", "versions")} == {
        "settings": NOW.settings,
        "recipe": "recipe",
        "world_size": 1,
        "engine": "none",
        "code": "code",
        "versions": {"torch": "2"},
    }
    assert len(manifest["fingerprint"]) == 32


def test_facts_name_libraries_and_code() -> None:
    now = Facts.now({}, {}, 2)
    assert now.versions["torch"] == torch.__version__ and len(now.code) == 32
    assert (now.world_size, now.engine) == (2, "none")


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        make(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-5"]


# ------------------------------------------------------------------------------------------- changed settings


def test_a_changed_setting_is_shown_and_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    with pytest.raises(UserError) as refused:
        choose(tmp_path, facts(learning_rate=0.2), NOTHING, print)
    sentence = str(refused.value)
    assert "learning_rate: 0.1 → 0.2" in sentence
    assert "--allow learning_rate " in sentence and "--allow restart" in sentence and str(held) in sentence
    assert damage(held) is None


def test_a_change_that_is_allowed_by_name_goes_on(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    said: list[str] = []
    found = choose(tmp_path, facts(learning_rate=0.2), frozenset({"learning_rate", "seed"}), said.append)
    assert found == Resume(held, changed=("learning_rate",))
    assert said == ["checkpoint-5 goes on with changed settings, as allowed: learning_rate: 0.1 → 0.2"]


def test_one_of_two_changes_allowed_is_not_enough(tmp_path: Path) -> None:
    make(tmp_path, 5)
    with pytest.raises(UserError, match="--allow learning_rate,seed to go on"):
        choose(tmp_path, facts(learning_rate=0.2, seed=1), frozenset({"learning_rate"}), print)


def test_a_change_of_shape_can_only_begin_anew(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    with pytest.raises(UserError, match=r"rank: 8 → 4\); take the change back, or add --allow restart") as refused:
        choose(tmp_path, facts(rank=4), NOTHING, print)
    assert "rank cannot change in the middle of a part" in str(refused.value)
    said: list[str] = []
    assert choose(tmp_path, facts(rank=4), frozenset({"restart"}), said.append) is None
    assert not held.exists() and "begins anew (--allow restart; rank: 8 → 4)" in said[0]


def test_a_part_before_that_was_made_anew_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    said: list[str] = []
    assert choose(tmp_path, facts(before="b"), NOTHING, said.append) is None
    assert not held.exists() and "the part before was made anew" in said[0]


def test_another_number_of_processes_is_refused_and_shards_cannot_change_it_at_all(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    with pytest.raises(UserError, match=r"world_size: 1 → 2.*--allow world_size"):
        choose(tmp_path, facts(world_size=2), NOTHING, print)
    allowed = frozenset({"world_size"})
    assert choose(tmp_path, facts(world_size=2), allowed, print) == Resume(held, changed=("world_size",))
    shutil.rmtree(held)
    make(tmp_path, 5, facts(engine="DeepSpeed ZeRO-2"))
    with pytest.raises(UserError, match="world_size cannot change in the middle"):
        choose(tmp_path, facts(world_size=2, engine="DeepSpeed ZeRO-2"), allowed, print)


def test_other_code_and_libraries_are_said(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    said: list[str] = []
    changed = Facts(NOW.settings, "recipe", 1, "none", "other", {"torch": "3"})
    assert choose(tmp_path, changed, NOTHING, said.append) == Resume(held)
    assert "another state of this package's code" in said[0] and "torch 2 → 3" in said[1]


def test_names_after_allow_are_checked() -> None:
    assert parse_allowed(["learning_rate, seed", "restart"]) == {"learning_rate", "seed", "restart"}
    assert allow_option(frozenset({"seed", "data"})) == ["--allow=data,seed"] and allow_option(NOTHING) == []
    with pytest.raises(UserError, match="nothing is called rank; known are restart, weights-only, learning_rate"):
        parse_allowed(["rank"])


# ------------------------------------------------------------------------------------------- missing state


def test_the_last_checkpoint_without_its_optimizer_is_refused_unless_allowed(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    (held / "optimizer.pt").unlink()
    assert lacking(held) == ("optimizer.pt",)
    with pytest.raises(UserError, match=r"lacks optimizer\.pt, and no older checkpoint is whole.*--allow weights-only"):
        choose(tmp_path, NOW, NOTHING, print)
    assert held.is_dir(), "a refusal changes nothing"
    said: list[str] = []
    found = choose(tmp_path, NOW, frozenset({"weights-only"}), said.append)
    assert found == Resume(held, lacking=("optimizer.pt",)) and "goes on without optimizer.pt" in said[0]


def test_damage_beside_a_missing_optimizer_is_damage(tmp_path: Path) -> None:
    held = make(tmp_path, 5)
    (held / "optimizer.pt").unlink()
    flip(held)
    assert lacking(held) == ()
    assert choose(tmp_path, NOW, frozenset({"weights-only"}), print) is None
    assert (tmp_path / "checkpoint-5.damaged").is_dir()


# ------------------------------------------------------------------------------------------- pickles, rotation, room


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        import os

        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "global_step5/zero_pp_rank_0_optim_states.pt"])
def test_a_pickle_that_asks_for_foreign_code_is_set_aside_unopened(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    good, bad = make(tmp_path / "held", 5), make(tmp_path / "held", 10, finished=False)
    (bad / name).parent.mkdir(exist_ok=True)
    torch.save(Hostile(canary), bad / name)
    write_manifest(bad, NOW.as_dict())  # whoever can write the file can write its hash too
    said: list[str] = []
    assert choose(tmp_path / "held", NOW, NOTHING, said.append) == Resume(good)
    assert "asks for posix.system" in said[0] and not canary.exists()
    torch.load(tmp_path / "held" / "checkpoint-10.damaged" / name, weights_only=False)
    assert canary.exists(), "the payload would have run"


def test_rotation_counts_whole_ones_and_keeps_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        make(tmp_path, step)
    make(tmp_path, 6, finished=False)
    flip(tmp_path / "checkpoint-5")
    verified: set[str] = set()
    rotate(tmp_path, keep=2, best=str(tmp_path / "checkpoint-1"), verified=verified)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (1, 3, 4, 5, 6)]
    assert verified == {"checkpoint-3", "checkpoint-4"}, "a damaged one is no reason to remove a whole one"


def test_too_little_room_is_told_before_training_with_the_bytes(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFailed, match=r"3 more checkpoints of .* MB take [\d,]+ bytes and [\d,]+ are free") as full:
        check_room(tmp_path / "later" / "checkpoints", each=free, keep=2, saves=9)
    assert full.value.status == 74
    check_room(tmp_path, each=free // 2, keep=2, saves=1)
