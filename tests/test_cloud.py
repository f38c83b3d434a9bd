"""What `shridhar-ft cloud` writes: structure, refusals, the shipped files, and the sbatch scripts run for real."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from shridhar_ft.cli import run_command
from shridhar_ft.cloud.sky import cluster_name
from shridhar_ft.cloud.target import CLOUDS
from shridhar_ft.plan.machines import machines
from shridhar_ft.shipped import ROOT

TOKENS = ["--book-tokens", "450000", "--dialogue-tokens", "3000000"]
SKY = os.environ.get("SHRIDHAR_FT_SKY_PYTHON")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The checkout as working folder, without machines of this computer's user."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    machines.cache_clear()
    return ROOT


def written(folder: Path, cloud: str, *more: str) -> str:
    arguments = ["cloud", "recipes/shridhar-gpt", "--to", cloud, *TOKENS, "-o", str(folder), *more]
    assert run_command(arguments) == 0
    [file] = [path for path in folder.iterdir() if not path.name.startswith("launch")]
    return file.read_text(encoding="utf-8")


def refused(capsys: pytest.CaptureFixture, *more: str) -> str:
    capsys.readouterr()
    assert run_command(["cloud", "recipes/shridhar-gpt", *TOKENS, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said, "one sentence"
    return said


# ----------------------------------------------------------------------------------------------- the tasks


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="a wheel is no checkout")
@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_shipped_files_are_what_the_command_writes_today(root: Path, cloud: str, tmp_path: Path) -> None:
    [shipped] = (root / "recipes/shridhar-gpt/cloud").glob(f"{cloud}.*")

    def words(text: str) -> list[str]:  # comments break elsewhere where the folder's name is longer
        held = re.sub(r"\n#  ", "", text).replace(f"{tmp_path}/", "recipes/shridhar-gpt/cloud/").split()
        return [word for word in held if word not in ("-o", str(tmp_path))]

    assert words(written(tmp_path, cloud)) == words(shipped.read_text(encoding="utf-8")), (
        f"shridhar-ft cloud recipes/shridhar-gpt --to {cloud} {' '.join(TOKENS)}"
    )


@pytest.mark.parametrize("cloud", ["lambda", "aws", "gcp"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_task_has_what_it_takes(root: Path, cloud: str, nodes: int, tmp_path: Path) -> None:
    task = yaml.safe_load(written(tmp_path, cloud, "--nodes", str(nodes)))
    resources = task["resources"]
    assert resources["infra"] == cloud and task["num_nodes"] == nodes
    name, count = resources["accelerators"].split(":")
    assert name in ("A100", "A100-80GB", "H100") and int(count) >= 1
    assert resources["autostop"] == {"idle_minutes": 10, "down": True}
    if cloud == "lambda":
        assert not {"use_spot", "job_recovery", "instance_type", "disk_size"} & set(resources)
    else:
        assert resources["use_spot"] is True and resources["disk_size"] >= 128
        assert resources["job_recovery"] == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75]}
        [machine] = [found for found in machines().values() if found.instance == resources["instance_type"]]
        assert machine.devices == int(count), "the instance is one of machines.yaml"
    assert task["envs"] == {"BACKUP": None}, "asked for by SkyPilot before anything is rented"
    assert task["file_mounts"]["~/shridhar-ft/data"] == "data"
    assert re.search(r"uv pip install .*'\.\[books,cloud" + (",deepspeed" if nodes > 1 else "") + r"\]'", task["setup"])
    *_, last = task["run"].strip().split("# Its own exit status is the task's.\n")
    assert last.startswith("exec shridhar-ft run recipes/shridhar-gpt ") and 'train.backup="$BACKUP"' in last
    config = "accelerate_configs/multi_node_zero3.yaml" if nodes > 1 else "accelerate_configs/ddp.yaml"
    assert f"launch.config={config}" in last
    assert ("SHRIDHAR_FT_HEAD" in task["run"]) == (nodes > 1)
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_budget_counts_the_price_that_is_paid(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spot, demand = (machines()["gcp-a2-ultragpu-8g"].spot, machines()["gcp-a2-ultragpu-8g"].usd_per_hour)
    more = ["--machine", "gcp-a2-ultragpu-8g"]
    assert f"budget.usd_per_hour={spot} " in written(tmp_path / "spot", "gcp", *more)
    assert f"budget.usd_per_hour={demand} " in written(tmp_path / "demand", "gcp", *more, "--no-spot")
    own = written(tmp_path / "own", "lambda", "budget.usd_per_hour=15")
    assert "budget.usd_per_hour=15.0 " in own
    other = written(tmp_path / "other", "aws", "--machine", "aws-p4de.24xlarge", "budget.usd_per_hour=9")
    assert "budget.usd_per_hour=27" not in other, "what was asked for on this very line is not the recipe's machine's"
    assert "budget does not reach" in written(tmp_path / "small", "lambda", "budget.max_usd=1")
    capsys.readouterr()
    assert (
        run_command(["cloud", "recipes/shridhar-gpt", "--to", "gcp", *TOKENS, *more, "--json", "-o", str(tmp_path)])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["usd"] == pytest.approx(answer["hours"] * spot) and answer["priced"] == "2025-03-06"


def test_a_recipe_that_the_package_brings_is_named_and_not_sent(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["cloud", "shridhar-gpt", "--to", "aws", *TOKENS]) == 0
    task = Path("cloud/aws.yaml").read_text(encoding="utf-8")
    assert "shridhar-ft run shridhar-gpt " in task and str(ROOT) not in task


def test_another_number_of_devices_gets_its_config_and_keeps_the_step(root: Path, tmp_path: Path) -> None:
    more = ["--machine", "gcp-a2-megagpu-16g", "train.gradient_accumulation=4"]
    text = written(tmp_path, "gcp", *more)
    [config] = tmp_path.glob("launch-*")
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["num_processes"] == 16
    assert f"launch.config={config}" in text and "train.gradient_accumulation=2 " in text, "8 × 4 = 16 × 2 windows"


def test_what_cannot_be_is_refused_in_one_sentence(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no such cloud" in refused(capsys, "--to", "azure")
    assert "rents no spot machines" in refused(capsys, "--to", "lambda", "--spot")
    assert "lambda has no such machine; known: lambda-8xa100-80gb" in refused(
        capsys, "--to", "lambda", "--machine", "aws-p4d.24xlarge"
    )
    assert "did you mean 'lambda-8xh100'" in refused(capsys, "--to", "lambda", "--machine", "lambda-8h100")
    large = ["model.from_config.hidden_size=16384", "model.from_config.num_attention_heads=64"]
    assert "GiB are missing" in refused(capsys, "--to", "lambda", *large)
    assert "name a machine like those of your cluster" in refused(capsys, "--to", "slurm", "budget.machine=here")


@pytest.mark.parametrize(
    ("run", "cluster"),
    [
        ("Shelf_8.v2", "shelf-8-v2"),
        ("108k-run-", "run-108k-run"),
        ("-_a__b.-", "a-b"),
        ("Полка", "run"),
        ("Полка 7", "run-7"),
    ],
)
def test_a_cluster_gets_a_name_that_clouds_take(run: str, cluster: str) -> None:
    assert cluster_name(run) == cluster
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", cluster), "SkyPilot's rule, and the clouds' for a machine"


def test_a_task_has_a_valid_name_and_the_run_keeps_its_own(root: Path, tmp_path: Path) -> None:
    text = written(tmp_path / "odd", "aws", "name=108_k-")
    assert yaml.safe_load(text)["name"] == "run-108-k" and "sky jobs launch -n run-108-k " in text
    assert 'pull "$BACKUP" 108_k- ' in text, "in the bucket the run bears its own name"
    assert yaml.safe_load(written(tmp_path / "word", "lambda", 'name="on"'))["name"] == "on", "and not true"
    assert "#SBATCH --job-name=108_k-\n" in written(tmp_path / "slurm", "slurm", "name=108_k-"), "Slurm takes any"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a recipe of its own, beside a shelf that lies outside of it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    machines.cache_clear()
    here = tmp_path / "here"
    for folder in ("here/my/books", "shelf", "home/books"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("текст", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    recipe = yaml.safe_load((ROOT / "recipes/shridhar-gpt/recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "my", "sft": None, "eval": {}}
    recipe["data"] = {"books": {"paths": "books"}}
    Path("my/recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return here


def task_for(paths: str, *more: str) -> tuple[dict, str]:
    """The task of a recipe with these paths of books in its file; and the settings of its run."""
    file = Path("my/recipe.yaml")
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    recipe["data"]["books"]["paths"] = paths
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert run_command(["cloud", "my", "--to", "aws", *TOKENS, "-o", "out", *more]) == 0
    task = yaml.safe_load(Path("out/aws.yaml").read_text(encoding="utf-8"))
    return task["file_mounts"], task["run"]


def test_a_path_in_the_recipe_means_the_same_place_there(shelf: Path) -> None:
    outside = str(shelf.parent / "shelf")
    recipe = {"~/shridhar-ft/my/recipe.yaml": "my/recipe.yaml"}
    below = recipe | {"~/shridhar-ft/my/books": "my/books"}
    for paths in ("books", "books/*.txt", "../my/books"):  # right as they are
        mounts, run = task_for(paths)
        assert mounts == below and "data.books.paths" not in run, paths
    mounts, run = task_for(str(shelf / "my/books"))
    assert mounts == below and 'data.books.paths="my/books"' in run, "that absolute path is not there"
    for paths in ("../../shelf", outside + "/../shelf"):
        mounts, run = task_for(paths)
        assert mounts == recipe | {outside: outside}, paths
        assert f'data.books.paths="{outside}"' in run or paths.startswith("/"), paths
    mounts, run = task_for(outside)
    assert mounts == recipe | {outside: outside} and "data.books.paths" not in run
    home = str(shelf.parent / "home/books")
    mounts, run = task_for("~/books")
    assert mounts == recipe | {home: home} and f'data.books.paths="{home}"' in run, "HOME is another one there"
    mounts, run = task_for("books", "data.books.paths=../shelf/*.txt")
    assert mounts == recipe | {outside: outside} and f'data.books.paths="{outside}/*.txt"' in run
    slurm = ["cloud", "my", "--to", "slurm", "--machine", "lambda-8xa100-80gb", *TOKENS, "-o", "out"]
    assert run_command([*slurm, "data.books.paths=../shelf"]) == 0
    assert run_command(["cloud", "../here/my", "--to", "aws", *TOKENS, "-o", "../out"]) == 0


def test_a_pattern_beside_the_working_folder_takes_its_files_and_not_all_else(shelf: Path) -> None:
    for name in ("one.txt", "two.txt", ".env"):
        Path(name).write_text("текст", encoding="utf-8")
    mounts, _ = task_for("../*.txt")
    assert mounts.keys() == {"~/shridhar-ft/my/recipe.yaml", "~/shridhar-ft/one.txt", "~/shridhar-ft/two.txt"}


def test_what_is_not_on_this_machine_is_named_in_one_sentence(shelf: Path, capsys: pytest.CaptureFixture) -> None:
    lost = ["data.books.paths=[my/books, gone]", "eval.long_text=long/*.txt", "eval.glossary=terms.txt"]
    task_for("books", *lost)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "not on this machine" in line]
    for name in ("data.books.paths: gone", "eval.long_text: long/*.txt", "eval.glossary: terms.txt"):
        assert name in line
    assert "my/books" not in line
    task_for("books", "--json")
    assert json.loads(capsys.readouterr().out)["missing"] is None


def test_what_the_run_reads_of_the_environment_is_asked_for(root: Path, tmp_path: Path) -> None:
    more = ["train.notify=https://ntfy.sh/$TOPIC", "train.report_to=[wandb]", "export.push_to_hub=me/model"]
    text = written(tmp_path, "gcp", *more)
    wanted = {"BACKUP": None, "TOPIC": None, "WANDB_API_KEY": None, "HF_TOKEN": None}
    assert yaml.safe_load(text)["envs"] == wanted
    assert "--env BACKUP=s3://my-bucket/runs --env TOPIC --env WANDB_API_KEY --env HF_TOKEN " in text
    arguments = ["cloud", "recipes/llama3.1-8b", "--to", "gcp", *TOKENS, "-o", str(tmp_path / "base")]
    assert run_command(arguments) == 0
    text = (tmp_path / "base/gcp.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["envs"] == {"BACKUP": None, "HF_TOKEN": ""}, "a gated base's, where it is given"
    assert "--env BACKUP=s3://my-bucket/runs /" in text


def test_it_starts_without_torch(root: Path, tmp_path: Path) -> None:
    arguments = ["cloud", "recipes/shridhar-gpt", "--to", "aws", "-o", str(tmp_path)]
    script = (
        f"import sys; from shridhar_ft.cli import run_command; assert run_command({arguments}) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'accelerate')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SKY, reason="SHRIDHAR_FT_SKY_PYTHON names no Python with SkyPilot (scripts/check_cloud.py)")
def test_skypilot_itself_takes_the_tasks(root: Path, tmp_path: Path) -> None:
    for cloud in ("lambda", "aws", "gcp"):
        for nodes in ("1", "2"):
            written(tmp_path / cloud / nodes, cloud, "--nodes", nodes)
    files = [str(path) for path in tmp_path.glob("*/*/*.yaml")]
    assert len(files) == 6
    done = subprocess.run([str(SKY), "scripts/check_cloud.py", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "6 of 6 right" in done.stdout, done.stdout + done.stderr


# --------------------------------------------------------------------------------- the sbatch scripts, run

# Twins of the commands that a job meets. srun starts one task a node, all on this machine.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
worst=0; tasks=()
for node in $(seq 0 $(( SLURM_JOB_NUM_NODES - 1 ))); do SLURM_NODEID=$node "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task"; status=$?; [ "$status" -gt "$worst" ] && worst=$status; done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node1\\nnode2\\n'; else echo "$*" >> scontrol.log; fi
"""
TRAINER = """#!/bin/bash
echo "node ${SHRIDHAR_FT_NODE:-alone} of ${SHRIDHAR_FT_HEAD:-none}: $*" >> run.log
if [ -n "${UNTIL_SIGNAL:-}" ]; then
  trap 'echo "node ${SHRIDHAR_FT_NODE:-alone}: TERM" >> run.log; touch stopped; exit 75' TERM
  touch started; for _ in $(seq 300); do [ -f stopped ] && exit 75; sleep 0.1; done
fi
exit "$ENDS_WITH"
"""


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def job(request: pytest.FixtureRequest, root: Path, tmp_path: Path):
    """A script and a folder where it can be run as Slurm would run it."""
    nodes = str(request.param)
    script = tmp_path / "script"
    script.write_text(written(tmp_path / "files", "slurm", "--nodes", nodes), encoding="utf-8")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("shridhar-ft", TRAINER)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("", encoding="utf-8")

    def start(**more: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": nodes,
            **more,
        }
        return subprocess.Popen(["bash", str(script)], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    return start, tmp_path, int(nodes)


def requeued(folder: Path) -> list[str]:
    log = folder / "scontrol.log"
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


def test_only_what_can_go_on_is_requeued(job) -> None:
    start, folder, nodes = job
    for status in (0, 75, 76, 1, 2, 65, 74, 137):
        (folder / "scontrol.log").unlink(missing_ok=True)
        (folder / "run.log").unlink(missing_ok=True)
        ended = start(ENDS_WITH=str(status), SLURM_JOB_END_TIME=str(int(time.time()) + 5000))
        ended.communicate(timeout=60)
        assert ended.returncode == status
        assert requeued(folder) == (["requeue 42"] if status == 75 else []), status
        said = (folder / "run.log").read_text(encoding="utf-8").splitlines()
        assert len(said) == nodes, "every machine runs the same command"
        if nodes > 1:
            assert sorted(line.split(":")[0] for line in said) == ["node 0 of node1", "node 1 of node1"]
        seconds = int(re.search(r"train\.stop_after=(\d+)s", said[0]).group(1))  # type: ignore[union-attr]
        assert 4000 < seconds <= 4100, "well before the limit"
        assert "train.backup" not in said[0]
    assert not list((folder / "runs").glob(".slurm-*") if (folder / "runs").is_dir() else [])


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
def test_a_signal_reaches_one_process_once_and_the_job_is_requeued(job, signal: str) -> None:
    start, folder, _ = job
    running = start(ENDS_WITH="1", UNTIL_SIGNAL="1", BACKUP="s3://bucket/runs")
    until = time.monotonic() + 60
    while not (folder / "started").is_file() or not _knows_its_trainer(folder):
        assert time.monotonic() < until
        time.sleep(0.05)
    subprocess.run(["kill", f"-{signal}", str(running.pid)], check=True)  # as B: does, to the script alone
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 75 and "asked to stop" in said
    assert requeued(folder) == ["requeue 42"]
    log = (folder / "run.log").read_text(encoding="utf-8")
    assert log.count(": TERM") == 1 and "train.backup=s3://bucket/runs" in log


def _knows_its_trainer(folder: Path) -> bool:
    """Whether the script can pass a signal on: on several nodes it reads the process from a file."""
    time.sleep(0.3)
    return not (folder / "runs").is_dir() or any((folder / "runs").glob(".slurm-*/pid"))


def test_a_job_that_cannot_begin_says_why(job) -> None:
    start, folder, _ = job
    short = start(ENDS_WITH="0", SLURM_JOB_END_TIME=str(int(time.time()) + 600))
    short.communicate(timeout=60)
    assert short.returncode == 2, "the limit leaves no time"
    (folder / ".venv/bin/activate").unlink()
    bare = start(ENDS_WITH="0")
    bare.communicate(timeout=60)
    assert bare.returncode == 2 and not (folder / "run.log").exists()
