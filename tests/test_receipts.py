"""Receipts: written whether they hold or not, read back by their place in the run, and a failed one stops the part."""

import json
from pathlib import Path

import pytest

from shridhar_ft.errors import CheckFailed
from shridhar_ft.receipts import read_receipts, write_receipt
from shridhar_ft.runfolder import read_json, write_json


def test_a_receipt_is_on_disk_before_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "stages/a/receipts/rope.json"
    with pytest.raises(CheckFailed, match="load it again") as failed:
        write_receipt(path, {"x": 1}, {"x": 2}, ok=False, mend="load it again")
    assert failed.value.status == 1
    assert str(path) in str(failed.value) and "rope receipt" in str(failed.value)
    stored = read_json(path)
    assert (stored["ok"], stored["mend"]) == (False, "load it again")
    assert (stored["claimed"], stored["measured"]) == ({"x": 1}, {"x": 2})


def test_without_a_mend_the_failure_says_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match='"токенов": 3'):
        write_receipt(tmp_path / "ledger.json", {}, {"токенов": 3}, ok=False)


def test_one_that_holds_needs_no_mend(tmp_path: Path) -> None:
    receipt = write_receipt(tmp_path / "rope.json", {"x": 1}, {"x": 1}, ok=True, mend="change it")
    assert receipt == read_json(tmp_path / "rope.json")
    assert receipt["receipt"] == "rope" and receipt["ok"] is True and "mend" not in receipt


def test_a_number_that_is_none_leaves_a_file_that_strict_readers_take(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed):
        write_receipt(tmp_path / "rope.json", {}, {"worst": float("nan"), "all": [1.0, float("inf")]}, ok=False)

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((tmp_path / "rope.json").read_text(), parse_constant=refused)
    assert found["measured"] == {"worst": "nan", "all": [1.0, "inf"]}


def test_all_receipts_of_a_run_are_found_and_nothing_else(tmp_path: Path) -> None:
    for name in ("data/receipts/split", "stages/8k/receipts/rope", "sft/receipts/mask", "export/certificate"):
        write_receipt(tmp_path / f"{name}.json", {}, {}, ok=True)
    write_json(tmp_path / "sft/part.json", {})
    found = read_receipts(tmp_path)
    assert list(found) == [
        "data/receipts/split.json",
        "sft/receipts/mask.json",
        "stages/8k/receipts/rope.json",
        "export/certificate.json",
    ]
    assert all(receipt["ok"] for receipt in found.values())
    assert read_receipts(tmp_path / "nowhere") == {}
