"""Finds what ships with the package: recipes/, accelerate_configs/, eval/ — in a checkout or inside the wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else PACKAGE.parent


def shipped(relative: str | Path) -> Path:
    """The shipped file or folder of this relative path, e.g. `accelerate_configs/cpu.yaml`; it may not exist."""
    return ROOT / relative


def recipe_names() -> list[str]:
    """Names of the shipped recipes, as `shridhar-ft run NAME` takes them."""
    return sorted(path.parent.name for path in shipped("recipes").glob("*/recipe.yaml"))
