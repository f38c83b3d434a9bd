"""What all written files have in common: the head that says what they are, and the command that they run."""

import shlex
from collections.abc import Iterator, Sequence

from shridhar_ft.cloud.target import WITH_SPOT, Target
from shridhar_ft.cloud.uploads import recipe_argument, settings_of_paths
from shridhar_ft.plan.memory import GIB
from shridhar_ft.plan.verdicts import hours

WIDTH = 116


def overrides(target: Target) -> list[str]:
    """Settings of the run there: the user's own first, then paths that differ there, then what the machine decides."""
    price = [] if target.price is None else [f"budget.usd_per_hour={target.price}"]
    return [
        *target.overrides,
        *settings_of_paths(target),
        f"launch.config={target.launch.config}",
        *target.launch.steps,
        f"budget.machine={target.machine.name}",
        *price,
    ]


def run_lines(target: Target, *last: str, indent: str = "  ") -> list[str]:
    """`shridhar-ft run …`, one setting a line.

    Args:
        target: What runs where.
        last: Further settings, as the shell reads them.
        indent: Before each setting.
    """
    words = [shlex.join(["shridhar-ft", "run", recipe_argument(target)])]
    words += [*(shlex.quote(word) for word in overrides(target)), *last]
    return [
        f"{indent if place else ''}{word}" + (" \\" if word != words[-1] else "") for place, word in enumerate(words)
    ]


def head(target: Target, made_by: str) -> list[str]:
    """Comments: what it is, where it runs, what the plan says, what was not tried."""
    plan, machine = target.plan, target.machine
    many = f"{target.nodes} × " if target.nodes > 1 else ""
    against = "Slurm only by a twin of its commands" if target.cloud == "slurm" else "the schema of SkyPilot"
    said = [
        f"{target.recipe.name} on {many}{machine.name} ({machine.devices} × {machine.chip}, {plan.layout}).",
        f"Written by: {made_by}",
        f"Checked against {against}: no such machine was reached by who wrote it.",
        *plan_sentences(target),
    ]
    return [line for sentence in said for line in comment(sentence)]


def plan_sentences(target: Target) -> Iterator[str]:
    """Memory, hours, money and budget, a sentence each."""
    plan, machine, budget = target.plan, target.machine, target.recipe.budget
    worst = max(plan.parts, key=lambda part: part.missing)
    yield (
        f"Plan: fits; {worst.memory.peak / GIB:.1f} of {worst.limit / GIB:.1f} GiB of a device at the peak "
        f"({worst.part.name}{', with ' + ', '.join(worst.levers) if worst.levers else ''})."
    )
    took = "how long it takes nobody can tell before the data are there" if plan.hours is None else hours(plan.hours)
    if target.cloud == "slurm":
        yield f"Time: {took}."
    else:
        kind = "the spot price" if target.spot and machine.spot is not None else "the price on demand"
        said = (
            f"{kind} of {machine.priced}, ${target.price:,.2f} an hour and machine"
            if target.price
            else "no price is known"
        )
        usd = "" if target.usd is None else f", ${target.usd:,.2f}"
        yield f"Time and money: {took}{usd} ({said}; {machine.source})."
        if target.spot and machine.spot is None and target.cloud in WITH_SPOT:
            yield "No spot price is listed: it moves by the hour. The budget counts the price on demand, which is more."
    if budget.max_usd is None:
        yield "No budget.max_usd is set: nothing ends this run but its own end."
    elif target.price:
        yield (
            f"Budget: ${budget.max_usd:,.2f}, over all restarts: when it is spent, training saves and stops with "
            "status 76, and is not started again. The minutes to boot and to install are not counted."
        )
        if target.usd is not None and target.usd > budget.max_usd:
            yield "By the plan the budget does not reach to the end: raise budget.max_usd, or shorten the recipe."
    else:
        yield "budget.max_usd counts nothing here: set budget.usd_per_hour to what an hour of a machine costs you."


def comment(sentence: str) -> list[str]:
    """A sentence as lines of comment."""
    lines, held = [], "#"
    for word in sentence.split():
        if len(held) + 1 + len(word) > WIDTH and held != "#":
            lines.append(held)
            held = "#  "
        held += f" {word}"
    return [*lines, held]


def block(lines: Sequence[str], indent: str = "  ") -> list[str]:
    """Lines of a YAML block."""
    return [f"{indent}{line}" if line else "" for line in lines]
