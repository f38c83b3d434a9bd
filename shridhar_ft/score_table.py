"""One score of an evaluation as the cells of a table: measure, score with its interval, items, floor, ceiling."""

from typing import Any

HEAD = ("measure", "score [95 %]", "n", "floor", "ceiling")


def score_cells(score: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a score of results.json, under `HEAD`."""
    value, low, high = (number(score[key], score["unit"]) for key in ("value", "low", "high"))
    interval = f"[{low}, {high}]"
    if score["low"] is None and (why := score.get("lacking")):
        interval = f"({why})"
    return (score["name"], f"{value} {interval}", f"{score['n']:,}", _end(score, "floor"), _end(score, "ceiling"))


def number(value: float | None, unit: str) -> str:
    """A value in its unit: shares in per cent, all else with three decimals."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"


def _end(score: dict[str, Any], end: str) -> str:
    value, of = score[end], str(score[f"{end}_of"])
    return of if value is None else f"{number(value, score['unit'])} ({of})"
