"""Runs a suite on a model: each record is on the disk before the next one, so a stopped evaluation goes on.

<folder>/items/<task>.jsonl   what the task is made from, then a record an item
<folder>/results.json         scores, details, environment
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.ends import REASONS
from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.measures import Record, Score, score
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import BY_TOKENS, Item, Judging, Task, Wanted
from shridhar_ft.progress import counted
from shridhar_ft.runfolder import as_json, disk_errors, environment, fingerprint, read_json, write_json, write_text

RESULTS = "results.json"
PROBE = "Съешь ещё этих мягких французских булок, да выпей чаю. The quick brown fox, 108 000."
"""A text by whose tokens two tokenizers are told apart."""


def evaluate(
    reader: Reader,
    suite: Sequence[Wanted],
    materials: Materials,
    folder: Path,
    seed: int,
    say: Callable[[str], None],
    base: Path | None = None,
) -> dict[str, Any]:
    """Measure a model by all tasks of a suite.

    Args:
        reader: The model.
        suite: The tasks.
        materials: The texts.
        folder: Where records and results go; finished records of the same model, texts and settings are kept.
        seed: Of items, draws and intervals.
        say: Told each line.
        base: The folder of the base model's evaluation by the same suite: its scores are floors.

    Returns:
        What results.json holds.

    Raises:
        UserError: The base was measured by something else; see `check_base`.
    """
    if base is not None:
        check_base(base, suite, materials, seed)
    started = time.monotonic()
    scores: list[Score] = []
    details: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for wanted in suite:
        begun = time.monotonic()
        try:
            found, of_task = _run_task(reader, wanted, materials, folder, seed, say, base)
        except Unmeasured as why:
            unmeasured[wanted.name] = str(why)
            say(f"eval: {wanted.name} is not measured: {why}")
            continue
        scores += found
        details[wanted.name] = of_task
        seconds[wanted.name] = round(time.monotonic() - begun, 1)
    results = {
        "model": reader.name,
        "made_from": {
            "model": reader.made_from,
            "texts": materials.made_from,
            "base": read_json(base / RESULTS)["made_from"]["model"] if base else None,
        },
        "tokenizer": _tokenizer(reader),
        "window": reader.window,
        "suite": {wanted.name: wanted.settings.model_dump(mode="json") for wanted in suite},
        "seed": seed,
        "base": read_json(base / RESULTS)["model"] if base else None,
        "scores": [asdict(one) for one in scores],
        "details": details,
        "unmeasured": unmeasured,
        "seconds": {**seconds, "all": round(time.monotonic() - started, 1)},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }
    results = for_json(results)
    write_json(folder / RESULTS, results)
    return results


def _run_task(
    reader: Reader,
    wanted: Wanted,
    materials: Materials,
    folder: Path,
    seed: int,
    say: Callable[[str], None],
    base: Path | None,
) -> tuple[list[Score], Any]:
    task = wanted.make(materials, seed)
    items = task.items(reader)
    made_from = _made_from(reader.made_from, wanted, task, materials, seed)
    file = folder / "items" / f"{wanted.name}.jsonl"
    records = _measured(reader, task, items, file, made_from, f"eval: {wanted.name}", say)
    of_base: list[Record] = []
    if base is not None:
        of_base, why = _of_base(base, reader, wanted, task, materials, seed, records)
        if why:
            say(f"eval: {wanted.name}: no floor is taken from the base: {why}")
    rows: list[Record] = records
    known: dict[str, Any] = {}
    if isinstance(task, Judging):
        rows, known = task.judged(records, of_base)
        lines = (json.dumps(for_json(row), ensure_ascii=False) + "\n" for row in [{"made_from": made_from}, *rows])
        write_text(judged_file(file), "".join(lines))
    found = {measure.name: score(measure, rows, seed) for measure in task.measures(rows)}
    details = {**task.scores(rows, found, of_base), **known}
    for one in found.values():
        for number, words in ((one.floor, one.floor_of), (one.ceiling, one.ceiling_of)):
            assert words in REASONS or (number is not None and words), f"{one.name}: an end without number and reason"
    return list(found.values()), details


def check_base(base: Path, suite: Sequence[Wanted], materials: Materials, seed: int) -> None:
    """Refuse an evaluation whose scores are no floors here: of other texts, settings or items.

    Args:
        base: The folder of the base's evaluation.
        suite: The tasks that are measured now.
        materials: The texts.
        seed: Of items and draws.

    Raises:
        UserError: Which of them differs.
    """
    held = read_json(base / RESULTS)
    settings = {wanted.name: wanted.settings.model_dump(mode="json") for wanted in suite}
    if held["made_from"]["texts"] != materials.made_from:
        differs = "its texts differ; evaluate the base with --texts of this run and the same eval settings"
    elif held["seed"] != seed:
        differs = f"its seed is {held['seed']} and this one's {seed}; evaluate the base with seed={seed}"
    elif lacking := [name for name in settings if name not in held["suite"]]:
        differs = f"it has no {lacking[0]}; evaluate the base by the same suite"
    elif other := [name for name in settings if held["suite"][name] != settings[name]]:
        differs = f"its settings of {other[0]} differ; evaluate the base by the same suite"
    else:
        return
    raise UserError(f"--base {base}: its scores are no floors of this evaluation: {differs}")


def _made_from(model: str, wanted: Wanted, task: Task, materials: Materials, seed: int) -> str:
    """What the records of a task hang on."""
    return fingerprint(model, materials.made_from, wanted.settings.model_dump(mode="json"), task.version, seed)


def _of_base(
    base: Path,
    reader: Reader,
    wanted: Wanted,
    task: Task,
    materials: Materials,
    seed: int,
    records: Sequence[Record],
) -> tuple[list[Record], str]:
    """The base's records of the same items in their order; none, and why, where it has not all of them."""
    results = read_json(base / RESULTS)
    header, held = read_records(base / "items" / f"{wanted.name}.jsonl")
    if not held:
        return [], results["unmeasured"].get(wanted.name, "it has no records of it")
    if header.get("made_from") != _made_from(results["made_from"]["model"], wanted, task, materials, seed):
        return [], "its records are of another version or machine; evaluate the base again"
    if wanted.name in BY_TOKENS and results["tokenizer"] != _tokenizer(reader):
        return [], "its tokenizer differs, so its windows hold other passages"
    of_key = {record["key"]: record for record in held}
    if lacking := sum(record["key"] not in of_key for record in records):
        window = f"{results['window']:,}"
        return [], f"it lacks {lacking:,} of {len(records):,} items (its window is {window} tokens)"
    return [of_key[record["key"]] for record in records], ""


def _tokenizer(reader: Reader) -> str:
    """Fingerprint of how a reader cuts a text into tokens."""
    return fingerprint(reader.encode(PROBE))


def judged_file(file: Path) -> Path:
    """Where the judged records of a task lie, beside its own."""
    return file.with_suffix(".judged.jsonl")


def _measured(
    reader: Reader,
    task: Task,
    items: Sequence[Item],
    file: Path,
    made_from: str,
    what: str,
    say: Callable[[str], None],
) -> list[Record]:
    """The records of all items, in the items' order; those that the file holds are not measured again."""
    header, kept = read_records(file)
    if header and header.get("made_from") != made_from:
        say(f"{what}: its records were made from another model, text or setting; beginning anew")
        kept = []
    done: dict[str, Record] = {str(record["key"]): record for record in kept}
    # A batch is measured as one, so one that was not finished is measured again as a whole.
    waiting = [batch for batch in _batches(items, task.batch) if any(item["key"] not in done for item in batch)]
    if done and waiting:
        say(f"{what}: going on after {len(done):,} of {len(items):,} items")
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(file), file.open("w", encoding="utf-8") as out:
        for row in [{"made_from": made_from}, *done.values()]:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.flush()
        fresh = (record for batch in waiting for record in task.measure(reader, batch))
        for record in counted(fresh, what, sum(map(len, waiting))):
            record = for_json(dict(record))
            if record["key"] not in done:
                done[record["key"]] = record
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                out.flush()
    return [done[item["key"]] for item in items]


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def read_records(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """The header and the records of a task's file; a line that a kill cut off is left out."""
    if not file.is_file():
        return {}, []
    rows = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return (rows[0], rows[1:]) if rows else ({}, [])


def for_json(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """A value as it comes back from a JSON file; NaN and infinity as null, which strict readers take."""
    if isinstance(value, dict):
        return {str(key): for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(inner) for inner in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return as_json(value)
