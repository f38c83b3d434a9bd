"""The parity matrix: every engine agrees with one process, or refuses with the reason."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from shridhar_ft.data.windows import load_windows
from shridhar_ft.doctor.parity import ENGINES, METHODS, STAGE, Cell, Trial, _train, as_json, parity, table, write_recipe

slow = [pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 10
WRITTEN = [
    ("full", "model/model.safetensors"),
    *((method, "adapter/adapter_model.safetensors") for method in ("lora", "qlora")),
]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell], list[str]]:
    """The whole of it, trained once: its folder, its cells, and what was said of them."""
    folder = tmp_path_factory.mktemp("parity")
    said: list[str] = []
    return folder, parity(folder, said.append, STEPS), said


class TestMatrix:
    pytestmark = slow

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("method", METHODS)
    def test_first_losses_and_gradient_norms_are_those_of_one_process(self, matrix, method: str, engine: str) -> None:
        folder, cells, said = matrix
        data = "single" if engine == "Ulysses" else "packed"
        cell = next(c for c in cells if (c.method, c.engine, c.data) == (method, engine, data))
        assert (cell.verdict, cell.isolation) == ("equal", True), "\n".join(said)
        assert cell.loss is not None and cell.loss < 1e-5
        lines = (folder / "runs" / Trial(method, engine, data).name / "stages" / STAGE / "metrics.jsonl").read_text()
        logged = [line for line in map(json.loads, lines.splitlines()) if "loss" in line]
        assert len(logged) == STEPS
        assert logged[0]["loss"] != logged[-1]["loss"], "nothing was trained, so nothing was compared"

    @pytest.mark.parametrize("engine", ["DDP", "ZeRO-2", "ZeRO-3"])
    @pytest.mark.parametrize(("method", "file"), WRITTEN)
    def test_what_is_written_is_what_one_process_writes(self, matrix, method: str, file: str, engine: str) -> None:
        folder, _, _ = matrix
        names = [Trial(method, one, "packed").name for one in ("one process", engine)]
        alone, here = (load_file(folder / "runs" / name / "stages" / STAGE / file) for name in names)
        assert alone.keys() == here.keys()
        for name, tensor in alone.items():
            # Sums in another order: where a gradient is next to nothing, Adam's first steps differ in their sign.
            assert (tensor - here[name]).abs().mean() <= 1e-3 * tensor.abs().mean(), name

    def test_ranks_with_unequal_numbers_of_valid_tokens_agree_too(self, matrix) -> None:
        folder, cells, said = matrix
        rows, _ = load_windows(folder / "runs" / "full-ddp-single" / "stages" / STAGE / "windows" / "train")
        assert len({len(row) for row in rows["input_ids"]}) > 5
        cell = next(c for c in cells if (c.engine, c.data) == ("DDP", "single"))
        assert cell.verdict == "equal", "\n".join(said)

    def test_packed_windows_under_ulysses_are_refused_with_the_reason(self, matrix) -> None:
        _, cells, said = matrix
        assert [(c.engine, c.data) for c in cells if c.verdict == "refused"] == [("Ulysses", "packed")]
        assert "several documents share a window" in next(c.why for c in cells if c.verdict == "refused")
        assert as_json(cells)["ok"]
        assert len(cells) == len(said) == len({(c.method, c.engine, c.data) for c in cells}) == 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_fails_does_not_take_those_behind_it_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe("packed", 1, "fp32")
    bad, good = Trial("full", "one process", "packed"), Trial("lora", "one process", "packed")
    (tmp_path / "runs" / bad.name / "stages").mkdir(parents=True)
    (tmp_path / "runs" / bad.name / "stages" / STAGE).write_text("in the way of its folder")
    (_, failed, why), (_, well, _) = _train("one process", [bad, good])
    assert failed == 1 and "its log: " in why
    assert well == 0


def test_the_table_tells_a_difference_from_an_agreement() -> None:
    cells = [
        Cell("full", "one process", "packed", "equal", 0.0, 0.0, isolation=True),
        Cell("full", "DDP", "packed", "differs", 0.02, 0.5, isolation=True),
        Cell("full", "ZeRO-2", "packed", "equal", 1e-7, 1e-6, isolation=False),
    ]
    assert not as_json(cells)["ok"]
    assert [cell.ok for cell in cells] == [True, False, False], "a leak between documents is no agreement"
    assert "differs 2e-02 / 5e-01" in table(cells)[1]
