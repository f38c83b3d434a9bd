"""The plan before a training begins, on this very machine: parts that cannot fit are refused before data are read."""

import os
from collections.abc import Callable
from dataclasses import replace

from shridhar_ft.config import Recipe
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.machines import Kind, Machine, this_machine
from shridhar_ft.plan.memory import GIB
from shridhar_ft.plan.mending import smallest_change
from shridhar_ft.plan.parts import PartPlan
from shridhar_ft.plan.plan import Counter, Plan, plan_recipe
from shridhar_ft.plan.verdicts import hours
from shridhar_ft.runfolder import PART, Run

NO_PLAN = "SHRIDHAR_FT_NO_PLAN"
"""Set by `--no-plan`: train what does not fit by the formulas."""


def overridden() -> bool:
    """Whether the user wants to train against the plan."""
    return bool(os.environ.get(NO_PLAN))


def machine_here(kind: Kind, room: int, layout: Layout) -> Machine:
    """This machine as a training process sees it.

    Args:
        kind: Type of the device that it trains on.
        room: Bytes that this process could come to hold on it.
        layout: Processes and what they share.
    """
    here = this_machine()
    local = -(-layout.processes // layout.nodes)
    if kind == "cuda":
        return replace(here, kind=kind, devices=local, memory=room, free=room)
    return replace(here, kind=kind, devices=1, free=room * (local if kind == "cpu" else 1))


def cannot_fit(part: PartPlan, plan: Plan) -> str:
    """By how much a part does not fit, and the smallest change that mends it; a sentence without its stop."""
    lacks = f"{part.missing / GIB:.1f} GiB are missing"
    if part.missing <= 0:
        lacks = f"the host lacks {(part.host - part.host_limit) / GIB:.1f} GiB"
    return (
        f"{part.part.name} cannot fit: {part.memory.peak / GIB:.1f} GiB at the peak and {part.limit / GIB:.1f} may be "
        f"filled, {lacks}; {smallest_change(part, plan)}"
    )


def refuse_what_cannot_fit(
    recipe: Recipe,
    run: Run,
    module: str,
    machine: Machine,
    layout: Layout,
    tell: Callable[[str], None],
    count: Counter,
) -> None:
    """Plan the parts of an entry that are not finished; says what each takes.

    Args:
        recipe: The recipe.
        run: Its run.
        module: `pretrain` (the stages) or `sft`.
        machine: From `machine_here`.
        layout: Processes and what they share.
        tell: Told a line a part.
        count: Counts a model that no formula knows.

    Raises:
        UserError: A part does not fit, and `--no-plan` was not given.
    """
    plan = plan_recipe(recipe, run, machine, layout=layout, count=count)
    for part in plan.parts:
        if (part.part.kind == "sft") != (module == "sft") or (run.root / part.part.name / PART).is_file():
            continue
        time = "" if part.hours is None else f", about {hours(part.hours)}"
        peak, limit = part.memory.peak / GIB, part.limit / GIB
        if part.fits:
            tell(f"plan: {part.part.name}: {peak:.1f} of {limit:.1f} GiB at the peak{time}")
            continue
        sentence = f"plan: {cannot_fit(part, plan)}, or train against the plan with --no-plan"
        if not overridden():
            raise UserError(sentence)
        tell(f"{sentence} (--no-plan: it is tried)")
