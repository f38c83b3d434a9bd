"""Bars and cells of the run page as inline SVG: needles by length and depth, scores on scales, plan beside outcome."""

from collections.abc import Callable, Sequence
from math import isfinite

from markupsafe import Markup

from shridhar_ft.report.plots import LETTER
from shridhar_ft.report.svg import WIDTH, drawing

Show = Callable[[float], str]


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
