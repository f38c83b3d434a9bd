"""The answer of `shridhar-ft doctor`: the machine, the stack, the configuration that suits, and what to do."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shridhar_ft.config import load_recipe
from shridhar_ft.doctor.machine import GIB, look
from shridhar_ft.doctor.packages import WHAT_FOR, Package, packages
from shridhar_ft.doctor.suits import suits
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import RUNS, run_folder

NEEDS_PYTHON = (3, 11)


def examine(recipe: str | None, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Look at everything once.

    Args:
        recipe: RECIPE of the command line; None looks at the machine alone.
        overrides: `key.sub=value` strings.

    Returns:
        The answer as JSON, with `ok`: whether nothing that is needed is missing; and as lines.

    Raises:
        UserError: The recipe is wrong.
    """
    loaded = load_recipe(recipe, overrides) if recipe else None
    machine = look(RUNS if RUNS.is_dir() else Path())
    stack = packages()
    suited = suits(machine, loaded, run_folder(loaded.name) if loaded else None)
    missing = [package for package in stack if package.extra is None and not package.ok]
    old = sys.version_info < NEEDS_PYTHON
    found = {
        "ok": not (missing or old or suited["troubles"]),
        "machine": machine,
        "packages": [{**asdict(package), "ok": package.ok} for package in stack],
        "suits": suited,
        "missing": [f"{p.name} {p.asked} ({p.installed or 'not installed'}): {p.mend}" for p in missing],
        "extras": _extras(stack),
    }
    return found, list(_lines(found, stack, recipe))


def compare_engines(steps: int, precision: str, say: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """The parity matrix, in a folder of its own that is removed where everything agrees.

    Args:
        steps: Optimizer steps that are compared.
        precision: `fp32` or `bf16`.
        say: Told each cell as it is known.

    Raises:
        UserError: DeepSpeed is missing, or there is no such precision.
    """
    from shridhar_ft.doctor.parity import TOLERANCES, as_json, parity, table
    from shridhar_ft.processes import need_deepspeed

    if precision not in TOLERANCES:
        raise UserError(f"--precision: {precision} is none of {', '.join(TOLERANCES)}; take one of them")
    need_deepspeed()
    folder = Path(tempfile.mkdtemp(prefix="shridhar-ft-parity-"))
    say(f"parity: {steps} steps in {precision} under every engine; runs and logs are in {folder}")
    cells = parity(folder, say, steps, precision)
    found = as_json(cells)
    if found["ok"]:
        shutil.rmtree(folder)
    return {**found, "steps": steps, "precision": precision}, table(cells)


def _extras(stack: list[Package]) -> list[dict[str, Any]]:
    """The extras, whether they are whole, and how to install each."""
    found = []
    for name, what_for in WHAT_FOR.items():
        own = [package for package in stack if package.extra == name]
        if own:
            there = all(package.ok for package in own)
            found.append({"extra": name, "for": what_for, "installed": there, "mend": own[0].mend})
    return found


def _lines(found: dict[str, Any], stack: list[Package], recipe: str | None) -> list[str]:
    machine, suited = found["machine"], found["suits"]
    cores, memory = machine["processors"], machine["memory"]
    devices = [f"{d['name']} {d['memory'] / GIB:.0f} GiB" for d in machine["devices"]]
    core = [package for package in stack if package.extra is None]
    good = [f"{p.name} {p.installed}" for p in core if p.name in ("torch", "transformers", "trl", "peft", "accelerate")]
    rows = [
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("processors", f"{cores['cores']} cores, {cores['threads']} threads"),
        ("memory", f"{memory['total'] / GIB:.1f} GiB, {memory['free'] / GIB:.1f} free"),
        ("devices", ", ".join(devices) or "no GPU: the CPU trains"),
        ("precision: auto", f"{machine['precision']['auto']}: {machine['precision']['why']}"),
        ("attention: auto", machine["attention"]["why"]),
        ("exchange", ", ".join(machine["exchange"]) or "none: several processes cannot train together"),
        ("compiler", machine["compiler"] or "none: ZeRO with offload builds its optimizer with one"),
        ("disk", f"{machine['disk']['free'] / GIB:.0f} GiB free in {machine['disk']['folder']}"),
        ("stack", ", ".join(good) + f"; {sum(p.ok for p in core)} of {len(core)} packages as asked"),
    ]
    lines = [f"{name:<17}{value}" for name, value in rows]
    for extra in found["extras"]:
        state = "installed" if extra["installed"] else f"not installed: {extra['mend']}"
        lines.append(f"{'extra ' + extra['extra']:<17}{state} ({extra['for']})")
    what = f"{recipe}: " if recipe else ""
    lines += ["", f"{what}{suited['config']} suits ({suited['why']})" if suited["config"] else f"{what}nothing suits"]
    lines += [f"  {tried}" for tried in suited["tried"]]
    wrong = [*(f"missing: {said}" for said in found["missing"]), *suited["troubles"]]
    return [*lines, *(f"trouble: {said}" for said in wrong), "" if wrong else "nothing that is needed is missing"]
