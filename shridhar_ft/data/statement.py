"""What a build says of itself: report.json, the ledger and split receipts, the lines for the user."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from shridhar_ft import config_data
from shridhar_ft.data.account import SourceAccount, total
from shridhar_ft.data.measure import KINDS, Kind, Size, histograms, shares
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.errors import UserError
from shridhar_ft.receipts import write_receipt

UNITS_NAMED: dict[Kind, str] = {"books": "chapter blocks", "dialogues": "conversations"}
FEWEST_JUDGED = 40  # units: below, a tenth is a handful, and no draw can meet it
TOLERANCE = 0.03  # of the characters of a kind

Sizes = Mapping[Kind, Mapping[SplitName, Size]]
SharedRuns = Mapping[Kind, Mapping[SplitName, Mapping[str, int]]]


def check_none_empty(sources: Sequence[SourceAccount], measured: Sizes, split: config_data.Split) -> None:
    """Refuse data of which a wanted split got nothing.

    Raises:
        UserError: A split whose share is not zero holds no row of a kind that the recipe has.
    """
    for kind in KINDS:
        units = len(total(sources, kind).units)
        for name in SPLITS:
            if units and getattr(split, name) > 0 and not measured[kind][name].rows:
                mend = (
                    f"or set data.split.{name}=0 and give its share to data.split.train"
                    if name != "train"
                    else "or raise data.split.train"
                )
                raise UserError(
                    f"data.split: of {units} {UNITS_NAMED[kind]} none fell into {name}; add text to data.{kind}, {mend}"
                )


def build_report(sources: Sequence[SourceAccount], measured: Sizes, folder: Path) -> dict[str, dict[str, Any]]:
    """What report.json holds: totals and files of each kind, examples of books, and the splits as they lie on disk."""
    report: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        files = [account.as_dict() for account in sources if account.kind == kind]
        whole = total(sources, kind)
        report[kind] = {**whole.as_dict(), "files": files}
        del report[kind]["source"]
        if whole.examples:
            report[kind]["examples"] = whole.examples
    report["splits"] = {name: {kind: measured[kind][name]._asdict() for kind in KINDS} for name in SPLITS}
    report["histograms"] = {**histograms(folder)}
    return report


def write_ledger(path: Path, sources: Sequence[SourceAccount], measured: Sizes) -> None:
    """The ledger receipt: characters read = kept + removed - added, `kept` as measured on disk.

    Raises:
        CheckFailed: A character is not accounted for.
    """
    found: dict[str, Any] = {}
    for kind in KINDS:
        ledger = total(sources, kind).ledger
        ledger.kept = sum(size.characters for size in measured[kind].values())
        found[kind] = {**ledger.as_dict(), "difference": ledger.difference}
    write_receipt(
        path,
        claimed={"unit": "characters", "balance": "in + added = kept + removed", "difference": 0},
        measured=found,
        ok=not any(kind["difference"] for kind in found.values()),
    )


def write_split(
    path: Path,
    sources: Sequence[SourceAccount],
    measured: Sizes,
    shared: SharedRuns,
    split: config_data.Split,
) -> None:
    """The split receipt: shares by characters against those asked, and the 13-word runs that train shares.

    Shares are judged where a kind has at least `FEWEST_JUDGED` units, within `TOLERANCE` or what the draw itself
    allows, whichever is wider. Shared runs are judged where the recipe decontaminates; else they are reported.

    Raises:
        CheckFailed: A share is off, or a run is shared.
    """
    asked = {name: getattr(split, name) for name in SPLITS}
    found: dict[str, Any] = {}
    mends = []
    for kind in KINDS:
        whole = total(sources, kind)
        got = shares(measured[kind])
        tolerance = max(TOLERANCE, _allowed(whole.allowances) / (sum(whole.units) or 1))
        judged = len(whole.units) >= FEWEST_JUDGED
        off = [name for name in SPLITS if abs(got[name] - asked[name]) > tolerance] if judged else []
        if off:
            mends.append(
                f"{kind}: {off[0]} holds {got[off[0]]:.1%} of the characters where {asked[off[0]]:.0%} were asked for; "
                + (
                    "what train shares with it had to go: set other shares under data.split"
                    if whole.decontaminated
                    else "set another data.split.seed"
                )
            )
        leaks = sum(runs["in_train"] for runs in shared[kind].values())
        if leaks and split.decontaminate:
            mends.append(f"{kind}: {leaks:,} runs of 13 words of validation and test stand in train")
        found[kind] = {
            "units": len(whole.units),
            "shares": {name: round(share, 4) for name, share in got.items()},
            "tolerance": round(tolerance, 4),
            "judged": judged,
            "decontaminated": dict(whole.decontaminated),
            "runs_of_13_words": shared[kind],
        }
    claimed = {"shares": asked, "by": "characters"} | ({"runs_in_train": 0} if split.decontaminate else {})
    write_receipt(path, claimed, found, ok=not mends, mend="; ".join(mends))


def _allowed(allowances: Sequence[float]) -> float:
    """How far the draws of several groups together may lie off: they are independent, so errors add up as their
    squares do (an allowance is taken for two standard deviations), and never to more than their sum."""
    return min(sum(allowances), 2 * sqrt(sum(one * one for one in allowances)))


def summary(
    sources: Sequence[SourceAccount],
    measured: Sizes,
    shared: SharedRuns,
) -> list[str]:
    """What the user is told: read, kept, dropped and why, shares, shared runs."""
    said = []
    for kind in KINDS:
        whole = total(sources, kind)
        if not whole.ledger.characters_in:
            continue
        read = f"{whole.dialogues_in:,} dialogues" if kind == "dialogues" else _count_works(sources)
        read = f"{whole.rows:,} rows, {read}" if whole.rows else read
        said.append(
            f"data: {read}, {whole.ledger.characters_in:,} characters read, {whole.ledger.kept:,} kept "
            f"in {whole.pieces:,} {UNITS_NAMED[kind]}"
        )
        for what, counts in (
            ("rows dropped", whole.rows_dropped),
            ("characters removed", whole.ledger.removed),
            ("characters added", whole.ledger.added),
            ("dialogues dropped", whole.dropped),
            ("turns", whole.turns),
            ("found", whole.found),
            ("shared with validation or test, taken out", whole.decontaminated),
        ):
            if counts:
                said.append(f"data:   {what}: {_listed(counts)}")
        got = shares(measured[kind])
        parts = []
        for name in SPLITS:
            runs = shared[kind].get(name)
            part = f"{name} {100 * got[name]:.1f} %"
            if runs:
                part += f" ({runs['in_train']:,} of its {runs['runs']:,} 13-word runs stand in train)"
            parts.append(part)
        said.append(f"data:   {'; '.join(parts)}")
    return said


def _count_works(sources: Sequence[SourceAccount]) -> str:
    works = sum(account.kind == "books" for account in sources)
    return f"{works:,} work{'s' if works != 1 else ''}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items())
