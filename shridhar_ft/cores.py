"""How many processor cores this process may use."""

import os
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def cores() -> int:
    """Physical cores that the process may run on: fewer than the machine's under `taskset`, a cpuset, a Slurm step.

    More threads than that wait for one another at the end of every parallel loop: two on one core take many times as
    long as one. A container's quota of time (`docker --cpus`) is no such limit and is not seen.
    """
    import psutil

    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return len({_siblings(number) for number in os.sched_getaffinity(0)})


def _siblings(number: int) -> str:
    """Threads of the core that a processor is one of, as Linux lists them; its own number where that is not told."""
    try:
        return (TOPOLOGY / f"cpu{number}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return str(number)
