"""Engines agree with one process: a few cells of the parity matrix, and sums over unequal numbers of valid tokens."""

from pathlib import Path

import pytest

from shridhar_ft.data.windows import load_windows
from shridhar_ft.doctor.parity import STAGE, Cell, as_json, parity, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    # The rest of the matrix is `shridhar-ft doctor --parity`.
    said: list[str] = []
    cells = parity(tmp_path, said.append, steps=3, methods=["full"], engines=["DDP", "ZeRO-3", "Ulysses"])
    found = {(cell.engine, cell.data): cell for cell in cells}
    assert len(found) == len(said) == 7
    windows, _ = load_windows(tmp_path / "runs" / "full-ddp-single" / "stages" / STAGE / "windows" / "train")
    assert len({len(row) for row in windows["input_ids"]}) > 5, "ranks and micro-batches have unequal valid tokens"
    for cell in cells:
        refused = cell.engine == "Ulysses" and cell.data == "packed"
        assert cell.verdict == ("refused" if refused else "equal"), "\n".join(said)
        assert refused or cell.isolation is True
    assert "several documents share a window" in found["Ulysses", "packed"].why
    assert as_json(cells)["ok"]


def test_an_adapter_on_four_bits_trains_alike_under_zero(tmp_path: Path) -> None:
    cells = parity(tmp_path, print, steps=3, methods=["qlora"], engines=["ZeRO-2"])
    assert [cell.verdict for cell in cells] == ["equal", "equal"], "\n".join(table(cells))
    assert cells[1].loss is not None and cells[1].loss < 1e-5


def test_the_table_tells_a_difference_from_an_agreement() -> None:
    cells = [
        Cell("full", "one process", "packed", "equal", 0.0, 0.0, isolation=True),
        Cell("full", "DDP", "packed", "differs", 0.02, 0.5, isolation=True),
        Cell("full", "ZeRO-2", "packed", "equal", 1e-7, 1e-6, isolation=False),
    ]
    assert not as_json(cells)["ok"]
    assert [cell.ok for cell in cells] == [True, False, False], "a leak between documents is no agreement"
    assert "differs 2e-02 / 5e-01" in table(cells)[1]
