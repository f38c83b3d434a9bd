"""What the page shows of evaluations: each score on its scale, needles as heat maps, models beside each other."""

from typing import Any

from shridhar_ft.report.bars import heat_map, scale
from shridhar_ft.report.collect import Record
from shridhar_ft.report.plots import Curve, curves
from shridhar_ft.report.tongue import Tongue
from shridhar_ft.score_details import detail_lines

SHARES = ("share", "share of runs")
DIRECTIONS = {True: "higher_better", False: "lower_better", None: "nearest_better"}
MOST_MODELS = 4  # of one plot: as many line colours as the page has
Results = dict[str, Any]


def evaluations(record: Record, tongue: Tongue) -> list[dict[str, Any]]:
    """One card an evaluated model."""
    return [_evaluation(results, tongue) for results in record.evaluations]


def _evaluation(results: Results, tongue: Tongue) -> dict[str, Any]:
    at = results["at"][:10]
    notes = [
        f"{task}: {tongue.sentence(note)}"
        for task, details in results["details"].items()
        for note in (details or {}).get("notes", [])
    ]
    # The effective lengths stand below the heat maps.
    found = [
        f"{task}: {tongue.sentence(sentence)}"
        for task, sentence in detail_lines(results)
        if not sentence.startswith("effective length")
    ]
    return {
        "name": results["model"],
        "says": tongue.say("evaluated", window=results["window"], seed=results["seed"], at=at),
        "scores": [_score(score, tongue) for score in results["scores"]],
        "head": [tongue.say(key) for key in ("score", "value", "interval", "items", "floor", "ceiling", "unit")],
        "found": found,
        "notes": notes,
        "unmeasured": [
            tongue.say("not_measured", task=task, why=tongue.sentence(why))
            for task, why in results["unmeasured"].items()
        ],
    }


def _score(score: Results, tongue: Tongue) -> dict[str, Any]:
    def shown(value: float | None) -> str:
        return tongue.share(value) if score["unit"] in SHARES else tongue.number(value, 3)

    name = tongue.sentence(score["name"])
    value, low, high = (shown(score[key]) for key in ("value", "low", "high"))
    ends = {end: tongue.sentence(score[f"{end}_of"]) for end in ("floor", "ceiling")}
    told = {end: f"{shown(score[end])} ({of})" if score[end] is not None else of for end, of in ends.items()}
    known = score["value"] is not None and score["low"] is not None and score["high"] is not None
    lacking = "" if known else tongue.sentence(score.get("lacking", ""))  # results of before have no such key
    whole = score["unit"] in SHARES
    return {
        "name": name,
        "value": value,
        "interval": lacking or f"[{low}; {high}]",
        "n": tongue.number(score["n"]),
        "floor": told["floor"],
        "ceiling": told["ceiling"],
        "unit": tongue.say("unit_share") if score["unit"] == "share" else tongue.sentence(score["unit"]),
        "better": tongue.say(DIRECTIONS[score["higher_is_better"]]),
        "target": tongue.say("target", what=tongue.sentence(score["target"])) if score["target"] else "",
        "svg": scale(
            score["value"],
            (score["low"], score["high"]),
            score["floor"],
            score["ceiling"],
            whole,
            name,
            tongue.say("score_desc", value=value, low=low, high=high, **told),
        )
        if known
        else None,
    }


def needles(record: Record, tongue: Tongue) -> list[dict[str, Any]]:
    """Two heat maps an evaluated model with needles."""
    maps = []
    for results in record.evaluations:
        details = results["details"].get("retention")
        if not details:
            continue
        for way in ("exact", "choice"):
            heat = details[way]["heat_map"]
            cells = [
                (share, length, depth)
                for length, row in zip(heat["lengths"], heat["shares"], strict=True)
                for depth, share in zip(heat["depths"], row, strict=True)
                if share is not None
            ]
            worst, best = min(cells), max(cells)
            title = tongue.say(f"needle_{way}")
            depths = [tongue.number(float(depth), 2) for depth in heat["depths"]]
            shares = [[tongue.share(share, 0) for share in row] for row in heat["shares"]]
            lengths = [tongue.number(length) for length in heat["lengths"]]
            effective = details[way]["effective_length"]
            maps.append(
                {
                    "title": f"{results['model']}: {title}",
                    "svg": heat_map(
                        list(zip(lengths, heat["shares"], strict=True)),
                        depths,
                        (tongue.say("depth_axis"), tongue.say("length_axis")),
                        f"{tongue.say('needles')}, {results['model']}: {title}",
                        tongue.say(
                            "heat_desc",
                            share=tongue.share(worst[0], 0),
                            length=worst[1],
                            depth=tongue.number(float(worst[2]), 2),
                            best=tongue.share(best[0], 0),
                        ),
                        lambda share: tongue.share(share, 0),
                    ),
                    "caption": tongue.say(
                        "effective",
                        lengths="; ".join(f"{tongue.sentence(k)}: {tongue.number(v)}" for k, v in effective.items()),
                    ),
                    "head": [tongue.say("length_axis"), *(f"{tongue.say('depth_axis')} {depth}" for depth in depths)],
                    "rows": [(length, *row) for length, row in zip(lengths, shares, strict=True)],
                }
            )
    return maps


def positions_of_models(record: Record, tongue: Tongue) -> dict[str, Any] | None:
    """Loss by position of the evaluated models in one plot; None where none was measured so.

    Models with other windows or tokenizers count other tokens: their lines are of other lengths and heights.
    """
    held = [
        (results["model"], rows)
        for results in record.evaluations
        if (rows := results["details"].get("loss_by_position", {}).get("by_position"))
    ][:MOST_MODELS]
    if not held:
        return None
    lines = [
        Curve(name, [((row["from"] + row["to"] - 1) / 2, row["loss"]) for row in rows], colour)
        for colour, (name, rows) in enumerate(held)
    ]
    says = "; ".join(
        f"{name}: {tongue.number(rows[0]['loss'], 2)} → {tongue.number(rows[-1]['loss'], 2)}" for name, rows in held
    )
    return {
        "svg": curves(
            lines,
            (tongue.say("position_axis"), tongue.say("loss_axis")),
            tongue.say("positions_of_models"),
            says,
            (tongue.compact, tongue.number),
            [],
        ),
        "legend": [(line.colour, line.name) for line in lines],
        "head": [tongue.say("position_axis"), *(name for name, _ in held)],
        "rows": _rows(held, tongue),
    }


def _rows(held: list[tuple[str, list[dict[str, Any]]]], tongue: Tongue) -> list[tuple[str, ...]]:
    """A row a bucket of any of the models."""
    losses = {(row["from"], row["to"]): {} for _, rows in held for row in rows}  # type: dict[Any, dict[str, float]]
    for name, rows in held:
        for row in rows:
            losses[row["from"], row["to"]][name] = row["loss"]
    return [
        (
            f"{tongue.number(begin)} – {tongue.number(end - 1)}",
            *(tongue.number(of_models.get(name), 3) for name, _ in held),
        )
        for (begin, end), of_models in sorted(losses.items())
    ]
