"""SkyPilot task files for Lambda, AWS and GCP."""

import json
import shlex

from shridhar_ft.cloud.target import WITH_SPOT, Target
from shridhar_ft.cloud.uploads import data_bytes, data_paths, mounts, requirements
from shridhar_ft.cloud.words import block, comment, head, run_lines
from shridhar_ft.errors import Resumable
from shridhar_ft.nodes import HEAD, NODE

IDLE_MINUTES = 10
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
            f"name: {target.recipe.name.lower().replace('.', '-').replace('_', '-')}",
            *_resources(target),
            f"num_nodes: {target.nodes}",
            "envs:",
            "  # s3://bucket/folder or gs://bucket/folder, of your own: --env BACKUP=…",
            "  BACKUP: null",
            *_mounts(target),
            "setup: |",
            *block(_setup(target)),
            "run: |",
            *block(_run(target)),
            "",
        ]
    )


def _how_to(target: Target, file: str) -> list[str]:
    name = target.recipe.name
    file = shlex.quote(file)
    start = f"sky jobs launch -n {name} --env BACKUP=s3://my-bucket/runs {file}"
    going_on = (
        "A preempted machine is replaced, and a run that stopped with status 75 is started again, from the last "
        "checkpoint in the bucket; any other status ends the job (1, 2, 65, 74: mend it; 76: the budget is spent)."
    )
    if target.cloud not in WITH_SPOT:
        start = f"sky launch -c {name} --env BACKUP=s3://my-bucket/runs {file}"
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
        "command -v uv >/dev/null || python3 -m pip install --user --quiet uv",
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
