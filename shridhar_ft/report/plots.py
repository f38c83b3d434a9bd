"""Plots of the run page as inline SVG that takes its colours from the page: curves, a heat map, a score on its scale.

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


def heat_map(
    rows: Sequence[tuple[str, Sequence[float | None]]],
    columns: Sequence[str],
    axes: tuple[str, str],
    title: str,
    says: str,
    show: Show,
) -> Markup:
    """Shares as coloured cells with their numbers in them.

    Args:
        rows: Label and shares (0 to 1; None where nothing was measured), from above.
        columns: Labels.
        axes: What the columns and the rows are.
        title: Of the plot.
        says: What one sees in it.
        show: How a share is written.
    """
    left, top, height = 66, 40, 26
    width = (WIDTH - left) / len(columns)
    parts = [
        Markup('<text class="axis" x="0" y="12">{}</text>').format(axes[1]),
        Markup('<text class="axis" x="{}" y="12">{}</text>').format(left, axes[0]),
    ]
    for number, label in enumerate(columns):
        parts.append(
            Markup('<text class="axis mid" x="{:.1f}" y="{}">{}</text>').format(
                left + (number + 0.5) * width, 31, label
            )
        )
    for line, (label, shares) in enumerate(rows):
        y = top + line * height
        parts.append(Markup('<text class="axis end" x="{}" y="{}">{}</text>').format(left - 8, y + 17, label))
        for number, share in enumerate(shares):
            x = left + number * width
            parts.append(
                Markup('<rect class="cell" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                    x, y, width - 2, height - 2
                )
            )
            if share is None:
                continue
            parts.append(
                Markup('<rect class="heat" opacity="{:.2f}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                    share, x, y, width - 2, height - 2
                )
            )
            parts.append(
                Markup('<text class="{} mid" x="{:.1f}" y="{}">{}</text>').format(
                    "on-heat" if share > 0.5 else "off-heat", x + width / 2 - 1, y + 17, show(share)
                )
            )
    return drawing(parts, top + len(rows) * height, title, says)


def scale(
    value: float,
    ends: tuple[float, float],
    floor_at: float | None,
    ceiling_at: float | None,
    whole: bool,
    name: str,
    says: str,
) -> Markup:
    """A score on its scale: the band from floor to ceiling, the interval as a bar, the score as a dot.

    Args:
        value: The score.
        ends: Its 95 % interval.
        floor_at: What knows nothing reaches; None where it is not known.
        ceiling_at: What the best could reach; None where it is not known.
        whole: Whether the scale is that of shares, 0 to 1; else it is as long as these numbers need.
        name: Of the score.
        says: It in words.
    """
    known = [number for number in (value, *ends, floor_at, ceiling_at) if number is not None and isfinite(number)]
    low, high = (0.0, 1.0) if whole else (min(known), max(known))
    room = 0.0 if whole else 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    left, right, height = 3, WIDTH - 3, 26

    def across(number: float) -> float:
        return left + (right - left) * (number - low) / (high - low)

    parts = [Markup('<rect class="track" x="{}" y="11" width="{}" height="4" rx="2"/>').format(left, right - left)]
    if floor_at is not None and ceiling_at is not None:
        begin, end = sorted((across(floor_at), across(ceiling_at)))
        parts.append(
            Markup('<rect class="band" x="{:.1f}" y="7" width="{:.1f}" height="12"/>').format(begin, end - begin)
        )
    for number, kind in ((floor_at, "floor"), (ceiling_at, "ceiling")):
        if number is not None:
            x = across(number)
            parts.append(Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="3" y2="23"/>').format(kind, x, x))
    begin, end = across(ends[0]), across(ends[1])
    parts.append(
        Markup('<rect class="interval" x="{:.1f}" y="10" width="{:.1f}" height="6" rx="3"/>').format(
            begin, max(end - begin, 1)
        )
    )
    parts.append(Markup('<circle class="score-dot" cx="{:.1f}" cy="13" r="5"/>').format(across(value)))
    return drawing(parts, height, name, says)


def beside(rows: Sequence[tuple[str, float, float]], title: str, says: str, show: Show) -> Markup:
    """Two bars a row, what was foretold and what came, on one scale.

    Args:
        rows: Label, foretold, came; from above.
        title: Of the plot.
        says: What one sees in it.
        show: How a number is written at the end of its bar.
    """
    most = max(max(foretold, came) for _, foretold, came in rows) or 1.0
    left, right, height = 84, WIDTH - 66, 40
    parts = []
    for number, (label, *both) in enumerate(rows):
        y = number * height
        shown = label if len(label) * LETTER < left - 6 else "…" + label[-int((left - 12) / LETTER) :]
        parts.append(Markup('<text class="axis" x="0" y="{}">{}</text>').format(y + 21, shown))
        for line, (value, kind) in enumerate(zip(both, ("foretold", "came"), strict=True)):
            top = y + 2 + line * 16
            width = max((right - left) * value / most, 1)
            parts.append(
                Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="13"/>').format(kind, left, top, width)
            )
            parts.append(
                Markup('<text class="axis" x="{:.1f}" y="{}">{}</text>').format(left + width + 5, top + 11, show(value))
            )
    return drawing(parts, len(rows) * height, title, says)
