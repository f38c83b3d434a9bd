"""bench/long_context.py: FLOPs by formula, its cells on a tiny model, what it keeps, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BENCH = Path(__file__).parents[1] / "bench"
TINY = "small,vocab_size=300,hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def bench(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(BENCH / "long_context.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the path stays the same
@given(st.integers(1, 200), st.integers(1, 200))
def test_pairs_are_those_that_a_causal_window_mask_lets_through(length: int, window: int) -> None:
    from _long_work import pairs

    assert pairs(length, window) == sum(min(place + 1, window) for place in range(length))


def test_flops_of_a_step_are_the_formulas_of_its_parts() -> None:
    from _long_work import MODELS, Work, step_flops

    documents = (100, 28)
    sized = {"model_type": "llama", **MODELS["small"], "max_position_embeddings": 128}
    full = step_flops(Work({"from_config": sized}, "full", documents))
    linear = 4 * (4 * 512 * 512 + 3 * 512 * 1408) + 512 * 50_000
    assert full.matmul == 6 * linear * 128
    assert full.attention_forward == 4 * 4 * 512 * (100 * 101 // 2 + 28 * 29 // 2)
    assert full.attention_backward == 2.5 * full.attention_forward
    lora = step_flops(Work({"from_config": sized}, "lora", documents))
    adapters = 4 * 16 * (4 * (512 + 512) + 3 * (512 + 1408))
    assert lora.matmul == (4 * linear + 6 * adapters) * 128


def test_what_remains_of_a_window_is_part_of_its_last_document() -> None:
    from _long_work import documents_of

    assert documents_of(108_000, 27_000) == (27_000,) * 4
    assert documents_of(10, 3) == (3, 3, 4)
    assert documents_of(10, None) == documents_of(10, 99) == (10,)


def row(who: str, length: int = 64, **values: object) -> dict:
    return {"who": who, "length": length, "dtype": "fp32", "seconds": 1.0, "loss": [6.0], "grad_norm": [2.0], **values}


def test_another_gradient_is_not_the_same_work() -> None:
    from _long_report import differences

    assert differences([row("ours"), row("trl", loss=[6.00001], grad_norm=[2.0001])]) == []
    assert "grad_norm" in differences([row("ours"), row("trl", grad_norm=[2.08])])[0]
    assert "loss" in differences([row("ours"), row("trl", loss=[float("nan")])])[0]


def test_the_exponent_of_memory_leaves_out_what_does_not_grow() -> None:
    from _long_report import exponents

    table = [row("ours", length, growth=5000 + 3 * length, held=5000) for length in (64, 128, 256)]
    found = exponents(table)["ours"]
    assert found["by_length"] == pytest.approx(1)
    assert found["growth"] < 0.2


@pytest.mark.slow
def test_all_sides_do_the_same_work_and_finished_cells_are_kept(tmp_path: Path) -> None:
    asked = (
        "--lengths",
        64,
        "--packed",
        "--model",
        TINY,
        "--dtype",
        "fp32",
        "--their-dtype",
        "fp32",
        "--memory",
        "none",
    )
    asked += ("--rounds", 1, "--steps", 2, "--plot", "plot.png", "--resume", "kept.jsonl", "--json")
    first = bench(*asked, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert [one["who"] for one in answer["rows"]] == ["ours", "trl fp32", "trainer fp32"]
    assert answer["wrong"] == []
    assert all(one["peak"] > 0 and one["seconds"] > 0 and 0 < one["share"] < 1 for one in answer["rows"])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    again = bench(*asked, folder=tmp_path)
    assert json.loads(again.stdout)["rows"] == answer["rows"]
    assert "round" not in again.stderr  # no cell was run again


def cell(**values: object) -> dict:
    return {"who": "trl", "dtype": "fp32", "round": 0, "documents": [64], "steps": 1, **values}


def test_a_cell_beyond_its_limit_is_stopped_and_shown_as_such() -> None:
    from _long_report import lines, rows
    from _long_runner import Done, measure
    from _long_work import Flops

    done = Done(None, limit=0.3)
    measure(cell(), "1/1", 0.3, None, done)
    assert done.result(cell()) == {"seconds_more_than": 0.3}

    steps = {
        "seconds": [0.1],
        "before": [1],
        "peak": 2,
        "peak_loading": 1,
        "held": 0,
        "cpu": [0.1],
        "threads": 1,
        "dtype": "fp32",
        "did": [],
    }
    ours = cell(who="ours") | {"result": {**steps, "loss": [6.0], "grad_norm": [2.0]}}
    kernels = dict.fromkeys(("matmul", "attention_forward", "attention_backward"), 1e9)
    table = rows([cell() | {"result": done.result(cell())}, ours], {64: Flops(1e6, 1e6, 1e6)}, {"fp32": kernels})
    assert [one["who"] for one in table] == ["ours", "trl fp32"]
    assert "> 0.3 s" in lines(table)[2]
    assert "more than 3.00 ×" in lines(table)[2]


def test_kept_cells_are_not_run_again_but_for_those_that_may_now_take_longer(tmp_path: Path) -> None:
    from _long_runner import Done

    file = tmp_path / "kept.jsonl"
    done = Done(file, limit=10)
    done.add(cell(), {"seconds_more_than": 10})
    done.add(cell(who="ours"), {"seconds": [1.0]})
    done.add(cell(who="trainer"), {"failed": "no memory"})
    file.write_text(file.read_text() + '{"cell": {"who"')  # killed while writing
    assert Done(file, limit=10).result(cell()) == {"seconds_more_than": 10}
    assert Done(file, limit=20).result(cell()) is None
    assert Done(file, limit=20).result(cell(who="ours")) == {"seconds": [1.0]}
    assert Done(file, limit=10).result(cell(who="trainer")) is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("--lengths 8k", "--lengths"),
        ("--against tlr", "--against"),
        ("--model small,hidden_sizes=3 --lengths 64", "hidden_size"),
        ("--model small --kv-heads 3 --lengths 64", "--kv-heads"),
        ("--memory offload_disk --lengths 64", "checkpointing"),
        ("--document 7", "--packed"),
    ],
)
def test_a_bad_argument_is_one_sentence_and_status_2(
    asked: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import long_context

    monkeypatch.setattr(sys, "argv", ["long_context.py", *asked.split()])
    with pytest.raises(SystemExit) as left:
        long_context.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
