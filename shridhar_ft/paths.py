"""Finds the files that a recipe's paths mean: files themselves, folders, globs."""

import glob
from collections.abc import Sequence
from pathlib import Path

from shridhar_ft.errors import UserError


def existing(root: Path, path: str) -> str | None:
    """The path below this root, if it, or something that it is a glob of, exists."""
    candidate = root / Path(path).expanduser()
    return str(candidate) if candidate.exists() or glob.glob(str(candidate)) else None


def expand(paths: Sequence[str], patterns: Sequence[str], key: str) -> list[Path]:
    """Files that these paths name: files themselves, folders by `patterns`, globs; sorted, each once.

    Args:
        paths: Absolute files, folders or globs (as in a loaded recipe).
        patterns: What a folder stands for, e.g. `["*.txt"]`.
        key: The recipe key, or the command, for the message.

    Raises:
        UserError: A path matches nothing, or a folder holds no such file.
    """
    files: set[Path] = set()
    for path in paths:
        # A folder whose name holds brackets is a folder first, and a pattern only if there is none.
        found = [Path(path)] if Path(path).exists() else [Path(match) for match in glob.glob(path)]
        if not found:
            setting = f", or set it with {key}=…" if "." in key else ""  # else no key of a recipe: a command's argument
            raise UserError(f"{key}: {path} does not exist; mend the path{setting}")
        for match in found:
            inside = [f for pattern in patterns for f in match.glob(pattern)] if match.is_dir() else [match]
            if not inside and len(found) == 1:
                raise UserError(f"{key}: the folder {match} holds no {' or '.join(patterns)}; put the files there")
            files.update(inside)
    if not files:
        raise UserError(f"{key}: nothing under {', '.join(paths)} is a {' or '.join(patterns)}; mend the path")
    return sorted(files)
