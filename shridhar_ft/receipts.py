"""Receipts: small JSON files with what was claimed, what was measured, and `ok`; write, read, check.

A receipt is written whether it holds or not; a part of the run whose receipt does not hold stops there.
"""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shridhar_ft.errors import CheckFailed
from shridhar_ft.runfolder import read_object, write_json


def write_receipt(
    path: Path, claimed: dict[str, Any], measured: dict[str, Any], ok: bool, mend: str = ""
) -> dict[str, Any]:
    """Write one receipt and return it.

    Args:
        path: Where it goes, e.g. `runs/demo/stages/8k/receipts/rope.json`; its stem is the receipt's name.
        claimed: What should be so.
        measured: What was found.
        ok: Whether the two agree.
        mend: For a failed receipt: what to change, a sentence.

    Raises:
        CheckFailed: `ok` is false; raised after the file is on disk.
    """
    receipt = receipt_of(path.stem, claimed, measured, ok, mend)
    write_json(path, receipt)
    if not ok:
        raise CheckFailed(
            f"the {path.stem} receipt does not hold ({path}): {mend or json.dumps(measured, ensure_ascii=False)}"
        )
    return receipt


def receipt_of(
    name: str, claimed: dict[str, Any], measured: dict[str, Any], ok: bool, mend: str = ""
) -> dict[str, Any]:
    """A receipt as its file holds it; see `write_receipt`."""
    receipt = {
        "receipt": name,
        "ok": bool(ok),
        "claimed": _for_json(claimed),
        "measured": _for_json(measured),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return receipt | ({"mend": mend} if mend and not ok else {})


def _for_json(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """NaN and infinity as strings: JSON has no numbers for them, and a strict reader refuses the whole file."""
    if isinstance(value, dict):
        return {key: _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def receipt_files(folder: Path) -> list[Path]:
    """All receipts below a run folder, the certificate last."""
    certificate = folder / "export" / "certificate.json"
    return [*sorted(folder.glob("**/receipts/*.json")), *([certificate] if certificate.is_file() else [])]


def read_receipts(folder: Path) -> dict[str, dict[str, Any]]:
    """All receipts below a run folder, by their path relative to it."""
    return {str(path.relative_to(folder)): read_object(path, "ok") for path in receipt_files(folder)}
