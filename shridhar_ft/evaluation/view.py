"""An evaluation as lines for a person: each score with its interval, its floor and its ceiling."""

from collections.abc import Iterator, Sequence
from typing import Any

from shridhar_ft.score_details import detail_lines
from shridhar_ft.score_table import HEAD, number, score_cells


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The table of an evaluation's results."""
    yield f"{results['model']}, window {results['window']:,}, seed {results['seed']}"
    yield from table(HEAD, [score_cells(score) for score in results["scores"]])
    targets = [score for score in results["scores"] if score["target"]]
    for score in targets:
        yield f"target of {score['name']}: {score['target']}"
    for task, sentence in detail_lines(results):
        yield f"{task}: {sentence}"
    for task, why in results["unmeasured"].items():
        yield f"not measured: {task}: {why}"
    for task, details in results["details"].items():
        for note in details.get("notes", []) if isinstance(details, dict) else []:
            yield f"{task}: {note}"


def compared(found: dict[str, Any]) -> Iterator[str]:
    """The table of a comparison."""
    ours, theirs = found["models"]
    rows = [
        (
            row["name"],
            number(row["ours"], row["unit"]),
            number(row["theirs"], row["unit"]),
            f"{_signed(row['difference'], row['unit'])} [{_signed(row['low'], row['unit'])}, "
            f"{_signed(row['high'], row['unit'])}]",
            f"{row['n']:,}",
            {"ours": ours, "theirs": theirs, "neither": "–"}[row["better"]],
        )
        for row in found["differences"]
    ]
    yield from table(("measure", ours, theirs, "difference [95 %, paired]", "n", "better"), rows)
    for name, why in found["left_out"].items():
        yield f"not compared: {name}: {why}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns as wide as they need; the last column is not padded."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _signed(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if unit == "share" else f"{value:+.3f}"
