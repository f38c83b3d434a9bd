"""The fault suite: every case holds, and the cheap ones are shown to fail where their guard is taken out.

`python tests/faults/table.py` takes every guard out; `python tests/faults/exactness.py` has every stop point.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The fork server finds its modules by their names, as the scripts do.
sys.path.insert(0, str(Path(__file__).parent))

import cases_input  # noqa: F401
import cases_saving  # noqa: F401
import cases_training  # noqa: F401
import exactness
from fault_cases import CASES, Case
from fault_lab import Lab

pytestmark = pytest.mark.slow

CHEAP = (3, 4, 8, 10, 14, 20)  # numbers of cases that take a few seconds without their guard


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
        assert case.check(lab, True)
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", [case for case in CASES if case.number in CHEAP], ids=name)
def test_it_fails_without_its_guard(case: Case, lab: Lab) -> None:
    with pytest.raises(AssertionError):
        case.check(lab, False)


@pytest.mark.parametrize("part", ["stages/middle", "sft"])
def test_stopped_and_resumed_equals_uninterrupted(part: str, lab: Lab, adapter_run: Path) -> None:
    equal, what = exactness.resumed_equals(lab, adapter_run, "lora", part, stop=4)
    assert equal, what


@pytest.fixture(scope="module")
def adapter_run(lab: Lab) -> Path:
    return exactness.whole(lab, "lora")
