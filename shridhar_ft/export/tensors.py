"""Safetensors one tensor at a time: read from a folder or the Hub's cache, and written shard by shard.

safetensors' own writer wants a whole shard in memory. The format is eight bytes of length, a JSON header and the
bytes in order (github.com/huggingface/safetensors), so the shapes known beforehand are enough to write it in one go.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shridhar_ft.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""safetensors' names of types."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Stored:
    """The tensors of a folder, by name; nothing is read until it is asked for."""

    def __init__(self, folder: Path, pattern: str = "*.safetensors", renames: Mapping[str, str] | None = None) -> None:
        """
        Args:
            folder: Holds safetensors files.
            pattern: Which of them.
            renames: Beginnings of names in the files (regex) → what they are called here instead.

        Raises:
            UserError: There are none, or one is damaged.
        """
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.files: dict[str, Path] = {}
        self._in_file: dict[str, str] = {}
        for file in sorted(folder.glob(pattern)):
            try:
                with safe_open(file, framework="pt") as tensors:
                    for stored in tensors.keys():  # noqa: SIM118 - no dict, and not iterable
                        name = _renamed(stored, renames or {})
                        self.files[name], self._in_file[name] = file, stored
            except SafetensorError as error:
                raise UserError(f"{file}: it cannot be read ({first_line(error)}); copy it again") from error
        if not self.files:
            raise UserError(f"{folder}: no weights there (*.safetensors); give a folder with whole safetensors")

    def names(self) -> list[str]:
        """Names in the order of the files."""
        return list(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as tensors:
            return tuple(tensors.get_slice(self._in_file[name]).get_shape())

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, copied: the file is mapped only meanwhile, or all its pages would count as this process's."""
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as tensors:
            return tensors.get_tensor(self._in_file[name]).clone()


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for pattern, put in renames.items():
        if re.search(pattern, name):
            return re.sub(pattern, put, name)
    return name


def local_folder(base: str, revision: str | None) -> Path:
    """The folder where a base lies: itself, or what the Hub's cache holds of it, fetched if need be.

    Raises:
        UserError: There is no such base.
    """
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except (OSError, ValueError, HFValidationError) as error:
        raise UserError(
            f"{base}: the base is neither a folder nor to be had from the Hub ({first_line(error)}); give its folder, "
            "or a Hub id while the network is there"
        ) from error


@dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    make: "Callable[[], torch.Tensor]"

    def bytes(self, dtype: str) -> int:
        count = BYTES[dtype]
        for size in self.shape:
            count *= size
        return count


def write_shards(folder: Path, planned: Sequence[Planned], dtype: str, shard_bytes: int) -> list[Path]:
    """Write model.safetensors, or shards with their index, one tensor in memory at a time.

    Args:
        folder: Where to; it exists.
        planned: What, in order.
        dtype: Type that every tensor is cast to.
        shard_bytes: A shard closes before it grows beyond this; one tensor may be larger by itself.
    """
    shards: list[list[Planned]] = [[]]
    filled = 0
    for tensor in planned:
        if shards[-1] and filled + tensor.bytes(dtype) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.bytes(dtype)
    single = len(shards) == 1
    files = [
        folder / ("model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        for number in range(1, len(shards) + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        _write_shard(file, shard, dtype)
    if not single:
        where = {tensor.name: file.name for file, shard in zip(files, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(tensor.bytes(dtype) for tensor in planned)}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _write_shard(file: Path, shard: Sequence[Planned], dtype: str) -> None:
    import torch

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        begin, end = end, end + tensor.bytes(dtype)
        header[tensor.name] = {"dtype": NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begin at a multiple of eight
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for tensor in shard:
            made = tensor.make().to(getattr(torch, dtype)).contiguous()
            assert tuple(made.shape) == tensor.shape, f"{tensor.name} was planned otherwise"
            out.write(made.flatten().view(torch.uint8).numpy())
