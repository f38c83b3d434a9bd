"""What checkpointing keeps, put elsewhere until the backward pass: pinned host memory, or files."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Protocol

from shridhar_ft.runfolder import disk_errors

if TYPE_CHECKING:
    import torch

SMALLEST = 1 << 16  # bytes; what is smaller stays where it is


class Store(Protocol):
    """A place for tensors that are not needed for a while."""

    def pack(self, tensor: "torch.Tensor") -> Any:  # noqa: ANN401
        """Put a tensor away; the answer finds it again, and what it holds goes when it goes."""

    def unpack(self, packed: Any) -> "torch.Tensor":  # noqa: ANN401
        """Bring it back to the device that it was on."""


class HostStore:
    """Pinned host memory beside a GPU.

    The copies run on the stream that computes, in order: a layer at long context takes seconds, its copy milliseconds.
    """

    def pack(self, tensor: "torch.Tensor") -> Any:  # noqa: ANN401
        import torch

        if tensor.device.type != "cuda" or tensor.nbytes < SMALLEST:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return tensor.device, host.copy_(tensor, non_blocking=True)

    def unpack(self, packed: Any) -> "torch.Tensor":  # noqa: ANN401
        return packed if not isinstance(packed, tuple) else packed[1].to(packed[0], non_blocking=True)


class DiskStore:
    """Files without names: the system removes them when the tensor is no longer wanted, and when the process dies.

    What was written lies in the system's page cache as long as there is room, which counts as free memory. A layer
    takes far longer than its tensors' way to a disk (two of 32 MiB at 8,192 tokens of 1,024 numbers), so nothing is
    read ahead.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: On a disk with room for what is kept; made if it is not there.
        """
        self.folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def pack(self, tensor: "torch.Tensor") -> Any:  # noqa: ANN401
        import torch

        if tensor.nbytes < SMALLEST:
            return tensor
        flat = tensor.detach().contiguous().cpu().flatten().view(torch.uint8)
        with disk_errors(self.folder):
            file = TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - it closes when the graph lets it go
            _whole(file.write, memoryview(flat.numpy()))
        return file, tensor.shape, tensor.dtype, tensor.device

    def unpack(self, packed: Any) -> "torch.Tensor":  # noqa: ANN401
        import torch

        if not isinstance(packed, tuple):
            return packed
        file, shape, dtype, device = packed
        found = torch.empty(shape, dtype=dtype)
        with disk_errors(self.folder):
            file.seek(0)
            _whole(file.readinto, memoryview(found.flatten().view(torch.uint8).numpy()))
        return found.to(device)


def _whole(move: Any, data: memoryview) -> None:  # noqa: ANN401 - a raw file's write or readinto
    """Write or fill all of it: one system call moves 2 GiB at most."""
    done = 0
    while done < len(data):
        moved = move(data[done:])
        if not moved:
            raise OSError(5, "the file ended early")
        done += moved
