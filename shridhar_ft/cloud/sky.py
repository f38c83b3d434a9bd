"""SkyPilot task files for Lambda, AWS and GCP."""

import json
import re
import shlex
from collections.abc import Iterator

import yaml

from shridhar_ft.addresses import named_in
from shridhar_ft.cloud.target import WITH_SPOT, Target
from shridhar_ft.cloud.uploads import data_bytes, data_paths, mounts, requirements
from shridhar_ft.cloud.words import block, comment, head, run_lines
from shridhar_ft.config import is_a_path
from shridhar_ft.errors import Resumable
from shridhar_ft.nodes import HEAD, NODE

IDLE_MINUTES = 10
SERVICES = {"wandb": "WANDB_API_KEY", "mlflow": "MLFLOW_TRACKING_URI"}  # what a service of report_to reads
UV = "https://astral.sh/uv/install.sh"
HUB_TOKEN = "HF_TOKEN"  # without one, what is public comes too
HOME = "~/shridhar-ft"  # what lies in the working folder here lies there


def task(target: Target, made_by: str, file: str) -> str:
    """A task file.

    Args:
        target: What runs where.
        made_by: The command line that writes it.
        file: Its path, for the commands in its head.
    """
    return "\n".join(
        [
            *head(target, made_by),
            "#",
            *_how_to(target, file),
            f"name: {_as_yaml(cluster_name(target.recipe.name))}",
            *_resources(target),
            f"num_nodes: {target.nodes}",
            "envs:",
            "  # s3://bucket/folder or gs://bucket/folder, of your own: --env BACKUP=…",
            "  BACKUP: null",
            *(line for variable in _variables(target) for line in _variable(*variable)),
            *_mounts(target),
            "setup: |",
            *block(_setup(target)),
            "run: |",
            *block(_run(target)),
            "",
        ]
    )


def cluster_name(run: str) -> str:
    """A run's name as SkyPilot and the clouds take one of a cluster or a job: a-z, 0-9 and -, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")


def _as_yaml(name: str) -> str:
    """A name such as `on`, which YAML reads as something else, in quotes."""
    return name if yaml.safe_load(name) == name else json.dumps(name)


def _variables(target: Target) -> Iterator[tuple[str, bool]]:
    """Variables of the environment here that the run there reads, and whether it cannot do without."""
    recipe = target.recipe
    for name in named_in(recipe.train.notify or ""):
        yield name, True
    yield from ((SERVICES[service], True) for service in recipe.train.report_to if service in SERVICES)
    of_hub = recipe.model.base is not None and not is_a_path(recipe.model.base)
    if of_hub or recipe.export.push_to_hub or any(rows.hub for rows in (*recipe.data.texts, *recipe.data.dialogues)):
        yield HUB_TOKEN, recipe.export.push_to_hub is not None


def _variable(name: str, needed: bool) -> list[str]:
    """A variable as SkyPilot asks for it, or as it may be given."""
    if needed:
        return [f"  {name}: null"]
    return [f"  # For what the Hub gives to some only: --env {name}", f'  {name}: ""']


def _how_to(target: Target, file: str) -> list[str]:
    name, cluster = target.recipe.name, cluster_name(target.recipe.name)
    file = shlex.quote(file)
    brought = "".join(f" --env {variable}" for variable, needed in _variables(target) if needed)
    start = f"sky jobs launch -n {cluster} --env BACKUP=s3://my-bucket/runs{brought} {file}"
    going_on = (
        "A preempted machine is replaced, and a run that stopped with status 75 is started again, from the last "
        "checkpoint in the bucket; any other status ends the job (1, 2, 65, 74: mend it; 76: the budget is spent)."
    )
    if target.cloud not in WITH_SPOT:
        start = f"sky launch -c {cluster} --env BACKUP=s3://my-bucket/runs{brought} {file}"
        going_on = (
            f"Lambda has no spot machines and cannot stop one: {IDLE_MINUTES} minutes after the run's end the machine "
            "is given back, with all that is not in the bucket. To go on, after whatever end, give the same command."
        )
    return [
        f"#   {start}",
        f"#   shridhar-ft pull s3://my-bucket/runs {name}     # brings the run home, verified",
        f"#   shridhar-ft export runs/{name}                   # makes the model of it",
        "#",
        *comment(going_on),
    ]


def _resources(target: Target) -> list[str]:
    machine = target.machine
    lines = [f"infra: {target.cloud}", f"accelerators: {machine.sky}:{machine.devices}"]
    if machine.instance:
        lines.append(f"instance_type: {machine.instance}")
    if target.cloud in WITH_SPOT:
        lines += [
            f"use_spot: {str(target.spot).lower()}",
            f"disk_size: {target.disk_gb(data_bytes(data_paths(target)))}",
            "job_recovery:",
            *block([
                "max_restarts_on_errors: 0",
                f"recover_on_exit_codes: [{Resumable.status}]",
            ]),
        ]  # fmt: skip
    lines += [f"autostop: {{idle_minutes: {IDLE_MINUTES}, down: true}}"]
    return ["resources:", *block(lines)]


def _mounts(target: Target) -> list[str]:
    program, data = mounts(target)
    lines = []
    if program:
        lines += [*comment("The program, its recipes and configs."), *map(_mount, program)]
    if data:
        lines += comment(
            "Your own texts and dialogues. They go to the machine that you rent; for a managed job, there through a "
            "bucket that SkyPilot makes in your own account; to nobody else's. The backup has none of them."
        )
        lines += map(_mount, data)
    return ["file_mounts:", *block(lines)] if lines else []


def _mount(path: str) -> str:
    there = path if path.startswith("/") else f"{HOME}/{path}"
    return f"{json.dumps(there, ensure_ascii=False)}: {json.dumps(path, ensure_ascii=False)}"


def _setup(target: Target) -> list[str]:
    return [
        "set -e",
        f"mkdir -p {HOME} && cd {HOME}",
        'export PATH="$HOME/.local/bin:$PATH"',
        "# SkyPilot brings uv; a system's own Python may refuse to install it.",
        f"command -v uv >/dev/null || python3 -m pip install --user --quiet uv || curl -LsSf {UV} | sh",
        "[ -x .venv/bin/python ] || uv venv --python 3.12 --seed .venv",
        "# PyPI's torch for Linux brings CUDA.",
        f"uv pip install --python .venv/bin/python {requirements(target)}",
        ".venv/bin/python -c 'import torch; assert torch.cuda.is_available(), \"torch sees no GPU\"'",
    ]


def _run(target: Target) -> list[str]:
    name = target.recipe.name
    pull = [
        "# A machine that takes the place of another begins with the backup.",
        f'[ -d "runs/{name}" ] || shridhar-ft pull "$BACKUP" {name} || echo "no backup came back: the run begins"',
    ]
    lines = ["set -u", f"cd {HOME}", ". .venv/bin/activate"]
    if target.nodes > 1:
        lines += [*_shared_runs(), 'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then', *block(pull), "fi"]
    else:
        lines += pull
    run = run_lines(target, 'train.backup="$BACKUP"')
    return [*lines, "# Its own exit status is the task's.", f"exec {run[0]}", *run[1:]]


def _shared_runs() -> list[str]:
    """The run folder has to be one folder: the first machine lends its own to the others."""
    return [
        "# The run folder is one for all machines: the first one's, by NFS over their private network.",
        "mkdir -p runs",
        f"export {NODE}=\"$SKYPILOT_NODE_RANK\" {HEAD}=\"$(echo \"$SKYPILOT_NODE_IPS\" | head -n 1)\"",
        'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then',
        *block([
            "sudo apt-get -qq update && sudo apt-get -qq install -y nfs-kernel-server",
            "for address in $(echo \"$SKYPILOT_NODE_IPS\" | tail -n +2); do",
            '  echo "$PWD/runs $address(rw,sync,no_subtree_check,no_root_squash)"',
            "done | sudo tee /etc/exports >/dev/null",
            "sudo exportfs -ra && sudo systemctl restart nfs-kernel-server",
        ]),
        "else",
        *block([
            "sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common",
            f'until mountpoint -q runs || sudo mount -t nfs "${HEAD}:$PWD/runs" runs; do sleep 5; done',
        ]),
        "fi",
    ]  # fmt: skip
