"""Differences of two evaluations by the same suite, each with the interval of a paired bootstrap."""

from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.measures import Record, difference
from shridhar_ft.evaluation.runner import RESULTS, for_json, judged_file, read_records
from shridhar_ft.evaluation.suite import BY_TOKENS, TASKS, Wanted
from shridhar_ft.runfolder import read_object

PER_TOKEN = ("nats a token", "perplexity")  # other things with another tokenizer


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare two evaluations, measure by measure, on the items that both have.

    Args:
        ours: Folder with results.json and items/.
        theirs: The same of the other model; differences are ours minus theirs.

    Returns:
        `models`, `differences` (a row each: name, unit, difference, low, high, n, ours, theirs, and `better`: ours,
        theirs, or neither where the interval holds 0), `left_out` (what cannot be compared, and why).

    Raises:
        UserError: The two share no task with the same settings and texts.
    """
    keys = ("made_from.texts", "tokenizer", "suite", "seed", "model")
    again = "copy it again, or measure that model anew with `shridhar-ft eval`"
    pair = [read_object(folder / RESULTS, *keys, mend=again) for folder in (ours, theirs)]
    left_out: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    if pair[0]["made_from"]["texts"] != pair[1]["made_from"]["texts"]:
        raise UserError(f"{ours} and {theirs} were measured on different texts; measure both with the same --texts RUN")
    same_tokens = pair[0]["tokenizer"] == pair[1]["tokenizer"]
    for name, settings in pair[0]["suite"].items():
        if name not in pair[1]["suite"]:
            left_out[name] = "the other evaluation has no such task"
            continue
        records = [_records(folder / "items" / f"{name}.jsonl") for folder in (ours, theirs)]
        if not all(records):
            left_out[name] = "it was not measured in both"
            continue
        if settings != pair[1]["suite"][name]:
            left_out[name] = "its settings differ"
            continue
        if name in BY_TOKENS and not same_tokens:
            left_out[name] = "the tokenizers differ, so its windows hold other passages; see bits per byte"
            continue
        if not {r["key"] for r in records[0]} & {r["key"] for r in records[1]}:
            differ = "the windows differ, so " if pair[0]["window"] != pair[1]["window"] else ""
            left_out[name] = f"{differ}no item is shared"
            continue
        task = _task(name, settings)
        measures = [{m.name: m for m in task.measures(side)} for side in records]
        for measure in measures[0].values():
            if measure.name not in measures[1]:
                left_out[measure.name] = "the other evaluation has no such measure"
            elif measure.unit in PER_TOKEN and not same_tokens:
                left_out[measure.name] = "the tokenizers differ, so a token is not the same thing; see bits per byte"
            elif measure.of_base and _base(pair[0]) != _base(pair[1]):
                left_out[measure.name] = "it counts from the base, and the bases differ; give both the same --base"
            elif why := _undefined(measure.name, pair):
                left_out[measure.name] = why
            elif (row := difference(measure, records[0], records[1], pair[0]["seed"])) is None:
                left_out[measure.name] = "no item of it is shared"
            else:
                rows.append({"name": measure.name, "unit": measure.unit, **row, "better": _better(row, measure)})
    if not rows:
        raise UserError(f"{ours} and {theirs} share nothing that can be compared{_reasons(left_out)}")
    return for_json({"models": [one["model"] for one in pair], "differences": rows, "left_out": left_out})


def _records(file: Path) -> list[Record]:
    judged = judged_file(file)
    return read_records(judged if judged.is_file() else file)[1]


def _base(results: dict[str, Any]) -> Any:  # noqa: ANN401 - a fingerprint, or nothing
    """The base whose scores are an evaluation's floors: its fingerprint, its name in results of before, or None."""
    return results["made_from"].get("base", results["base"])


def _undefined(name: str, pair: list[dict[str, Any]]) -> str:
    """Why a measure has no value in one of two evaluations; empty where it has one in both."""
    for results in pair:
        for score in results["scores"]:
            if score["name"] == name and score["value"] is None:
                return f"{results['model']}: {score.get('lacking') or 'it is undefined'}"
    return ""


def _reasons(left_out: dict[str, str]) -> str:
    said = "; ".join(f"{name}: {why}" for name, why in left_out.items())
    return f" ({said})" if said else "; run the same suite on both"


def _better(row: dict[str, Any], measure: Any) -> str:  # noqa: ANN401 - a Measure
    undecided = not row["low"] > 0 and not row["high"] < 0  # also where there is no interval
    if undecided or measure.higher_is_better is None:  # whichever is nearer to the ceiling: a difference does not tell
        return "neither"
    return "ours" if (row["low"] > 0) == measure.higher_is_better else "theirs"


def _task(name: str, settings: dict[str, Any]) -> Any:  # noqa: ANN401 - a Task
    """The task for its measures only: they need no texts."""
    from importlib import import_module

    schema = import_module(TASKS[name]).Settings
    return Wanted(name, schema.model_validate(settings)).make(Materials(), 0)
