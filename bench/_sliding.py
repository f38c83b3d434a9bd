"""Layers that slide, as benches are told of them: WINDOW:EVERY, and the recipe's `model` section that it makes."""

import argparse
from typing import Any


def sparse(given: str) -> dict[str, int]:
    """WINDOW:EVERY as a recipe's `sparse`."""
    try:
        window, every = map(int, given.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{given}' is not WINDOW:EVERY, e.g. 1024:4") from None
    return {"window": window, "global_every": every}


def model_section(from_config: dict[str, Any], sliding: dict[str, int] | None) -> dict[str, Any]:
    """A recipe's `model` of these sizes, with layers that slide where they are asked for."""
    return {"from_config": from_config} | ({"attention": "sparse", "sparse": sliding} if sliding else {})
