"""Holds what `shridhar-ft cloud` writes against SkyPilot's own schema and parser, offline.

    python -m venv sky && sky/bin/pip install skypilot        # of its own: its dependencies and ours exclude each other
    sky/bin/python scripts/check_cloud.py recipes/shridhar-gpt/cloud/*.yaml

Each task is checked by the JSON schemas of the installed SkyPilot, then made into a `sky.Task` with its resources.
SkyPilot reads the machines that a cloud has from a list on the internet; here it gets one with just the machine that
the task names, so that what is proved is the form of a file, not that a cloud has such a machine.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

COLUMNS = (
    "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,"
    "Arch,LocalDiskType,LocalDiskSize,NVMeSupported,LocalDiskCount"
)


def main(files: list[str]) -> int:
    """Check files; 0 where all are right, 1 where one is not, 2 where there is nothing to check them with."""
    home = Path(tempfile.mkdtemp(prefix="check_cloud_"))
    os.environ |= {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "SKY_RUNTIME_DIR": str(home)}
    tasks = {file: yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in files}
    try:
        import sky
        from sky.skylet import constants
    except ImportError as error:
        print(f"SkyPilot is not installed here ({error}); see the head of {__file__}")
        return 2
    _lists(home, constants.CATALOG_SCHEMA_VERSION, list(tasks.values()))
    wrong = 0
    for file, task in tasks.items():
        try:
            print(f"{file}: {_check(task)}")
        except Exception as error:  # noqa: BLE001 - whatever SkyPilot raises is the answer
            wrong += 1
            print(f"{file}: WRONG: {type(error).__name__}: {error}")
    print(f"{len(files) - wrong} of {len(files)} right by SkyPilot {sky.__version__}")
    return 1 if wrong else 0


def _check(task: dict[str, Any]) -> str:
    import sky
    from sky.utils import common_utils, schemas

    common_utils.validate_schema(dict(task), schemas.get_task_schema(), "task: ")
    common_utils.validate_schema(dict(task["resources"]), schemas.get_resources_schema(), "resources: ")
    asked_for = [(name, "s3://bucket/runs") for name, value in task["envs"].items() if value is None]
    made = sky.Task.from_yaml_config(dict(task), env_overrides=asked_for)
    [resources] = made.resources
    asked = task["resources"]
    name, count = asked["accelerators"].split(":")
    assert resources.accelerators == {name: int(count)}, resources.accelerators
    assert resources.use_spot == asked.get("use_spot", False)
    assert resources.autostop_config.enabled and resources.autostop_config.down, resources.autostop_config
    assert made.num_nodes == task["num_nodes"]
    if "job_recovery" in asked:
        recovery = resources.job_recovery
        assert recovery["recover_on_exit_codes"] == [75] and recovery["max_restarts_on_errors"] == 0, recovery
    return f"right: {made.num_nodes} × {resources}"


def _lists(home: Path, version: str, tasks: list[dict[str, Any]]) -> None:
    """A list of machines for each cloud, with those that the tasks name."""
    rows: dict[str, dict[str, str]] = {}
    for task in tasks:
        asked = task["resources"]
        name, count = asked["accelerators"].split(":")
        instance = asked.get("instance_type", f"gpu_{count}x_{name.lower()}")
        row = f"{instance},96,1000,{name},{count},,1,1,region-1,region-1-a,x86_64,ssd,1000,True,1"
        rows.setdefault(asked["infra"].split("/")[0], {})[instance] = row
    for cloud, held in rows.items():
        file = home / ".sky" / "catalogs" / version / cloud / "vms.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([COLUMNS, *held.values(), ""]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
