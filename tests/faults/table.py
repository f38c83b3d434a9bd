"""Prints the fault table: every case with what happened, and that it fails where its guard is taken out.

    python tests/faults/table.py [NUMBER…] [--with-guards-only] [--every-boundary]

On two idle cores about a quarter of an hour; a small disk is mounted, which needs root.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cases_input  # noqa: F401 - enters its cases
import cases_saving
import cases_training  # noqa: F401
from fault_cases import CASES, Case
from fault_lab import Lab


def tried(case: Case, lab: Lab, out: str | None) -> tuple[bool, str]:
    """Whether a case holds, and what happened."""
    try:
        return True, case.check(lab, out)
    except PermissionError as error:
        return False, f"not tried: {error}"
    except AssertionError as error:
        return False, " ".join(str(error).split())[:300]


def main() -> int:
    """Print the rows; 0 where every case holds with its guard and fails without."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("numbers", nargs="*", type=int, help="cases (default: all)")
    ask.add_argument("--with-guards-only", action="store_true", help="do not take the guards out")
    ask.add_argument("--every-boundary", action="store_true", help="case 1 at every write of a save")
    given = ask.parse_args()
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        print("| # | injection | what happened | ok | without its guard |\n|---|---|---|---|---|")
        for case in sorted(CASES, key=lambda case: case.number):
            if given.numbers and case.number not in given.numbers:
                continue
            began = time.monotonic()
            ok, happened = tried(case, lab, None)
            if ok and case.number == 1 and given.every_boundary:
                happened = "; ".join(cases_saving.kill_at(lab, place, None) for place in cases_saving.BOUNDARIES)
            told = []
            for out in () if given.with_guards_only else case.guards:
                holds, why = tried(case, lab, out)
                told.append(f"{out}: {'HOLDS ALL THE SAME' if holds else 'fails, ' + why[:90]}")
                sound &= not holds
            sound &= ok
            cells = (case.number, case.injection, happened, "yes" if ok else "NO", "; ".join(told))
            print("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |", flush=True)
            print(f"case {case.number}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print("\nevery case holds, and fails without its guard" if sound else "\nnot every case holds")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
