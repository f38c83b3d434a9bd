"""Collects what a run folder holds for its page, whatever there is of it yet: plain JSON values, and what is missing.

Of dialogues nothing comes through but numbers: a receipt's words are let in by the names of their keys, one by one, and
the records of an evaluation, which hold answers, are not read at all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shridhar_ft.addresses import command_without, held_back, without
from shridhar_ft.config import find_recipe, load_recipe
from shridhar_ft.data.sources.names import did_you_mean
from shridhar_ft.errors import UserError
from shridhar_ft.receipts import receipt_files
from shridhar_ft.report.data_report import check_numbers_only
from shridhar_ft.runfolder import PART, RUNS, Run, check_owner, read_object, run_folder, settings_of
from shridhar_ft.shipped import recipe_names

SAMPLES = "samples.json"
WORDS_OF_A_RECEIPT = {
    *("in", "unit", "balance", "by", "from", "base", "hash", "base_hash", "attention", "dtype", "measured_on"),
    *("loss_after", "gate", "rates", "rope_type", "artefacts", "not_read", "differs"),
}
"""Keys under which a receipt's text is shown; `example` of the mask receipt, a conversation, is none of them."""
HIDDEN = "(text, not shown)"


@dataclass
class TrainedPart:
    """A stage or SFT, begun or not."""

    name: str
    """As its folder is called: `stages/<stage>` or `sft`."""
    settings: dict[str, Any]
    """Of the recipe."""
    done: dict[str, Any] | None = None
    """part.json."""
    before: dict[str, Any] = field(default_factory=dict)
    """Losses before its first step; {} where it has not begun."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl."""

    @property
    def after(self) -> dict[str, Any]:
        """Losses after its last step; {} where it has not ended."""
        return (self.done or {}).get("measured_after", {})


@dataclass
class Record:
    """All that the page is made from."""

    run: Run
    recipe: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    parts: list[TrainedPart]
    done: dict[str, dict[str, Any]]
    """part.json of data, tokenizer and export, where they are finished."""
    receipts: dict[str, dict[str, Any]]
    """By path below the run folder, in the order in which they were made; of text only what may be shown."""
    data: dict[str, Any] | None
    """data/report.json."""
    verdict: dict[str, Any] | None
    evaluations: list[dict[str, Any]]
    """results.json of the export first, then of other models."""
    samples: dict[str, Any] | None
    exported: list[str]
    """Names of the GGUF files."""
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read as what they are."""


def find_run(what: str) -> Run:
    """The run of a run folder, of a run's name, or of a recipe; it may be half done.

    Raises:
        UserError: There is none, with the nearest name that there is; the recipe is wrong; the folder holds the run of
            another name.
    """
    for folder in (Path(what), RUNS / what):
        if (folder / "data" / PART).is_file() or (folder / "status.json").is_file():
            run = Run(folder)
            check_owner(run)
            return run
    try:
        file = find_recipe(what)
    except UserError as error:
        runs = [path.name for path in RUNS.glob("[!.]*") if path.is_dir()]
        known = [*runs, *recipe_names()]
        raise UserError(
            f"{what}: no run there; name a run folder (runs/NAME), a run, or a recipe: "
            f"{did_you_mean(Path(what).name, known)}"
        ) from error
    run = run_folder(load_recipe(file).name)
    if not run.root.is_dir():
        raise UserError(f"{run.root}: nothing was run yet; run `shridhar-ft run {what}` first")
    return run


def _status(status: dict[str, Any], to: str | None) -> dict[str, Any]:
    """status.json without an address that may hold a token."""
    return {**status, "resume": command_without(status["resume"], to)} if status.get("resume") else status


OF_RECEIPTS = ("receipt", "ok", "claimed", "measured")


def collect(run: Run) -> Record:
    """Read a run folder."""
    bad: list[str] = []

    def held(path: Path, *keys: str) -> Any:  # noqa: ANN401 - whatever the file holds
        """What a JSON file holds; None where it is not there, is damaged or lacks one of the keys, which is noted."""
        if not path.is_file():
            return None
        try:
            return read_object(path, *keys)
        except ValueError:
            bad.append(str(path.relative_to(run.root)))
            return None

    file = run.root / "recipe.yaml"
    own = settings_of(file.read_bytes(), file) if file.is_file() else {}
    recipe = without(own, HIDDEN)
    settings = {f"stages/{stage['name']}": stage for stage in recipe.get("stages") or []}
    settings |= {"sft": recipe["sft"]} if recipe.get("sft") else {}
    parts = [
        TrainedPart(
            name,
            of_part,
            done=held(run.root / name / PART),
            before=held(run.root / name / "before.json") or {},
            log=list(_lines(run.root / name / "metrics.jsonl", bad, run.root)),
        )
        for name, of_part in settings.items()
    ]
    order = ["data", "tokenizer", *settings, "export"]
    receipts = {str(path.relative_to(run.root)): held(path, *OF_RECEIPTS) for path in receipt_files(run.root)}
    shown = {path: _shown(receipt) for path, receipt in receipts.items() if receipt is not None}
    results = [run.root / "eval" / "results.json", *sorted((run.root / "eval").glob("models/*/results.json"))]
    data = held(run.data / "report.json", "books.files", "dialogues.files", "splits", "histograms")
    if data:
        check_numbers_only(data["dialogues"])
    return Record(
        run=run,
        recipe=recipe,
        environment=held(run.root / "environment.json") or {},
        status=_status(held(run.root / "status.json") or {}, held_back(own)),
        parts=parts,
        done={name: part for name in ("data", "tokenizer", "export") if (part := held(run.root / name / PART))},
        receipts=dict(sorted(shown.items(), key=lambda item: (_place(item[0], order), item[1].get("at", "")))),
        data=data,
        verdict=held(run.data / "verdict.json"),
        evaluations=[found for path in results if (found := held(path))],
        samples=held(run.root / SAMPLES),
        exported=sorted(path.name for path in run.export.glob("*.gguf")),
        unreadable=bad,
    )


def part_of_receipt(path: str) -> str:
    """The part that a receipt belongs to: `stages/8k/receipts/rope.json` → `stages/8k`."""
    folder = Path(path).parent
    return str(folder.parent if folder.name == "receipts" else folder)


def _place(path: str, order: list[str]) -> int:
    part = part_of_receipt(path)
    return order.index(part) if part in order else len(order)


def _lines(file: Path, bad: list[str], root: Path) -> Iterator[dict[str, Any]]:
    """Lines of a log; one that a kill or a full disk cut off is noted."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [], start=1):
        try:
            yield json.loads(line)
        except ValueError:
            bad.append(f"{file.relative_to(root)}:{number}")


def _shown(value: Any, key: str = "") -> Any:  # noqa: ANN401 - whatever JSON holds
    """A receipt without text that is not known to be its own; `mend`, `at` and its name are sentences of ours."""
    if isinstance(value, dict):
        top = ("receipt", "at", "mend") if "receipt" in value else ()
        return {name: inner if name in top else _shown(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, key) for inner in value]
    if not isinstance(value, str) or key in WORDS_OF_A_RECEIPT or _is_number(value):
        return value
    return HIDDEN


def _is_number(text: str) -> bool:
    """Whether a text is the NaN or infinity of a receipt."""
    return text in ("nan", "inf", "-inf")
