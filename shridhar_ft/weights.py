"""Where the weights of a model lie: a base, and adapters on it; inside a run folder by paths relative to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Weights:
    """Where weights lie: a base, and the adapters that are merged onto it in this order."""

    base: str
    """Folder or Hub id."""
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    """Folders with adapter_config.json, the oldest first."""

    def as_dict(self, root: Path) -> dict[str, Any]:
        """For part.json: paths inside the run folder relative to it, so that the folder can be moved."""
        return {
            "base": _relative(self.base, root),
            "revision": self.revision,
            "adapters": [_relative(a, root) for a in self.adapters],
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any], root: Path) -> "Weights":
        return cls(
            _absolute(stored["base"], root), stored["revision"], tuple(_absolute(a, root) for a in stored["adapters"])
        )


INSIDE = "run:"  # marks a path relative to the run folder


def _relative(path: str, root: Path) -> str:
    resolved = Path(path).resolve()
    return f"{INSIDE}{resolved.relative_to(root.resolve())}" if resolved.is_relative_to(root.resolve()) else path


def _absolute(path: str, root: Path) -> str:
    return str(root / path.removeprefix(INSIDE)) if path.startswith(INSIDE) else path
