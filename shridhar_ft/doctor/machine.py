"""What this machine is: processors, memory, devices, arithmetic, attention, exchange between processes, disk."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

GIB = 1 << 30


def look(folder: Path) -> dict[str, Any]:
    """The facts, measured or asked of the libraries.

    Args:
        folder: Where runs would go; its disk is looked at.

    Returns:
        Values that JSON can hold; sizes in bytes.
    """
    import torch
    import torch.distributed
    from transformers import LlamaConfig

    from shridhar_ft.config import Model
    from shridhar_ft.model.attention import choose_attention
    from shridhar_ft.model.precision import faster_precision

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    bf16, why = faster_precision(device)
    attention = choose_attention(Model(base="none"), LlamaConfig(), device)
    memory = psutil.virtual_memory()
    exchanges = []
    if torch.distributed.is_available():
        known = {"nccl": torch.distributed.is_nccl_available(), "gloo": torch.distributed.is_gloo_available()}
        exchanges = [name for name, there in known.items() if there]
    return {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "python": platform.python_version(),
        "processors": {"threads": os.cpu_count(), "cores": psutil.cpu_count(logical=False)},
        "memory": {"total": memory.total, "free": memory.available},
        "device": device.type,
        "devices": _devices(device.type),
        "precision": {"auto": "bf16" if bf16 else "fp32", "why": why},
        "attention": {"auto": attention.implementation, "why": attention.why.removeprefix("attention: ")},
        "exchange": exchanges,
        "compiler": shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++"),
        "disk": {"folder": str(folder.resolve()), "free": shutil.disk_usage(folder).free},
    }


def _devices(kind: str) -> list[dict[str, Any]]:
    """Accelerators by name and memory; none on a CPU."""
    import torch

    if kind != "cuda":
        return (
            [{"name": f"Apple {platform.machine()}", "memory": psutil.virtual_memory().total}] if kind == "mps" else []
        )
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "name": properties.name,
                "memory": total,
                "free": free,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return found
