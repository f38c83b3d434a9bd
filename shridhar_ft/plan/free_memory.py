"""How much memory this process may come to hold: what it holds, and what the machine or its container has free."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")


def room_bytes(device: "torch.device") -> int:
    """Bytes that this process could hold in all, on its device, if it took all that is free.

    On CUDA the GPU's memory; else the machine's, or the container's where that has a limit, shared out evenly over the
    processes that a launcher started here.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return free_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) + psutil.Process().memory_info().rss


def free_bytes() -> int:
    """Bytes of memory that the machine, or the container where that has a limit, has free."""
    return min([psutil.virtual_memory().available, *_container_rooms()])


def _container_rooms() -> list[int]:
    """What the control groups above this process leave, in bytes; page cache that is not in use counts as free."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    rooms = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            top, files = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = CGROUPS / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        # A container sees its own group as the top one, whatever the path says.
        for folder in {top, *(parent for parent in (group, *group.parents) if parent.is_relative_to(top))}:
            if (room := _room(folder, *files)) is not None:
                rooms.append(room)
    return rooms


def _room(folder: Path, limit: str, used: str, cache: str) -> int | None:
    if not (folder / limit).is_file() or not (folder / used).is_file():
        return None
    most = (folder / limit).read_text().strip()
    if most == "max":
        return None
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, int(most) - int((folder / used).read_text()) + int(statistics.get(cache, 0)))
