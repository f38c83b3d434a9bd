"""What the package asks for against what is installed, and how to install the rest."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

WHAT_FOR = {
    "deepspeed": "ZeRO-2, ZeRO-3, Ulysses",
    "flash": "FlashAttention on CUDA",
    "books": "FB2, EPUB, DOCX, PDF, Markdown",
    "gguf": "export to GGUF",
    "llama-cpp": "reading GGUF back, and serving it",
    "web": "the page of `chat --web`",
}
"""Extras that a user chooses; `dev` is for those who change the package."""


@dataclass(frozen=True)
class Package:
    """One requirement."""

    name: str
    asked: str
    """As in `>=2.13`."""
    installed: str | None
    extra: str | None = None
    """The extra that brings it; None where the package cannot do without."""

    @property
    def ok(self) -> bool:
        requirement = Requirement(f"{self.name}{self.asked}")
        return self.installed is not None and requirement.specifier.contains(self.installed, prereleases=True)

    @property
    def mend(self) -> str:
        """How to install it."""
        if self.extra:
            return f"pip install 'shridhar_ft[{self.extra}]'"
        return f"pip install '{self.name}{self.asked}'"


def packages() -> list[Package]:
    """Every requirement of this package, those of its extras too, as its metadata has them."""
    found: dict[str, Package] = {}
    for line in requires("shridhar_ft") or []:
        requirement = Requirement(line)
        extra = None
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            extra = next((name for name in WHAT_FOR if requirement.marker.evaluate({"extra": name})), None)
            if extra is None:
                continue
        if requirement.name.replace("-", "_") == "shridhar_ft":
            continue
        found.setdefault(
            requirement.name,
            Package(requirement.name, str(requirement.specifier), _installed(requirement.name), extra),
        )
    return list(found.values())


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
