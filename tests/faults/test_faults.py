"""The fault suite: every case holds, and fails where a guard of it is taken out.

`python tests/faults/table.py --every-boundary` takes out the few that take long too, and kills at every write of a
save; `python tests/faults/exactness.py` has every stop point.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The fork server finds its modules by their names, as the scripts do.
sys.path.insert(0, str(Path(__file__).parent))

import cases_input  # noqa: F401
import cases_saving
import cases_training  # noqa: F401
import exactness
from fault_cases import CASES, Case
from fault_lab import Lab

pytestmark = pytest.mark.slow

LONG = ("vote", "watchdog", "statement size")  # guards without which a case waits a minute, or takes a GiB
OUT = [(case, out) for case in CASES for out in case.guards if out not in LONG]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    return Lab(tmp_path_factory.mktemp("faults"))


def name(case: Case) -> str:
    return f"{case.number}-{case.check.__name__}"


def test_all_twenty_are_there() -> None:
    assert sorted(case.number for case in CASES) == list(range(1, 21))


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_fault_is_met(case: Case, lab: Lab) -> None:
    try:
        assert case.check(lab, None)
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("case", "out"), OUT, ids=[f"{name(case)}-{out}" for case, out in OUT])
def test_it_fails_without_its_guard(case: Case, out: str, lab: Lab) -> None:
    try:
        with pytest.raises(AssertionError):
            case.check(lab, out)
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_kill_at_any_write_of_a_save_leaves_a_whole_checkpoint(lab: Lab) -> None:
    found = cases_saving.taken_at_every_boundary(lab)
    assert [taken for taken, _ in found] == [right for _, right in found]
    assert {"checkpoint-2", "checkpoint-4"} == {taken for taken, _ in found}


@pytest.mark.parametrize("part", ["stages/middle", "sft"])
def test_stopped_and_resumed_equals_uninterrupted(part: str, lab: Lab, adapter_run: Path) -> None:
    equal, what = exactness.resumed_equals(lab, adapter_run, "lora", part, stop=4)
    assert equal, what


@pytest.fixture(scope="module")
def adapter_run(lab: Lab) -> Path:
    return exactness.whole(lab, "lora")
