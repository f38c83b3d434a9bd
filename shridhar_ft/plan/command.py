"""`shridhar-ft plan`: one plan with its verdicts, or all machines and methods beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe, load_recipe
from shridhar_ft.errors import UserError
from shridhar_ft.plan.machines import HERE, machine, machines
from shridhar_ft.plan.plan import Counter, Plan, plan_recipe
from shridhar_ft.plan.verdicts import Again, verdicts
from shridhar_ft.plan.view import as_json, compared, lines
from shridhar_ft.runfolder import Run, run_folder
from shridhar_ft.shipped import shipped


@dataclass(frozen=True)
class Asked:
    """What the command line asks for beside the recipe."""

    machine: str | None = None
    config: str | None = None
    books: int | None = None
    dialogues: int | None = None
    count: Counter | None = None


def answer_for(
    recipe: str, overrides: Sequence[str], asked: Asked, compare: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The answer as JSON and as lines.

    Args:
        recipe: RECIPE of the command line.
        overrides: `key.sub=value` strings.
        asked: Machine, config, tokens.
        compare: All machines and methods instead of one plan.

    Raises:
        UserError: The recipe, the machine or the config is not there.
    """
    loaded = load_recipe(recipe, overrides)
    run = run_folder(loaded.name)
    if compare:
        plans = _compared(loaded, run, asked)
        rows = [{"method": method, **as_json(plan, [])} for method, plan in plans]
        return {"recipe": loaded.name, "plans": rows}, list(compared(plans))
    plan = plan_one(loaded, run, asked)
    sentences = verdicts(Again(plan, run, asked.books, asked.dialogues))
    return as_json(plan, sentences), list(lines(plan, sentences))


def plan_one(recipe: Recipe, run: Run, asked: Asked) -> Plan:
    """The plan on the machine that is asked for."""
    where = machine(asked.machine or recipe.budget.machine)
    return plan_recipe(
        recipe, run, where, _config(asked), books=asked.books, dialogues=asked.dialogues, count=asked.count
    )


def _config(asked: Asked) -> Path | None:
    if asked.config is None:
        return None
    path = Path(asked.config)
    return path if path.is_file() or not shipped(path).is_file() else shipped(path)


def _compared(recipe: Recipe, run: Run, asked: Asked) -> list[tuple[str, Plan]]:
    """Every machine with the methods that make sense for the recipe's model."""
    methods = ("full", "lora", "qlora") if recipe.model.base is not None else ("full",)
    names = [asked.machine] if asked.machine else [HERE, *machines()]
    plans = []
    for name in names:
        for method in methods:
            other = _with_method(recipe, method) if recipe.model.base is not None else recipe
            try:
                plan = plan_recipe(
                    other,
                    run,
                    machine(name),
                    _config(asked),
                    books=asked.books,
                    dialogues=asked.dialogues,
                    count=asked.count,
                )
            except UserError as error:
                if "memory:" not in str(error):  # levers of the recipe's list that this machine has not
                    raise
                continue
            plans.append((method if recipe.model.base is not None else recipe.train.method, plan))
    return plans


def _with_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with another method in all of its parts."""
    parts = {"train": recipe.train.model_copy(update={"method": method})}
    return recipe.model_copy(update={**parts, "sft": recipe.sft and recipe.sft.model_copy(update={"method": method})})
