"""The data's own page: what was read, what was taken out, how it was split, and whether it suffices.

    runs/<name>/data/report.html  ←  report.json, receipts/{ledger,split}.json, verdict.json where it is there

One file without script or network. Everything that comes from the sources is escaped. Of dialogues there are numbers
only: the page refuses a report that holds anything else of them.
"""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from shridhar_ft.data.histogram import Bins
from shridhar_ft.data.measure import KINDS, Kind
from shridhar_ft.data.split import SPLITS
from shridhar_ft.report.changes import show_change
from shridhar_ft.report.data_report import Characters, DataReport, KindReport, SourceReport, check_numbers_only
from shridhar_ft.report.pages import render
from shridhar_ft.report.svg import compact, histogram, share_bars
from shridhar_ft.runfolder import PART, Run, read_object, write_text

MOST_SOURCES = 100
MOST_EXAMPLES = 10
TITLES: dict[Kind, str] = {"books": "Books", "dialogues": "Dialogues"}
UNITS: dict[Kind, str] = {"books": "blocks", "dialogues": "conversations"}
PACKINGS = {
    "documents": "windows of whole chapters",
    "works": "windows of works in a row",
    "split": "windows that works are cut into",
}
HISTOGRAMS = {
    "block characters": ("Chapter blocks", "characters", "blocks"),
    "conversation characters": ("Conversations", "characters", "conversations"),
    "turns per conversation": ("Turns of a conversation", "turns", "conversations"),
}
"""Histogram in the report → its title, what it counts by, and what it counts."""


def write_data_page(run: Run) -> Path:
    """Write runs/<name>/data/report.html from what the run's data folder holds; returns its path."""
    anew = f"remove {run.data / PART}, and `shridhar-ft data build` makes it anew"
    receipts = {
        name: read_object(run.data / "receipts" / f"{name}.json", "measured", mend=anew) for name in ("ledger", "split")
    }
    verdict = run.data / "verdict.json"
    report = read_object(run.data / "report.json", "books.files", "dialogues.files", "splits", "histograms", mend=anew)
    page = data_page(
        *(run.name, cast("DataReport", report), receipts),
        read_object(verdict, mend="remove it") if verdict.is_file() else None,
    )
    path = run.data / "report.html"
    write_text(path, page)
    return path


def data_page(
    name: str, report: DataReport, receipts: Mapping[str, Any], verdict: Mapping[str, Any] | None = None
) -> str:
    """The page as HTML.

    Args:
        name: Name of the run.
        report: What report.json holds.
        receipts: The receipts `ledger` and `split`.
        verdict: What verdict.json holds, once a tokenizer has counted.
    """
    check_numbers_only(report["dialogues"])
    kinds = [kind for kind in KINDS if report[kind]["files"]]
    return render(
        "data_page.html",
        name=name,
        headline=_headline(report, kinds),
        clean=_clean(receipts),
        figures=_figures(report, kinds, verdict),
        verdict=verdict,
        packings=PACKINGS,
        splits=SPLITS,
        kinds=[_kind(kind, report, receipts["split"], verdict) for kind in kinds],
        histograms=[_plot(title, bins) for title, bins in report.get("histograms", {}).items() if bins["counts"]],
        sources=[_source(file) for kind in kinds for file in report[kind]["files"]][:MOST_SOURCES],
        more_sources=max(0, sum(len(report[kind]["files"]) for kind in kinds) - MOST_SOURCES),
        receipts=_receipts(receipts),
    )


def _came_in(characters: Characters) -> int:
    """Characters read; the ledger's balance is a receipt of its own."""
    return characters["kept"] + sum(characters["removed"].values()) - sum(characters["added"].values())


def _headline(report: DataReport, kinds: list[Kind]) -> str:
    came = sum(_came_in(report[kind]["characters"]) for kind in kinds)
    kept = sum(report[kind]["characters"]["kept"] for kind in kinds)
    files = sum(len(report[kind]["files"]) for kind in kinds)
    whole = {"books": "blocks of books", "dialogues": "conversations"}
    pieces = " and ".join(f"{report[kind]['rows']:,} {whole[kind]}" for kind in kinds)
    return (
        f"{compact(came)} characters were read from {files:,} {'file' if files == 1 else 'files'}; "
        f"{_share(kept, came)} of them are kept, as {pieces}."
    )


def _clean(receipts: Mapping[str, Any]) -> dict[str, Any]:
    """Whether every receipt holds and train shares nothing, in a sentence."""
    failed = [name for name, receipt in receipts.items() if not receipt["ok"]]
    if failed:
        return {"ok": False, "says": f"The {' and '.join(failed)} receipt does not hold; see the end of the page."}
    shared = sum(
        runs["in_train"]
        for kind in receipts["split"]["measured"].values()
        for runs in kind["runs_of_13_words"].values()
    )
    if shared:
        return {"ok": False, "says": f"{shared:,} runs of 13 words of validation and test stand in train too."}
    return {"ok": True, "says": "Every character is accounted for, and train shares no run of 13 words with the rest."}


def _figures(report: DataReport, kinds: list[Kind], verdict: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The few numbers that one wants first."""
    figures = [(f"{report[kind]['characters']['kept']:,}", f"characters of {kind}") for kind in kinds]
    if verdict:
        train = verdict["tokens"]["train"]
        figures += [(f"{train[kind]:,}", f"tokens of {kind} to train on") for kind in kinds]
    return figures


def _kind(
    kind: Kind, report: DataReport, split: Mapping[str, Any], verdict: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that the page says of books, or of dialogues."""
    of_kind, measured = report[kind], split["measured"][kind]
    characters = of_kind["characters"]
    came, removed = _came_in(characters), sum(characters["removed"].values())
    bars = {
        "asked": [split["claimed"]["shares"][name] for name in SPLITS],
        "characters": [measured["shares"][name] for name in SPLITS],
    }
    if verdict:
        bars["tokens"] = [verdict["shares"][kind][name]["tokens"] for name in SPLITS]
    runs = measured["runs_of_13_words"]
    steps = sorted(
        {**characters["changed"], **characters["removed"]},
        key=lambda step: (-characters["removed"].get(step, 0), -characters["changed"].get(step, 0), step),
    )
    return {
        "title": TITLES[kind],
        "units": UNITS[kind],
        "bars": share_bars(bars, SPLITS),
        "tokens": bool(verdict),
        "characters_per_token": verdict["characters_per_token"][kind] if verdict else None,
        "runs": sum(found["runs"] for found in runs.values()),
        "splits": [
            {
                "name": name,
                **report["splits"][name][kind],
                "tokens": verdict["tokens"][name][kind] if verdict else None,
                "shared": runs[name]["in_train"] if name in runs else None,
            }
            for name in SPLITS
        ],
        "steps": [
            {
                "name": step.replace("_", " "),
                "removed": (taken := characters["removed"].get(step, 0)),
                "share": _share(taken, came) if taken else "",
                "changed": characters["changed"].get(step, 0),
            }
            for step in steps
        ],
        "came_in": came,
        "kept": characters["kept"],
        "removed": removed,
        "removed_share": _share(removed, came),
        "counts": _counts(of_kind),
        "examples": {
            step.replace("_", " "): [
                {"where": pair["where"], **show_change(pair["before"], pair["after"])} for pair in pairs[:MOST_EXAMPLES]
            ]
            for step, pairs in of_kind.get("examples", {}).items()
        },
    }


def _counts(of_kind: KindReport) -> list[tuple[str, int]]:
    """What is counted in rows, conversations and turns, as rows of a table."""
    rows = []
    if read := of_kind.get("rows_read"):
        rows += [("rows read", read["in"])]
        rows += [(f"rows dropped: {reason}", number) for reason, number in read["dropped"].items()]
    rows += [(f"found: {what}", number) for what, number in of_kind.get("found", {}).items()]
    if dialogues := of_kind.get("dialogues"):
        rows += [("conversations kept", dialogues["kept"])]
        rows += [(f"conversations dropped: {reason}", number) for reason, number in dialogues["dropped"].items()]
        rows += [(f"turns: {reason}", number) for reason, number in dialogues["turns"].items()]
        rows += [(f"found: {what}", number) for what, number in dialogues.get("found", {}).items()]
    taken = of_kind.get("decontaminated", {})
    return rows + [(f"{what} taken out: shared with validation or test", number) for what, number in taken.items()]


def _plot(name: str, bins: Bins) -> dict[str, Any]:
    title, along, up = HISTOGRAMS.get(name, (name.capitalize(), "size", "number"))
    running = list(accumulate(bins["counts"]))
    index = bisect_left(running, running[-1] / 2)
    low, high = bins["edges"][index], bins["edges"][index + 1] - 1
    middle = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return {
        "title": title,
        "svg": histogram(bins, along, up),
        "caption": f"{running[-1]:,} {up}; the middle one has {middle} {along}. Bins grow by a sixth or so.",
    }


def _source(file: SourceReport) -> dict[str, Any]:
    came = _came_in(file["characters"])
    return {
        "name": file["source"],
        "came_in": came,
        "kept": _share(file["characters"]["kept"], came),
        "pieces": file["rows"],
        "notes": "; ".join(file.get("notes", [])),
    }


def _receipts(receipts: Mapping[str, Any]) -> list[dict[str, Any]]:
    says = {
        "ledger": "characters read + added = kept + removed, counted on disk",
        "split": "shares are as asked for, within what whole blocks and conversations allow",
    }
    return [
        {"name": name, "ok": receipt["ok"], "says": receipt.get("mend") or says[name]}
        for name, receipt in receipts.items()
    ]


def _share(part: int, whole: int) -> str:
    """A percentage that never rounds something to nothing, nor a part to the whole."""
    if not whole or part in (0, whole):
        return "100%" if part and part == whole else "0%"
    share = 100 * part / whole
    if share < 0.05:
        return "< 0.1%"
    return "> 99.9%" if share > 99.95 else f"{share:.1f}%"
