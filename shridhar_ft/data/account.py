"""Keeps the account of a build: what each source brought, lost and kept; the report, the receipts, the lines said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shridhar_ft import config
from shridhar_ft.data.ledger import Ledger
from shridhar_ft.data.measure import KINDS, Kind, Size, shares
from shridhar_ft.data.split import SPLITS, SplitName, allowance
from shridhar_ft.errors import UserError
from shridhar_ft.receipts import write_receipt

UNITS_NAMED: dict[Kind, str] = {"books": "chapter blocks", "dialogues": "conversations"}
FEWEST_JUDGED = 40  # units: below, a tenth is a handful, and no draw can meet it
TOLERANCE = 0.03  # of the characters of a kind

Sizes = Mapping[Kind, Mapping[SplitName, Size]]
SharedRuns = Mapping[Kind, Mapping[SplitName, Mapping[str, int]]]


@dataclass
class SourceAccount:
    """One file's part of the account."""

    kind: Kind
    source: str
    ledger: Ledger = field(default_factory=Ledger)
    dialogues_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Whole dialogues dropped, by reason."""
    turns: Counter[str] = field(default_factory=Counter)
    """Turns dropped or merged, by reason."""
    units: list[int] = field(default_factory=list)
    """Characters of each block or conversation that was kept: one group of the split's draw."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        numbers: dict[str, Any] = {"source": self.source, "characters": self.ledger.as_dict(), "rows": len(self.units)}
        if self.kind == "dialogues":
            numbers["dialogues"] = {
                "in": self.dialogues_in,
                "kept": len(self.units),
                "dropped": dict(self.dropped),
                "turns": dict(self.turns),
            }
        return numbers


def total(sources: Sequence[SourceAccount], kind: Kind) -> SourceAccount:
    """All sources of a kind as one."""
    whole = SourceAccount(kind, "")
    for account in sources:
        if account.kind == kind:
            whole.ledger.include(account.ledger)
            whole.dialogues_in += account.dialogues_in
            whole.dropped += account.dropped
            whole.turns += account.turns
            whole.units += account.units
    return whole


def check_none_empty(sources: Sequence[SourceAccount], measured: Sizes, split: config.Split) -> None:
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


def build_report(sources: Sequence[SourceAccount], measured: Sizes) -> dict[str, dict[str, Any]]:
    """What report.json holds: totals and files of each kind, and the splits as they lie on disk."""
    report: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        files = [account.as_dict() for account in sources if account.kind == kind]
        report[kind] = {**total(sources, kind).as_dict(), "files": files}
        del report[kind]["source"]
    report["splits"] = {name: {kind: measured[kind][name]._asdict() for kind in KINDS} for name in SPLITS}
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
    split: config.Split,
) -> None:
    """The split receipt: shares by characters against those asked, and the 13-word runs that train shares.

    Shares are judged where a kind has at least `FEWEST_JUDGED` units, within `TOLERANCE` or what the draw itself
    allows (one unit of each group), whichever is wider. Shared runs are reported, not judged: books quote.

    Raises:
        CheckFailed: A share is off.
    """
    asked = {name: getattr(split, name) for name in SPLITS}
    found: dict[str, Any] = {}
    ok = True
    for kind in KINDS:
        groups = [account.units for account in sources if account.kind == kind]
        units, characters = sum(map(len, groups)), sum(map(sum, groups))
        tolerance = max(TOLERANCE, sum(map(allowance, groups)) / characters) if characters else TOLERANCE
        got = shares(measured[kind])
        judged = units >= FEWEST_JUDGED
        if judged:
            ok = ok and all(abs(got[name] - asked[name]) <= tolerance for name in SPLITS)
        found[kind] = {
            "units": units,
            "shares": {name: round(share, 4) for name, share in got.items()},
            "tolerance": round(tolerance, 4),
            "judged": judged,
            "runs_of_13_words": shared[kind],
        }
    write_receipt(
        path,
        claimed={"shares": asked, "by": "characters"},
        measured=found,
        ok=ok,
        mend="the draw does not meet the shares; set another data.split.seed",
    )


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
        said.append(
            f"data: {read}, {whole.ledger.characters_in:,} characters read, {whole.ledger.kept:,} kept "
            f"in {len(whole.units):,} {UNITS_NAMED[kind]}"
        )
        for what, counts in (
            ("characters removed", whole.ledger.removed),
            ("characters added", whole.ledger.added),
            ("dialogues dropped", whole.dropped),
            ("turns", whole.turns),
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
