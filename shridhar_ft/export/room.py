"""Room on the disk for an export: what it takes, and a refusal before the disk is full instead of after."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from shridhar_ft.errors import DiskFailed

SMALL = 64 << 20  # bytes of the other files: tokenizer, card, headers
BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.9, "q3_k_m": 4.0}
"""Bits a weight of each kind of GGUF, as files of small models have them."""


def need_room(folder: Path, model_bytes: int, parameters: int, kinds: Sequence[str]) -> None:
    """Refuse an export that the disk cannot hold.

    Args:
        folder: Where it goes; it exists.
        model_bytes: Bytes of the safetensors.
        parameters: Number of weights.
        kinds: Kinds of GGUF; the k-quants need an f16 file beside them while they are made.

    Raises:
        DiskFailed: There is not enough room; says how much is needed.
    """
    files = sum(parameters * BITS[kind] / 8 for kind in kinds)
    passing = parameters * 2 if any("_k" in kind for kind in kinds) else 0
    needed = int(model_bytes + files + passing) + SMALL
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFailed(
            f"{folder.parent}: the export takes {needed / 1e9:,.2f} GB and {free / 1e9:,.2f} GB are free; make room, "
            "or ask for less (export.dtype, export.gguf), and run the same command again"
        )
