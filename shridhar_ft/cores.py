"""How many processor cores this process may use."""

import os

import psutil


def cores() -> int:
    """Physical cores, or fewer where the process may run on fewer: `taskset`, a cpuset, a share of a Slurm node.

    More threads than that wait for one another at the end of every parallel loop: two on one core take many times as
    long as one.
    """
    physical = psutil.cpu_count(logical=False) or 1
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return physical
    return min(physical, len(os.sched_getaffinity(0)))
