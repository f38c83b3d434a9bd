"""Curves of the run page as inline SVG that takes its colours from the page.

Each has a title and says in words what one sees; the numbers stand in a table beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from markupsafe import Markup

from shridhar_ft.report.svg import WIDTH, drawing

Show = Callable[[float], str]
ShowTo = Callable[[float, int], str]
"""Writes a number with so many digits behind the point."""
MOST_POINTS = 400  # of a curve; more than a screen has places for
LETTER = 7.4  # user units that a letter takes at most, on a telephone


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    """Of the page's line colours."""
    dots: bool = False
    """Whether each point is marked: where there are few."""
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """An upright line with a label to its right, e.g. where a stage hands over."""

    x: float
    label: str
    to: float
    """Where the room of the label ends."""


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from `low` to `high`, at most `most` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    size = 10.0 ** floor(log10(raw))
    step = next((size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw), size * 10)
    first = -floor(-low / step + 1e-9)
    return [round(step * index, 12) for index in range(first, floor(high / step + 1e-9) + 1)]


def digits(values: Sequence[float]) -> int:
    """Digits behind the point that tell these ticks apart."""
    return next((count for count in range(6) if all(abs(value - round(value, count)) < 1e-9 for value in values)), 6)


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Points whose numbers are finite, at most so many, spread evenly, the last one among them."""
    kept = [point for point in points if isfinite(point[0]) and isfinite(point[1])]
    if len(kept) <= most:
        return kept
    return [kept[index * (len(kept) - 1) // (most - 1)] for index in range(most)]


def curves(
    lines: Sequence[Curve],
    axes: tuple[str, str],
    title: str,
    says: str,
    show: tuple[Show, ShowTo],
    marks: Sequence[Mark],
) -> Markup:
    """Curves over one axis.

    Args:
        lines: At least one with a point.
        axes: What is along and what is up.
        title: Of the plot.
        says: What one sees in it.
        show: How numbers along and up are written.
        marks: Upright lines, from left to right.
    """
    drawn = [(line, thinned(line.points)) for line in lines]
    all_points = [point for _, points in drawn for point in points]
    assert all_points, f"{title}: nothing to draw"
    low_x, high_x = min(x for x, _ in all_points), max(x for x, _ in all_points)
    low_x = min([low_x, *(mark.x for mark in marks)])
    low_y, high_y = min(y for _, y in all_points), max(y for _, y in all_points)
    room = 0.06 * (high_y - low_y) or 0.05 * abs(high_y) or 1.0
    low_y, high_y = low_y - room, high_y + room
    left, right, top, bottom = 48, WIDTH - 10, 44 if marks else 24, 218

    def across(x: float) -> float:
        return left + (right - left) * ((x - low_x) / (high_x - low_x) if high_x > low_x else 0.5)

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - low_y) / (high_y - low_y)

    parts = [Markup('<text class="axis" x="0" y="12">{}</text>').format(axes[1])]
    heights = ticks(low_y, high_y)
    for y in heights:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, up(y), up(y))
        )
        parts.append(
            Markup('<text class="axis end" x="{}" y="{:.1f}">{}</text>').format(
                left - 6, up(y) + 4, show[1](y, digits(heights))
            )
        )
    for x in ticks(low_x, high_x):
        parts.append(
            Markup('<text class="axis mid" x="{:.1f}" y="{}">{}</text>').format(across(x), bottom + 17, show[0](x))
        )
    for mark in marks:
        at = across(mark.x)
        parts.append(
            Markup('<line class="mark" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(at, at, top - 10, bottom)
        )
        if len(mark.label) * LETTER < across(mark.to) - at - 6:
            parts.append(Markup('<text class="axis" x="{:.1f}" y="{}">{}</text>').format(at + 4, top - 2, mark.label))
        else:  # above the others, ending at the edge where it would run over it
            end = min(at + 4 + len(mark.label) * LETTER, WIDTH)
            parts.append(Markup('<text class="axis end" x="{:.1f}" y="{}">{}</text>').format(end, top - 15, mark.label))
    for line, points in drawn:
        way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        dashed = " dashed" if line.dashed else ""
        parts.append(Markup('<polyline class="curve line{}{}" points="{}"/>').format(line.colour, dashed, way))
        if line.dots or len(points) == 1:
            for x, y in points:
                parts.append(
                    Markup('<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(
                        line.colour, across(x), up(y)
                    )
                )
    parts.append(Markup('<text class="axis end" x="{}" y="{}">{}</text>').format(right, bottom + 34, axes[0]))
    return drawing(parts, bottom + 40, title, says)
