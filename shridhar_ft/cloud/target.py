"""Where a recipe is sent: the machine, that it fits there by the plan, and what an hour costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from shridhar_ft.cloud.launching import Launch, launch_for
from shridhar_ft.config import Recipe, find_recipe, load_recipe
from shridhar_ft.engines import Engine
from shridhar_ft.errors import UserError
from shridhar_ft.plan.check import cannot_fit
from shridhar_ft.plan.machines import HERE, Machine, machine, machines
from shridhar_ft.plan.plan import Counter, Plan, plan_recipe
from shridhar_ft.runfolder import Run, run_folder

Cloud = Literal["lambda", "aws", "gcp", "slurm"]
CLOUDS: tuple[str, ...] = get_args(Cloud)
WITH_SPOT = ("aws", "gcp")
SYSTEM_GB = 64  # system, CUDA, the environment


@dataclass(frozen=True)
class Wish:
    """What the command line asks for beside the recipe."""

    cloud: str
    folder: Path
    """Where the files go."""
    machine: str | None = None
    nodes: int = 1
    spot: bool | None = None
    """None: where the cloud has it."""
    books: int | None = None
    dialogues: int | None = None
    count: Counter | None = None
    """Counts a model that no formula knows, with torch."""


@dataclass(frozen=True)
class Target:
    """A recipe on its way to machines of one cloud."""

    cloud: str
    recipe: Recipe
    file: Path
    """The recipe's."""
    overrides: tuple[str, ...]
    launch: Launch
    plan: Plan
    spot: bool

    @property
    def machine(self) -> Machine:
        return self.plan.machine

    @property
    def nodes(self) -> int:
        return self.plan.nodes

    @property
    def name(self) -> str:
        """Of its files."""
        return self.cloud if self.nodes == 1 else f"{self.cloud}-{self.nodes}-nodes"

    @property
    def price(self) -> float | None:
        """US dollars an hour of one machine that the budget counts: the spot price where one is known."""
        own = self.recipe.budget.usd_per_hour
        if self.cloud == "slurm":  # whose hours are nobody's that is listed
            return own or 0.0
        if own is not None:
            return own
        return self.machine.spot if self.spot and self.machine.spot is not None else self.machine.usd_per_hour

    @property
    def usd(self) -> float | None:
        """US dollars of the whole run by the plan, at that price."""
        hours = self.plan.hours
        return None if hours is None or self.price is None else self.price * self.nodes * hours

    def disk_gb(self, data_bytes: int) -> int:
        """GB that one machine's disk has to have: system, run folder, base, and the data with what is made of them.

        Args:
            data_bytes: Of the sources.
        """
        base = 4 * self.plan.shape.total if self.recipe.model.base else 0
        needed = SYSTEM_GB + 1.2 * (self.plan.disk + base + 3 * data_bytes) / 1e9
        return max(128, -(-int(needed + 1) // 64) * 64)


def choose(recipe: str, overrides: Sequence[str], wish: Wish) -> Target:
    """The machine of this cloud that the recipe names, or the cheapest that it fits on.

    Args:
        recipe: RECIPE of the command line.
        overrides: `key.sub=value` strings.
        wish: Cloud, machine, number of machines.

    Raises:
        UserError: The cloud has no such machine or no spot, or the recipe fits on none of its machines.
    """
    loaded, file = load_recipe(recipe, overrides), find_recipe(recipe)
    run = run_folder(loaded.name)
    if wish.cloud not in CLOUDS:
        raise UserError(f"--to {wish.cloud}: there is no such cloud here; one of {', '.join(CLOUDS)}")
    if wish.spot and wish.cloud not in WITH_SPOT:
        raise UserError(f"--spot: {wish.cloud} rents no spot machines; leave it out, or take {' or '.join(WITH_SPOT)}")
    spot = wish.spot if wish.spot is not None else wish.cloud in WITH_SPOT
    found: list[Target] = []
    refused: list[str] = []
    for where in _candidates(loaded, wish):
        try:
            found.append(_planned(loaded, file, tuple(overrides), run, where, wish, spot))
        except UserError as error:
            refused.append(str(error))
    if not found:
        raise UserError(refused[0])
    return min(found, key=lambda target: (target.plan.usd or target.plan.price or 0, target.machine.name))


def _candidates(recipe: Recipe, wish: Wish) -> list[Machine]:
    """The machine that is asked for, or those of the cloud."""
    listed = [found for found in machines().values() if wish.cloud in ("slurm", found.cloud) and found.kind == "cuda"]
    meant = wish.machine or (recipe.budget.machine if recipe.budget.machine != HERE else None)
    of_cloud = [found for found in listed if found.name == meant]
    if of_cloud:
        return of_cloud
    known = ", ".join(found.name for found in listed)
    if wish.machine is not None:
        machine(wish.machine)  # a misspelt one is told as such
        raise UserError(f"--machine {wish.machine}: {wish.cloud} has no such machine; known: {known}")
    if wish.cloud == "slurm":
        raise UserError(
            f"--to slurm: name a machine like those of your cluster with --machine (known: {known}), or describe it in "
            "your own machines.yaml (docs/PLAN.md)"
        )
    return listed


def _planned(
    recipe: Recipe, file: Path, overrides: tuple[str, ...], run: Run, where: Machine, wish: Wish, spot: bool
) -> Target:
    """The recipe on this machine.

    Raises:
        UserError: It does not fit, or its accelerate config cannot be used there.
    """
    said = any(setting.startswith("budget.usd_per_hour=") for setting in overrides)  # now, for this very machine
    meant = said or recipe.budget.machine in (HERE, where.name) or wish.cloud == "slurm"
    own_price = recipe.budget.usd_per_hour if meant else None
    budget = recipe.budget.model_copy(update={"machine": where.name, "usd_per_hour": own_price})
    moved = recipe.model_copy(update={"budget": budget})
    launch = launch_for(moved, where, wish.nodes, wish.folder / f"launch-{where.name}-{wish.nodes}.yaml")
    with launch.as_file() as config:
        Engine.of_file(config).check(moved, "cuda")
        plan = plan_recipe(
            moved, run, where, config if wish.nodes > 1 else None,
            books=wish.books, dialogues=wish.dialogues, count=wish.count,
        )  # fmt: skip
    for part in plan.parts:
        if not part.fits:
            raise UserError(f"--to {wish.cloud}: on {where.name} {cannot_fit(part, plan)}")
    target = Target(
        wish.cloud, moved, file, overrides, replace(launch, steps=launch.same_steps(moved, plan)), plan, spot
    )
    if where.disk is not None and target.disk_gb(0) * 1e9 > where.disk and wish.cloud == "lambda":
        raise UserError(
            f"--to lambda: {where.name} has {where.disk / 1e9:,.0f} GB of disk, and {target.disk_gb(0):,} are needed; "
            "lower keep_checkpoints"
        )
    return target
