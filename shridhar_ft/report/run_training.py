"""What the page shows of the training: losses over all steps and by position, context gain, tokens, the plan."""

from typing import Any

from shridhar_ft.report.bars import beside
from shridhar_ft.report.collect import Record, TrainedPart
from shridhar_ft.report.plots import Curve, Mark, curves
from shridhar_ft.report.run_receipts import text_name
from shridhar_ft.report.svg import share_bars
from shridhar_ft.report.tongue import NONE, Tongue

MOST_ROWS = 60  # of a table of losses
TRAIN, VALIDATION = 0, 1  # line colours


def short(part: str) -> str:
    """A part's name where there is little room: `stages/8k` → `8k`."""
    return part.removeprefix("stages/")


def losses(record: Record, tongue: Tongue) -> dict[str, Any] | None:
    """The plot of all losses, its legend and its table; None where nothing is logged yet."""
    lines: list[Curve] = []
    marks: list[Mark] = []
    rows: list[tuple[str, ...]] = []
    said: list[str] = []
    offset = 0
    for part in record.parts:
        logged = {key: [(line["step"], line[key]) for line in part.log if key in line] for key in ("loss", "eval_loss")}
        steps = [line["step"] for line in part.log]
        if not steps:
            continue
        checked = logged["eval_loss"]
        if (began := (part.before.get("validation") or {}).get("loss")) is not None:
            checked = [(0, began), *checked]
        length = max([*steps, (part.done or {}).get("steps", 0)])
        marks.append(Mark(offset, short(part.name), offset + length))
        for values, colour in ((logged["loss"], TRAIN), (checked, VALIDATION)):
            if values:
                points = [(offset + step, value) for step, value in values]
                lines.append(Curve("", points, colour, dots=colour == VALIDATION))
        ends = [values[at][1] if values else None for values in (logged["loss"], checked) for at in (0, -1)]
        told = dict(zip(("first", "last", "first_v", "last_v"), (tongue.number(x, 2) for x in ends), strict=True))
        said.append(tongue.say("curve_says", part=short(part.name), **told))
        trained, valid = dict(logged["loss"]), dict(checked)
        rows += [
            (
                short(part.name),
                tongue.number(step),
                tongue.number(trained.get(step), 3),
                tongue.number(valid.get(step), 3),
            )
            for step in sorted(trained.keys() | valid.keys())
        ]
        offset += length
    if not any(line.points for line in lines):
        return None
    axes = (tongue.say("steps_axis"), tongue.say("loss_axis"))
    shown = rows if len(rows) <= MOST_ROWS else [rows[i * (len(rows) - 1) // (MOST_ROWS - 1)] for i in range(MOST_ROWS)]
    return {
        "svg": curves(lines, axes, tongue.say("losses"), "; ".join(said), (tongue.compact, tongue.number), marks),
        "legend": [(TRAIN, tongue.say("train_loss")), (VALIDATION, tongue.say("validation_loss"))],
        "head": [tongue.say(key) for key in ("part", "step", "train_loss", "validation_loss")],
        "rows": shown,
        "thinned": "" if len(shown) == len(rows) else tongue.say("some_rows", shown=len(shown), all=len(rows)),
    }


def positions(record: Record, tongue: Tongue) -> list[dict[str, Any]]:
    """One plot a part that was measured: loss by position before it and after it."""
    plots = []
    for part in record.parts:
        name = _measured_on(part)
        if name is None:
            continue
        sides = {key: found[name]["by_position"] for key, found in _sides(part) if name in found}
        lines = [
            Curve(tongue.say(key), _middles(rows), colour, dashed=key == "before")
            for colour, (key, rows) in zip((1, 0), sides.items(), strict=False)
        ]
        if not any(line.points for line in lines):
            continue
        ends = [tongue.number(point, 2) for rows in sides.values() for point in _ends(rows)]
        text = text_name(name, tongue)
        keys = list(sides)
        plots.append(
            {
                "title": short(part.name),
                "says": text,
                "svg": curves(
                    lines,
                    (tongue.say("position_axis"), tongue.say("loss_axis")),
                    f"{tongue.say('positions')}: {part.name}, {text}",
                    tongue.say("position_desc", **dict(zip("abcd", [*ends, NONE, NONE], strict=False))),
                    (tongue.compact, tongue.number),
                    [],
                ),
                "legend": [(line.colour, line.name) for line in lines],
                "head": [tongue.say("position_axis"), *(tongue.say(key) for key in keys)],
                "rows": [
                    (
                        f"{tongue.number(row['from'])} – {tongue.number(row['to'] - 1)}",
                        *(tongue.number(sides[key][index]["loss"], 3) for key in keys),
                    )
                    for index, row in enumerate(sides[keys[0]])
                ],
            }
        )
    return plots


def gains(record: Record, tongue: Tongue) -> list[tuple[str, ...]]:
    """Rows of the table of context gains: part, text, before, after."""
    rows = []
    for part in record.parts:
        texts = dict.fromkeys(name for _, found in _sides(part) for name in found if "context_gain" in found[name])
        for name in texts:
            told = (_gain(found.get(name), tongue) for found in (part.before, part.after))
            rows.append((short(part.name), text_name(name, tongue), *told))
    return rows


def _gain(found: dict[str, Any] | None, tongue: Tongue) -> str:
    if not found:
        return NONE
    gain = found["context_gain"]
    error = f" ± {tongue.number(gain['standard_error'], 3)}" if gain["standard_error"] is not None else ""
    return tongue.signed(gain["gain"]) + error


def _sides(part: TrainedPart) -> list[tuple[str, dict[str, Any]]]:
    return [("before", part.before), ("after", part.after)]


def _measured_on(part: TrainedPart) -> str | None:
    """The text that shows a part's own length: the long one where it fills that, else the validation split."""
    context = (part.done or {}).get("context") or part.settings.get("context")
    wanted = [f"long_text_{context}", "validation", *part.before, *part.after]
    return next((name for name in wanted if name in part.before or name in part.after), None)


def _middles(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [((row["from"] + row["to"] - 1) / 2, row["loss"]) for row in rows if row["loss"] is not None]


def _ends(rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    found = _middles(rows)
    return (found[0][1], found[-1][1]) if found else (None, None)


# ------------------------------------------------------------------------------------------- plan and ledger


def plan(record: Record, tongue: Tongue) -> dict[str, Any] | None:
    """Forecasts beside what came, as plots and a table; None where no part has ended yet."""
    held = {
        short(part.name): record.receipts[path]
        for part in record.parts
        if (path := f"{part.name}/receipts/plan.json") in record.receipts
    }
    if not held:
        return None
    plots = []
    for key, title, show in (
        ("peak_bytes", "plan_memory", tongue.memory),
        ("step_seconds", "plan_step", tongue.time),
        ("hours", "plan_hours", lambda hours: tongue.time(hours * 3600)),
    ):
        pairs = [(name, receipt["claimed"][key], receipt["measured"][key]) for name, receipt in held.items()]
        pairs = [(name, foretold, came) for name, foretold, came in pairs if foretold is not None and came is not None]
        if pairs:
            says = "; ".join(f"{name}: {show(foretold)} → {show(came)}" for name, foretold, came in pairs)
            words = tongue.say(title)
            plots.append({"title": words, "svg": beside(pairs, words, says, show)})
    rows = [
        (
            name,
            tongue.memory(claimed["peak_bytes"]),
            tongue.memory(measured["peak_bytes"]),
            tongue.off(measured["peak_off"]),
            tongue.time(claimed["step_seconds"]),
            tongue.time(measured["step_seconds"]),
            tongue.off(measured["step_off"]),
            tongue.number(measured["usd"]),
        )
        for name, receipt in held.items()
        for claimed, measured in [(receipt["claimed"], receipt["measured"])]
    ]
    memory, step = tongue.say("plan_memory"), tongue.say("plan_step")
    came, foretold, off = (tongue.say(key) for key in ("came", "foretold", "off_by"))
    head = [f"{what}, {which}" for what in (memory, step) for which in (foretold, came, off)]
    rates = dict.fromkeys(tongue.sentence(receipt["claimed"]["rates"]) for receipt in held.values())
    return {
        "plots": plots,
        "head": [tongue.say("part"), *head, tongue.say("cost")],
        "rows": rows,
        "rates": "; ".join(rates),
    }


def token_ledger(record: Record, tongue: Tongue) -> dict[str, Any] | None:
    """Shares of the tokens of each part that were learned, masked and lost; None where nothing is packed yet."""
    found = {
        short(part.name): record.receipts[path]["measured"]
        for part in record.parts
        if (path := f"{part.name}/receipts/ledger.json") in record.receipts
    }
    found = {name: counts for name, counts in found.items() if counts["in"]}
    if not found:
        return None
    shares = {
        name: [
            counts["trained"] / counts["in"],
            counts["masked"] / counts["in"],
            (counts["truncated"] + counts["dropped"]) / counts["in"],
        ]
        for name, counts in found.items()
    }
    names = [tongue.say(key) for key in ("trained", "masked", "lost")]
    return {
        "svg": share_bars(shares, names, tongue.share, tongue.say("shares_of")),
        "legend": list(enumerate(names)),
        "head": [tongue.say("part"), tongue.say("tokens"), *names],
        "rows": [
            (
                name,
                *(tongue.number(counts[key]) for key in ("in", "trained", "masked")),
                tongue.number(counts["truncated"] + counts["dropped"]),
            )
            for name, counts in found.items()
        ],
    }
