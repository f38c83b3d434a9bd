"""Several machines that train one run: which of them this one is, and where the first one is.

Each starts the same `shridhar-ft run` beside a run folder that all of them see. The first does everything; the others
only start their share of the processes when training comes, and end as the first one says.
"""

import os
from dataclasses import dataclass

from shridhar_ft.errors import UserError

NODE = "SHRIDHAR_FT_NODE"
"""Number of this machine, from 0."""
HEAD = "SHRIDHAR_FT_HEAD"
"""Address of machine 0."""
# Each entry meets at a port of its own: the one before may not have let go of its yet.
PORTS = {"pretrain": "29500", "sft": "29501"}
WAIT = 86_400  # seconds that a machine waits for the first one, which prepares the data meanwhile


@dataclass(frozen=True)
class Node:
    """One machine of a run."""

    number: int = 0
    head: str | None = None
    """None where there is no other."""

    @classmethod
    def here(cls) -> "Node":
        """This machine, as the environment says.

        Raises:
            UserError: It says one half only, or no number.
        """
        number, head = os.environ.get(NODE), os.environ.get(HEAD)
        if number is None and head is None:
            return cls()
        if not head or not (number or "").isdigit():
            raise UserError(
                f"{NODE}={number} {HEAD}={head}: set both, a machine's number from 0 and the address of machine 0"
            )
        return cls(int(number or 0), head)

    @property
    def first(self) -> bool:
        return self.number == 0

    @property
    def several(self) -> bool:
        return self.head is not None

    def launch_options(self, module: str) -> list[str]:
        """What `accelerate launch` is told beside its config file.

        Args:
            module: `pretrain` or `sft`.
        """
        if self.head is None:
            return []
        return [
            *("--machine_rank", str(self.number), "--main_process_ip", self.head),
            *("--main_process_port", PORTS[module], "--rdzv_conf", f"timeout={WAIT}"),
        ]
