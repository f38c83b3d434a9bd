"""Plots as inline SVG that takes its colours from the page: histograms, and bars of shares."""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from shridhar_ft.data.histogram import Bins

WIDTH = 440  # user units, about as many pixels on a telephone: text of 12 stays readable
NARROWEST_LABEL, NARROWEST_PERCENT = 28, 46  # a label in a narrower part of a bar would run over its edge


def compact(number: float) -> str:
    """A number in three digits at most: 950, 1.3K, 24K, 7.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:
            scaled = number / size
            return (f"{scaled:.1f}".removesuffix(".0") if scaled < 9.95 else f"{scaled:.0f}") + unit
    return f"{number:.0f}"


def histogram(bins: Bins, along: str, up: str) -> Markup:
    """A histogram, one bar a bin, all bars equally wide.

    Args:
        bins: From `Histogram.as_dict`, not empty.
        along: What is counted by, e.g. `characters`.
        up: What is counted, e.g. `blocks`.
    """
    edges, counts = bins["edges"], bins["counts"]
    assert len(edges) == len(counts) + 1 > 1, bins
    left, right, top, bottom = 46, WIDTH - 18, 26, 150
    step = (right - left) / len(counts)
    most = max(counts)
    parts = [Markup('<text class="axis" x="{}" y="12">{}</text>').format(4, up)]
    for value in _grid(most):
        y = bottom - (bottom - top) * value / most
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, right, y, y))
        parts.append(
            Markup('<text class="axis end" x="{}" y="{:.1f}">{}</text>').format(left - 6, y + 4, compact(value))
        )
    for index, count in enumerate(counts):
        height = (bottom - top) * count / most
        parts.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                left + index * step + 0.75,
                bottom - height,
                max(step - 1.5, 0.5),
                height,
                f"{edges[index]:,} to {edges[index + 1] - 1:,} {along}: {count:,}",
            )
        )
    every = -(-len(edges) // 7)
    for index in range(0, len(edges), every):
        parts.append(
            Markup('<text class="axis mid" x="{:.1f}" y="{}">{}</text>').format(
                left + index * step, bottom + 16, compact(edges[index])
            )
        )
    parts.append(Markup('<text class="axis end" x="{}" y="{}">{}</text>').format(right, bottom + 34, along))
    most_of = f"the highest bar stands from {edges[counts.index(most)]:,} {along} on: {most:,}"
    return drawing(parts, bottom + 42, f"Histogram: {up} by {along}", f"{sum(counts):,} {up}; {most_of}.")


def _grid(most: int) -> list[int]:
    """Up to four round heights, 0 among them."""
    step = 1
    while most / step > 4:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, most + 1, step))


def share_bars(
    rows: Mapping[str, Sequence[float]],
    names: Sequence[str],
    show: Callable[[float], str] | None = None,
    title: str = "Shares",
) -> Markup:
    """Stacked bars of shares under one another, e.g. asked and got.

    Args:
        rows: Label of each bar → its shares (0 to 1), in the order of `names`.
        names: What the parts are; part i has the page's colour i.
        show: How a share is written (default: in per cent, as English does).
        title: What is shown.
    """
    show = show or _percent
    left, right, height, gap = 92, WIDTH - 2, 22, 9
    parts = []
    for number, (label, shares) in enumerate(rows.items()):
        y = number * (height + gap)
        parts.append(Markup('<text class="axis" x="0" y="{}">{}</text>').format(y + 15, label))
        x = float(left)
        for index, share in enumerate(shares):
            width = (right - left) * share
            parts.append(
                Markup(
                    '<rect class="part{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
                ).format(index, x, y, max(width - 1, 0), height, f"{label}: {names[index]} {show(share)}")
            )
            if width >= NARROWEST_LABEL:
                parts.append(
                    Markup('<text class="on-part mid" x="{:.1f}" y="{}">{}</text>').format(
                        x + width / 2,
                        y + 15,
                        show(share) if width >= NARROWEST_PERCENT else show(share).rstrip("%\xa0"),
                    )
                )
            x += width
    said = (
        f"{label}: " + ", ".join(f"{name} {show(share)}" for name, share in zip(names, shares, strict=True))
        for label, shares in rows.items()
    )
    return drawing(parts, len(rows) * (height + gap), f"{title}: {', '.join(names)}", "; ".join(said))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def drawing(parts: Sequence[Markup], height: float, title: str, says: str) -> Markup:
    """The parts as one picture, with its text alternative.

    Args:
        parts: Elements in units of the page's `WIDTH`.
        height: In the same units.
        title: What it shows.
        says: What one sees in it, in words and numbers.
    """
    return Markup(
        '<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(WIDTH, height, title, title, says, Markup("").join(parts))
