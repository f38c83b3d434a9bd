"""The backup of a run in a folder and on a real S3 server: copied whole, only what changed, brought back verified."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from shridhar_ft.backup.beside import backing_up
from shridhar_ft.backup.contents import ARCHIVE, OWNER, pack, small_files, unpack
from shridhar_ft.backup.mirror import Mirror
from shridhar_ft.backup.pull import pull
from shridhar_ft.backup.store import Store, check_place
from shridhar_ft.checkpoint import MANIFEST, write_manifest
from shridhar_ft.config import load_recipe
from shridhar_ft.errors import UserError
from shridhar_ft.progress import quiet
from shridhar_ft.runfolder import PART, Run, fingerprint, write_json


class Lines(list):
    """Collects what is said."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def checkpoint(run: Path, step: int, part: str = "stages/8k", best: int | None = None, size: int = 4000) -> Path:
    """A whole checkpoint whose files are not real weights: the backup reads names, sizes and hashes."""
    folder = run / part / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(size))
    (folder / "optimizer.pt").write_bytes(os.urandom(size))
    named = f"runs/r/{part}/checkpoints/checkpoint-{best}" if best else None
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_model_checkpoint": named}))
    write_manifest(folder, {"settings": {"step": step}})
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder `runs/r` with texts beside what may travel; the working folder is its parent's."""
    monkeypatch.chdir(tmp_path)
    root = Path("runs/r")
    stages = [{"name": "8k", "context": 64}, {"name": "32k", "context": 128}]
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "stages": stages, "sft": {"rank": 8}}))
    write_json(root / "status.json", {"status": None, "part": "pretrain"})
    for private in ("data/train/rows.arrow", "stages/8k/windows/train/data.arrow", "sft/receipts/mask.json"):
        (root / private).parent.mkdir(parents=True, exist_ok=True)
        (root / private).write_text("частный разговор")
    write_json(root / "stages/8k/non_finite_batch_rank0.json", {"input_ids": [[1]]})
    write_json(root / "stages/8k/receipts/rope.json", {"ok": True})
    (root / "stages/8k/metrics.jsonl").write_text('{"step": 1, "loss": 5.0}\n')
    return root


class Failing:
    """A real S3 server's application that refuses the first so many uploads of a name."""

    def __init__(self, application) -> None:
        self.application, self.name, self.left = application, "", 0

    def __call__(self, environ, start_response):
        if self.left and environ["REQUEST_METHOD"] == "PUT" and self.name in environ["PATH_INFO"]:
            self.left -= 1
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return self.application(environ, start_response)


@pytest.fixture(scope="module")
def s3_server():
    """The address of an S3 server on this machine, and what makes it fail."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'shridhar_ft[cloud]'")
    pytest.importorskip("moto.server", reason="no S3 server here: pip install 'moto[server]'")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    failing = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failing, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", failing
    server.shutdown()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where backups go: a folder, or a bucket of a real server."""
    if request.param == "folder":
        return str(tmp_path / "far")
    address, _ = request.getfixturevalue("s3_server")
    settings = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for key, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    bucket = f"b{os.urandom(6).hex()}"
    Store(f"s3://{bucket}").fs.mkdir(bucket)
    return f"s3://{bucket}/backups"


def names(store: Store, folder: str = "") -> set[str]:
    return set(store.children(folder))


# ------------------------------------------------------------------------------------------------ what is copied


def test_a_run_goes_there_and_comes_back_and_no_text_of_a_person_with_it(run: Path, place: str, tmp_path: Path) -> None:
    kept = checkpoint(run, 20)
    said = Lines()
    mirror = Mirror(run, place, said)
    mirror.update(last=True)
    assert mirror.pending() == []
    assert "stages/8k/checkpoints/checkpoint-20 is copied" in said.text
    store = Store(place).below("r")
    everything = b"".join(unpack(store.read(ARCHIVE), place).values())
    assert b"\xd1\x87\xd0\xb0\xd1\x81\xd1\x82" not in everything
    assert names(store, "stages/8k") == {"checkpoints"}
    assert names(store) == {ARCHIVE, OWNER, "stages"}

    made = pull(place, None, tmp_path / "back", said)
    assert made["checkpoint"] == "stages/8k/checkpoints/checkpoint-20" and made["finished"] == []
    back = tmp_path / "back" / "r"
    for file in kept.iterdir():
        assert (back / made["checkpoint"] / file.name).read_bytes() == file.read_bytes()
    assert (back / "stages/8k/metrics.jsonl").read_bytes() == (run / "stages/8k/metrics.jsonl").read_bytes()
    assert not (back / "data").exists() and not (back / "sft/receipts/mask.json").exists()
    assert [path.name for path in back.parent.iterdir()] == ["r"]
    with pytest.raises(UserError, match="never writes over a run"):
        pull(place, "r", tmp_path / "back", quiet)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_rotation_and_the_newest_one_wins(run: Path, place: str) -> None:
    store = Store(place).below("r")
    mirror = Mirror(run, place, quiet)
    first = checkpoint(run, 10)
    mirror.update()
    for step in (20, 30, 40):  # saved while the first one was on its way
        checkpoint(run, step, best=20 if step == 40 else None)
    shutil.rmtree(first)
    unfinished = run / "stages/8k/checkpoints/checkpoint-50"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    mirror.update()
    found = names(store, "stages/8k/checkpoints")
    assert found == {"checkpoint-40", "checkpoint-20"}, "the newest, the best that it names, and no older one"


def test_the_old_one_stays_there_until_the_newer_is_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "far")
    mirror = Mirror(run, place, quiet)
    old = checkpoint(run, 10)
    mirror.update()
    checkpoint(run, 20)
    shutil.rmtree(old)
    whole = Store.put

    def fails(self: Store, source: Path, name: str) -> None:
        if "optimizer" in name:
            raise OSError("the line is down")
        whole(self, source, name)

    monkeypatch.setattr(Store, "put", fails)
    with pytest.raises(OSError, match="the line is down"):
        mirror.update()
    far = tmp_path / "far/r/stages/8k/checkpoints"
    assert (far / "checkpoint-10" / MANIFEST).is_file() and not (far / "checkpoint-20" / MANIFEST).exists()
    made = pull(place, None, tmp_path / "back", said := Lines())
    assert made["checkpoint"].endswith("checkpoint-10") and "never copied to its end" in said.text
    monkeypatch.setattr(Store, "put", whole)
    before = (far / "checkpoint-20/model.safetensors").stat().st_mtime_ns
    mirror.update()
    assert (far / "checkpoint-20/model.safetensors").stat().st_mtime_ns == before, "what arrived is not sent again"
    assert not (far / "checkpoint-10").exists()


def test_finished_parts_travel_as_weights_and_damaged_ones_are_not_taken(run: Path, place: str, tmp_path: Path) -> None:
    checkpoint(run, 10)
    weights = run / "stages/8k/model"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(os.urandom(3000))
    write_json(run / "stages/8k" / PART, {"fingerprint": "f", "hash": "h", "seconds": 1, "checkpoint": "checkpoint-10"})
    checkpoint(run, 5, "stages/32k")
    checkpoint(run, 7, "stages/32k")
    write_json(run / "sft" / PART, {"fingerprint": "f", "hash": "h", "seconds": 1})
    mirror = Mirror(run, place, quiet)
    mirror.update(last=True)
    again = Mirror(run, place, said := Lines())  # another process, later
    again.update(last=True)
    assert "is copied" not in said.text, "nothing has changed"

    made = pull(place, "r", tmp_path / "one", quiet)
    assert made["finished"] == ["stages/8k"] and made["checkpoint"] == "stages/32k/checkpoints/checkpoint-7"
    brought = tmp_path / "one/r/stages/8k"
    assert [p.name for p in (brought / "model").iterdir()] == ["model.safetensors"]
    assert not (brought / "checkpoints").exists(), "the next stage takes over nothing but weights"

    store = Store(place).below("r")
    store.write("stages/32k/checkpoints/checkpoint-7/optimizer.pt", b"x" * 4000)
    store.write("stages/8k/model/model.safetensors", b"x" * 3000)
    made = pull(place, "r", tmp_path / "two", told := Lines())
    assert made["finished"] == [] and made["checkpoint"] == "stages/8k/checkpoints/checkpoint-10"
    assert "stages/8k/model is damaged" in told.text and not (tmp_path / "two/r/stages/8k" / PART).exists()
    assert not (tmp_path / "two/r/sft" / PART).exists(), "it would count as finished, and has no weights"
    store.write("stages/8k/model/model.safetensors", (weights / "model.safetensors").read_bytes())
    made = pull(place, "r", tmp_path / "three", told := Lines())
    assert made["checkpoint"] is None, "the older one was never begun, as the newest was there first"
    assert "checkpoint-7 is damaged (optimizer.pt is not what was written" in told.text
    assert (tmp_path / "three/r/stages/32k/checkpoints/checkpoint-7.damaged").is_dir()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_damaged_checkpoint_is_not_copied_and_keeps_no_other_from_going(run: Path, place: str) -> None:
    damaged, _ = checkpoint(run, 10), checkpoint(run, 10, "stages/32k")
    (damaged / "optimizer.pt").write_bytes(b"x" * 4000)
    mirror = Mirror(run, place, quiet)
    with pytest.raises(OSError, match="not what the manifest says"):
        mirror.update()
    store = Store(place).below("r")
    assert store.read(f"stages/32k/checkpoints/checkpoint-10/{MANIFEST}") is not None
    assert store.read(f"stages/8k/checkpoints/checkpoint-10/{MANIFEST}") is None


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_another_run_of_the_same_name_takes_nothing_away(run: Path, place: str) -> None:
    checkpoint(run, 10)
    Mirror(run, place, quiet).update()
    (run / "backup.json").unlink()
    with pytest.raises(UserError, match="did not begin in"):
        Mirror(run, place, quiet).check_owner()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_second_machine_that_goes_on_ends_the_first_ones_copies(run: Path, place: str) -> None:
    first = Mirror(run, place, quiet)
    first.update(last=True)
    second = Mirror(run, place, quiet)
    second.update(last=True)
    checkpoint(run, 10)
    with pytest.raises(UserError, match="goes on with this run"):
        first.update()
    second.update()
    assert second.pending() == []


def test_a_truncated_upload_does_not_stand(run: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(place)
    source = run / "big.bin"
    source.write_bytes(os.urandom(5000))
    whole = store.fs.put_file

    def cut(from_: str, to: str) -> None:
        short = run / "short.bin"
        short.write_bytes(Path(from_).read_bytes()[:1234])
        whole(str(short), to)

    monkeypatch.setattr(store.fs, "put_file", cut)
    with pytest.raises(OSError, match="1234 bytes instead of 5000"):
        store.put(source, "big.bin")
    assert store.read("big.bin") is None


def test_the_archive_of_small_files_is_verified(run: Path) -> None:
    content = pack(small_files(run))
    assert unpack(content, "there").keys() == small_files(run).keys()
    broken = bytearray(content)
    broken[len(content) // 3] ^= 0xFF
    with pytest.raises(UserError, match="is damaged"):
        unpack(bytes(broken), "there")


def test_places_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="ftp:// is not known"):
        check_place("ftp://here", "train.backup")
    monkeypatch.setattr("shridhar_ft.backup.store.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"s3:// needs s3fs; run `pip install 'shridhar_ft\[cloud\]'`"):
        check_place("s3://bucket", "train.backup")
    check_place("/some/where", "train.backup")


@pytest.mark.parametrize("where", ["runs", "runs/r", "runs/r/stages"])
def test_the_run_is_not_its_own_backup(run: Path, where: str) -> None:
    kept = {path for path in run.rglob("*") if path.is_file()}
    recipe = load_recipe("demo", ["name=r", f"train.backup={run.parent.parent / where}"])
    with pytest.raises(UserError, match="where the run itself lies"), backing_up(recipe, Run(run), quiet):
        raise AssertionError("it began")
    assert kept <= set(run.rglob("*"))


# -------------------------------------------------------------------------------------------- beside a training


def recipe_for(place: str, wait: str = "30s"):
    return load_recipe("demo", ["name=r", f"train.backup={place}", f"train.backup_wait={wait}"])


@pytest.mark.slow
def test_the_child_copies_beside_the_training_and_is_waited_for(run: Path, place: str) -> None:
    said = Lines()
    with backing_up(recipe_for(place), Run(run), said):
        checkpoint(run, 10)
    assert "checkpoint-10 is copied" in said.text and "not copied yet" not in said.text
    assert names(Store(place).below("r"), "stages/8k/checkpoints") == {"checkpoint-10"}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_server_that_fails_is_tried_again_and_told(run: Path, s3_server: tuple, place: str) -> None:
    failing = s3_server[1]
    failing.name, failing.left = "checkpoint-10", 2
    said = Lines()
    with backing_up(recipe_for(place), Run(run), said):
        checkpoint(run, 10)
    assert failing.left == 0
    assert "trying again in 2 s" in said.text and "checkpoint-10 is copied" in said.text, said.text


@pytest.mark.slow
def test_what_is_not_there_at_the_end_is_said(run: Path, tmp_path: Path) -> None:
    (tmp_path / "far").write_text("a file, where a folder should be")
    said = Lines()
    with backing_up(recipe_for(str(tmp_path / "far"), "4s"), Run(run), said):
        checkpoint(run, 10)
    assert "not copied yet: " in said.text and "trying again" in said.text


@pytest.mark.slow
def test_the_copy_goes_on_when_the_training_is_killed(run: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from shridhar_ft.backup.beside import backing_up;"
        "from shridhar_ft.config import load_recipe; from shridhar_ft.runfolder import Run\n"
        f"recipe = load_recipe('demo', ['name=r', 'train.backup={tmp_path / 'far'}', 'train.backup_wait=30s'])\n"
        "with backing_up(recipe, Run(Path('runs/r')), print):\n    print('up', flush=True); time.sleep(100)"
    )
    training = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert training.stdout is not None
    assert training.stdout.readline() == "up\n"
    checkpoint(run, 10)
    training.send_signal(signal.SIGKILL)
    training.wait()
    manifest = tmp_path / "far/r/stages/8k/checkpoints/checkpoint-10" / MANIFEST
    until = time.monotonic() + 60
    while not manifest.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    made = pull(str(tmp_path / "far"), "r", tmp_path / "back", quiet)
    assert made["checkpoint"] == "stages/8k/checkpoints/checkpoint-10"


@pytest.mark.parametrize(
    ("to", "leaves"),
    [
        ("https://hooks.example.org/services/T0/B0/s3cret", False),
        ("https://u:s3cret@example.org/$TOPIC", False),
        ("https://example.org/$TOPIC?token=s3cret", False),
        ("curl -H 'Authorization: Bearer s3cret' -d @- https://example.org", False),
        ("https://example.org/$TOPIC?token=${TOKEN}", True),
        ('curl -H "Authorization: Bearer $TOKEN" -d @- https://example.org', True),
    ],
)
def test_a_token_of_notify_does_not_travel(run: Path, tmp_path: Path, to: str, leaves: bool) -> None:
    settings = {"name": "r", "stages": [{"name": "8k", "context": 64}], "train": {"notify": to, "log_every": 3}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
    resume = shlex.join(["accelerate", "launch", "-m", "shridhar_ft.sft", "r.yaml", f"train.notify={to}", "seed=1"])
    write_json(run / "status.json", {"status": 75, "part": "sft", "resume": resume})
    said = Lines()
    Mirror(run, str(tmp_path / "far"), said).update(last=True)
    held = unpack(Store(str(tmp_path / "far/r")).read(ARCHIVE), "far")
    kept = yaml.safe_load(held["recipe.yaml"])["train"]
    assert kept == {"notify": to if leaves else None, "log_every": 3}
    assert leaves or not any(b"s3cret" in content for content in held.values())
    assert ("train.notify is left out of the copied recipe" in said.text) is not leaves
    assert json.loads(held["status.json"])["resume"].endswith("r.yaml seed=1") is not leaves
    assert yaml.safe_load((run / "recipe.yaml").read_text())["train"]["notify"] == to, "here it stays"


def test_small_files_are_the_same_for_the_same_run(run: Path) -> None:
    marks = {fingerprint({name: held.hex() for name, held in small_files(run).items()}) for _ in range(2)}
    assert len(marks) == 1
