"""A rehearsal as lines: the transcript of its steps, what the real run would stumble over, what was changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shridhar_ft.rehearse.steps import Step

MARKS = {True: "✓", False: "✗"}
KINDS = ("files", "base", "data", "launch", "packages", "plan", "room", "untried")


def as_line(step: Step) -> str:
    """One step."""
    return _line(step.__dict__)


def _line(step: dict[str, Any]) -> str:
    took = "" if step["seconds"] is None else f"{step['seconds']:.1f}"
    used = "" if step["cpu_seconds"] is None else f"{step['cpu_seconds']:.1f}"
    return f"{MARKS[step['ok']]} {step['name']:<50} {took:>7} {used:>7}  {step['why']}".rstrip()


def lines(result: dict[str, Any], folder: Path, kept: bool) -> Iterator[str]:
    """The whole answer.

    Args:
        result: What rehearsal.json holds.
        folder: The rehearsal's run folder.
        kept: Whether it is still there.
    """
    yield f"rehearsal of {result['recipe']}, meant for {result['machine']}"
    yield ""
    yield f"  {'step':<50} {'seconds':>7} {'of CPU':>7}"
    for step in result["steps"]:
        yield _line(step)
    yield f"  {'in all':<50} {result['seconds']:>7.1f} {result['cpu_seconds']:>7.1f}"
    if result["replaced"]:
        yield ""
        yield f"NOT YOUR DATA: the bundled sample stood in for {', '.join(result['replaced'])}"
    yield ""
    found = result["stumbling_blocks"]
    stops = sum(block["stops"] for block in found)
    yield f"what the real run would stumble over ({stops} would end it):"
    for kind in KINDS:
        for block in (one for one in found if one["about"] == kind):
            yield f"{'✗' if block['stops'] else '·'} {kind:<9} {block['what']}"
    yield ""
    yield f"what was otherwise here ({len(result['changes'])} settings):"
    for change in result["changes"]:
        why = f" ({change['why']})" if change["why"] else ""
        yield f"  {change['key']}: {_short(change['real'])} → {_short(change['here'])}{why}"
    yield ""
    what = "every step passed" if result["ok"] else "a step failed"
    yield f"{what}; {folder}/rehearsal.json" + (f", everything that was made is in {folder}" if kept else "")


def _short(value: Any) -> str:  # noqa: ANN401 - any setting
    text = (
        "none"
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}…"
