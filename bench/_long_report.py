"""What the cells of a long-context measurement say: rows, ratios, the growth of memory, the check, table and plot."""

import math
import statistics
import textwrap
from pathlib import Path
from typing import Any

from _long_work import Flops

GIB = 1 << 30
# How far (losses, gradient norms) of the same work may lie apart, relatively. At random weights a document that sees
# the one before it moves the loss by 10⁻⁴ to 10⁻³, the norm by 4 to 10%.
TOLERANCE = {"fp32": (1e-5, 1e-3), "bf16": (5e-3, 2e-2)}
# The same for the last step, to which rounding has come through the updates, times this.
LATER = {"fp32": 30, "bf16": 4}
COLORS = ("#c0392b", "#2c6fbb", "#3a9a5b", "#8e5bb5", "#b8860b")


def rows(
    cells: list[dict[str, Any]], needs: dict[int, Flops], rates: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """One row a length and side, ours first: medians over rounds, and ratios to ours in the same run.

    Args:
        cells: Finished cells, each with what it was asked and its `result`.
        needs: FLOPs of a step by length.
        rates: FLOP/s by dtype and kernel.
    """
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((sum(cell["documents"]), side(cell)), []).append(cell)
    table = [
        summary(length, cells, needs[length], rates) for (length, _), cells in sorted(found.items(), key=by_length)
    ]
    first = {row["length"]: row for row in table if row["who"] == "ours"}
    for row in table:
        own = first[row["length"]]
        if row is not own and "seconds" in own:
            if "seconds" in row:
                row["times_slower"] = row["seconds"] / own["seconds"]
                row["our_share_of_its_peak"] = own["peak"] / row["peak"]
            elif "seconds_more_than" in row:
                row["times_slower_more_than"] = row["seconds_more_than"] / own["seconds"]
    return table


def side(cell: dict[str, Any]) -> str:
    return cell["who"] if cell["who"] == "ours" else f"{cell['who']} {cell['dtype']}"


def by_length(item: tuple[tuple[int, str], Any]) -> tuple[int, bool]:
    (length, who), _ = item
    return length, who != "ours"


def summary(
    length: int, cells: list[dict[str, Any]], need: Flops, rates: dict[str, dict[str, float]]
) -> dict[str, Any]:
    results = [cell["result"] for cell in cells]
    row: dict[str, Any] = {"length": length, "who": side(cells[0]), "dtype": cells[0]["dtype"]}
    for result in results:
        for key in ("failed", "memory_more_than", "seconds_more_than"):
            if key in result:
                return row | {key: result[key]}
    # The first step makes gradients and the optimizer's state, and warms everything up; alone, it is what there is.
    steps = [second for result in results for second in (result["seconds"][1:] or result["seconds"])]
    dtype = results[0]["dtype"]
    seconds = statistics.median(steps)
    return row | {
        "dtype": dtype,
        "did": results[0]["did"],
        **{key: results[0][key] for key in ("levers", "estimate", "receipts") if key in results[0]},
        "seconds": seconds,
        "least": min(steps),
        "most": max(steps),
        "steps": len(steps),
        "had": statistics.median(sum(result["cpu"]) / sum(result["seconds"]) / result["threads"] for result in results),
        "tokens_per_second": length / seconds,
        "peak": statistics.median(max(result["peak"], result["peak_loading"]) for result in results),
        "growth": statistics.median(result["peak"] - result["before"][0] for result in results),
        "held": results[0]["held"],
        "share": need.all / (seconds * rates[dtype]["matmul"]),
        "floor": need.seconds(rates[dtype]),
        "loss": results[0]["loss"],
        "grad_norm": results[0]["grad_norm"],
    }


def differences(table: list[dict[str, Any]]) -> list[str]:
    """Where a side's losses or gradient norms are no numbers or not ours, or our own receipts do not hold."""
    wrong = []
    first = {row["length"]: row for row in table if row["who"] == "ours"}
    for row in table:
        own = first[row["length"]]
        if "seconds" not in row or "seconds" not in own:
            continue
        wrong += [
            f"{row['length']:,} tokens: the {name} receipt does not hold"
            for name, ok in row.get("receipts", {}).items()
            if not ok
        ]
        dtype = "bf16" if "bf16" in (row["dtype"], own["dtype"]) else "fp32"
        allowed = TOLERANCE[dtype]
        for key, tolerance in zip(("loss", "grad_norm"), allowed, strict=True):
            for place in sorted({0, len(row[key]) - 1}):
                apart = abs(row[key][place] / own[key][place] - 1)
                if not apart <= tolerance * (LATER[dtype] if place else 1):
                    wrong.append(
                        f"{row['length']:,} tokens, {row['who']}, step {place + 1}: {key} {row[key][place]:.7g} is not "
                        f"ours, {own[key][place]:.7g}"
                    )
    return wrong


def exponents(table: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By side with three lengths or more: the power of the length that memory grows with.

    `growth` is peak − memory before the first step, as a user sees it; `by_length` leaves out gradients and optimizer
    state, which that step makes once and which hide the power at short lengths.
    """
    found: dict[str, dict[str, float]] = {}
    for who in dict.fromkeys(row["who"] for row in table):
        own = [row for row in table if row["who"] == who and "seconds" in row]
        for name, fixed in (("growth", 0), ("by_length", 1)):
            grown = [(row["length"], row["growth"] - fixed * row["held"]) for row in own]
            points = [(math.log(length), math.log(size)) for length, size in grown if size > 0]
            if len(points) >= 3:
                found.setdefault(who, {})[name] = slope(points)
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


# ---------------------------------------------------------------------------------------------------- shown


def lines(table: list[dict[str, Any]]) -> list[str]:
    """The table as text."""
    shown = [
        f"{'tokens':>8}  {'who':<13}{'dtype':<6}{'s a step':>10} {'(least to most)':<20}{'tokens/s':>10}{'had':>6}"
        f"{'peak GiB':>10}{'growth GiB':>12}{'share':>7}{'floor s':>9}  ours beside it"
    ]
    for row in table:
        start = f"{row['length']:>8,}  {row['who'].split()[0]:<13}{row['dtype']:<6}"
        if "seconds" not in row:
            shown.append(start + unfinished(row))
            continue
        spread = f"({row['least']:.4g} to {row['most']:.4g})"
        ratio = f"levers: {', '.join(row['levers']) or 'none'}" if "levers" in row else ""
        if "times_slower" in row:
            ratio = f"{row['times_slower']:.2f} × the tokens/s, {row['our_share_of_its_peak']:.2f} of the peak"
        shown.append(
            f"{start}{row['seconds']:>10.4g} {spread:<20}{row['tokens_per_second']:>10.4g}{row['had']:>6.0%}"
            f"{row['peak'] / GIB:>10.2f}"
            f"{row['growth'] / GIB:>12.2f}{row['share']:>7.0%}{row['floor']:>9.3g}  {ratio}".rstrip()
        )
    return shown


def unfinished(row: dict[str, Any]) -> str:
    """What came of a cell that has no figures."""
    if "seconds_more_than" in row:
        ratio = f"  ours more than {row['times_slower_more_than']:.2f} ×" if "times_slower_more_than" in row else ""
        return f"{'> ' + format(row['seconds_more_than'], '.4g') + ' s':>10} stopped at --limit{ratio}"
    if "memory_more_than" in row:
        return f"{'':>10} stopped: more than {row['memory_more_than'] / GIB:.1f} GiB"
    return f"{'':>10} failed: {row['failed']}"


def plot(table: list[dict[str, Any]], file: Path, title: str) -> None:
    """Tokens/s and peak memory over the length; logarithmic where the figures range over more than a factor of four."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    panels = (("tokens_per_second", 1.0, "tokens/s"), ("peak", GIB, "peak memory, GiB"))
    ticks = sorted({row["length"] for row in table})
    for axis, (key, unit, label) in zip(axes, panels, strict=True):
        for number, who in enumerate(dict.fromkeys(row["who"] for row in table)):
            points = [(row["length"], row[key] / unit) for row in table if row["who"] == who and key in row]
            color = COLORS[number % len(COLORS)]
            if points:
                axis.plot(
                    *zip(*points, strict=True), "o-", color=color, label=who, linewidth=2 if who == "ours" else 1.2
                )
            if key == "tokens_per_second" and who == "ours":
                floor = [
                    (row["length"], row["length"] / row["floor"]) for row in table if row["who"] == who and key in row
                ]
                if floor:
                    axis.plot(
                        *zip(*floor, strict=True), ":", color=color, label="by FLOPs at the machine's kernel rates"
                    )
        axis.set(xscale="log", xlabel="tokens in the window", title=label)
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)
        axis.xaxis.set_minor_locator(NullLocator())
        low, high = axis.get_ylim()
        if low > 0 and high / low > 4:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(title, 120)), fontsize=9)
    figure.savefig(file, dpi=130)
    plt.close(figure)
