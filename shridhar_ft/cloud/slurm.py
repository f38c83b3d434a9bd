"""sbatch scripts: stopped before the limit, requeued where a run can go on, and never where it cannot."""

import shlex

from shridhar_ft.cloud.target import Target
from shridhar_ft.cloud.uploads import data_paths, requirements
from shridhar_ft.cloud.words import comment, head, run_lines
from shridhar_ft.errors import Resumable
from shridhar_ft.nodes import HEAD, NODE

LIMIT = "24:00:00"
LEAST_MARGIN = 900  # seconds before the limit at which the run is to have begun its last step


def script(target: Target, made_by: str, file: str) -> str:
    """An sbatch script.

    Args:
        target: What runs where.
        made_by: The command line that writes it.
        file: Its path, for the commands in its head.
    """
    margin = max(LEAST_MARGIN, int(3 * max(part.step_seconds for part in target.plan.parts)))
    return "\n".join(
        [
            "#!/bin/bash",
            *head(target, made_by),
            "#",
            *_how_to(target, file),
            *_directives(target, margin // 2),
            "",
            "set -u",
            *_venv(target),
            "",
            *_limit(margin),
            "",
            *(_on_one(target) if target.nodes == 1 else _on_several(target)),
            "",
            *_ending(),
            "",
        ]
    )


def _how_to(target: Target, file: str) -> list[str]:
    return [
        "# Once, on a machine with a way to the internet, in the folder where the jobs start (all machines see it):",
        "#",
        f"#   python3 -m venv .venv && .venv/bin/pip install {requirements(target)}",
        f"#   sbatch {shlex.quote(file)}",
        "#   scancel --batch --signal=USR1 JOBID",
        "#",
        *comment(
            "Add --partition, --account and --time as your cluster wants them. The signal saves now and has the job "
            "requeued; scancel alone ends it for good."
        ),
        *comment(
            f"Your texts are read where they lie ({', '.join(data_paths(target)) or 'with the recipe'}); "
            "nothing is uploaded."
        ),
        *comment("BACKUP=s3://bucket/folder sbatch … copies verified checkpoints there too (train.backup)."),
    ]


def _directives(target: Target, warning: int) -> list[str]:
    name = target.recipe.name
    return [
        f"#SBATCH --job-name={name}",
        f"#SBATCH --nodes={target.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={target.machine.devices}",
        "#SBATCH --exclusive",
        "#SBATCH --mem=0",
        f"#SBATCH --time={LIMIT}",
        "# To this script alone (B:), which passes it to the run once: a second signal would break off the save.",
        f"#SBATCH --signal=B:TERM@{warning}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={name}-%j.out",
    ]


def _venv(target: Target) -> list[str]:
    return [
        'cd "${SLURM_SUBMIT_DIR:-.}" || exit 2',
        "if [ ! -f .venv/bin/activate ]; then",
        f'  echo "no $PWD/.venv: python3 -m venv .venv && .venv/bin/pip install {requirements(target)}" >&2',
        "  exit 2",
        "fi",
        ". .venv/bin/activate",
    ]


def _limit(margin: int) -> list[str]:
    hours, minutes, seconds = (int(part) for part in LIMIT.split(":"))
    return [
        *comment(
            "The run stops itself, with a checkpoint, before the limit of the job does: Slurm says when that is "
            "(SLURM_JOB_END_TIME, from 22.05 on; before that --time above has to be the limit here)."
        ),
        "now=$(date +%s)",
        f"left=$(( ${{SLURM_JOB_END_TIME:-$(( now + {hours * 3600 + minutes * 60 + seconds} ))}} - now - {margin} ))",
        'if [ "$left" -lt 60 ]; then echo "the job\'s limit leaves no time to train; raise --time" >&2; exit 2; fi',
    ]


def _settings() -> tuple[str, ...]:
    return ('train.stop_after="${left}s"', '${BACKUP:+"train.backup=$BACKUP"}')


def _on_one(target: Target) -> list[str]:
    run = run_lines(target, *_settings())
    return [
        "trainer=",
        *_trap('${trainer:+kill -TERM "$trainer"}'),
        *run[:-1],
        f"{run[-1]} &",
        "trainer=$!",
        *_wait("trainer"),
    ]


def _on_several(target: Target) -> list[str]:
    run = run_lines(target, *_settings(), indent="    ")
    return [
        "# The first machine's run and its status, beside the run folder that all machines share.",
        'place="runs/.slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
        'mkdir -p "$place"',
        f'export {HEAD}; {HEAD}=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        *comment("One signal to one process is enough: all ranks vote. srun would send it to every process at once."),
        *_trap('[ -f "$place/pid" ] && kill -TERM "$(cat "$place/pid")"'),
        "srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '",
        f'  export {NODE}="$SLURM_NODEID"',
        f'  [ "${NODE}" = 0 ] || exec "$@"',
        '  "$@" & echo $! > "$0/pid"',
        '  wait $!; status=$?; echo "$status" > "$0/status"; exit "$status"',
        f'\' "$place" {run[0]}',
        *run[1:-1],
        f"{run[-1]} &",
        "steps=$!",
        *_wait("steps"),
        'status=$(cat "$place/status" 2>/dev/null || echo "$status")',
        'rm -rf "$place"',
    ]


def _trap(then: str) -> list[str]:
    return [
        f'stop() {{ asked=1; echo "asked to stop: saving at the end of the step"; {then}; }}',
        "trap stop TERM USR1",
    ]


def _wait(child: str) -> list[str]:
    return [
        "# A signal ends `wait`, not the run: wait again then.",
        "while asked=; do",
        f'  wait "${child}"; status=$?',
        '  [ -n "$asked" ] || break',
        "done",
    ]


def _ending() -> list[str]:
    return [
        'echo "shridhar-ft run ended with status $status"',
        'case "$status" in',
        f'  {Resumable.status}) scontrol requeue "$SLURM_JOB_ID" ;;  # stopped with a checkpoint: goes on from it',
        '  76) echo "the budget is spent: raise budget.max_usd to go on" ;;',
        "esac",
        *comment(
            "0 done; 1 a receipt, 2 the input, 65 not a number, 74 the disk, 76 the budget: beginning again mends none."
        ),
        'exit "$status"',
    ]
