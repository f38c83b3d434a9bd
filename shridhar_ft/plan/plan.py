"""The plan of a whole recipe on one machine: its parts, their hours, what they cost and write.

plan_recipe(recipe, run_folder(recipe.name), machine("lambda-8xa100-80gb")) -> Plan
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shridhar_ft.config import Recipe
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout, layout_of_config
from shridhar_ft.plan.machines import HERE, Machine
from shridhar_ft.plan.models import ModelConfig, config_of
from shridhar_ft.plan.parts import PartPlan, parts_of, plan_part
from shridhar_ft.plan.shapes import Shape, shape_of
from shridhar_ft.plan.tokens import supplies
from shridhar_ft.runfolder import Run
from shridhar_ft.shipped import shipped

SETUP_HOURS = 0.3  # to boot, install, bring the data: paid, and without a step
NEW_TOKENS = 3  # that a base's tokenizer gets

Counter = Callable[[Recipe, int | None], Shape]
"""Counts a model that no formula knows, of a vocabulary, with torch."""


@dataclass(frozen=True)
class Plan:
    """A recipe on a machine."""

    recipe: Recipe
    machine: Machine
    layout: Layout
    shape: Shape
    model: str
    """Where the sizes are from."""
    parts: tuple[PartPlan, ...]
    notes: tuple[str, ...]
    config: Path | None = None
    """The accelerate config that was asked for, instead of the recipe's."""

    @property
    def fits(self) -> bool:
        return all(part.fits for part in self.parts)

    @property
    def hours(self) -> float | None:
        """From the first boot to the last weights; None where a part's steps are not known."""
        hours = [part.hours for part in self.parts]
        return None if None in hours else sum(hour for hour in hours if hour) + (SETUP_HOURS if self.rented else 0)

    @property
    def rented(self) -> bool:
        return bool(self.price)

    @property
    def price(self) -> float | None:
        """US dollars an hour, of all machines that it takes."""
        own = self.recipe.budget.usd_per_hour
        price = own if own is not None and self.machine.name == self.recipe.budget.machine else None
        each = price if price is not None else self.machine.usd_per_hour
        return None if each is None else each * self.nodes

    @property
    def nodes(self) -> int:
        return max(1, -(-self.layout.processes // self.machine.devices)) if self.machine.kind == "cuda" else 1

    @property
    def usd(self) -> float | None:
        return None if self.price is None or self.hours is None else self.price * self.hours

    @property
    def usd_spot(self) -> float | None:
        """The same at the spot price, which is not always to be had."""
        if self.machine.spot is None or self.hours is None:
            return None
        return self.machine.spot * self.nodes * self.hours

    @property
    def disk(self) -> int:
        """Bytes that lie on the disk at the end: checkpoints and weights of every part, the export beside them."""
        export = 4 * self.shape.total
        return sum(part.written.at_once for part in self.parts) + export

    @property
    def backup(self) -> int:
        """Bytes that a backup of every checkpoint carries."""
        return sum(part.written.in_all for part in self.parts)


def default_layout(recipe: Recipe, machine: Machine, config: Path | None = None) -> tuple[Layout, list[str]]:
    """How a recipe lies on a machine: as an accelerate config says, spread over all devices of the machine.

    Args:
        recipe: `launch.config` is taken where no other is given.
        machine: Where.
        config: An accelerate config.

    Returns:
        The layout, and a sentence where it is not just what the config says.
    """
    given = config or (None if recipe.launch.config == "auto" else Path(recipe.launch.config))
    if given is not None:
        made = layout_of_config(given)
    else:
        name = {"cuda": "ddp" if machine.devices > 1 else "single_gpu", "mps": "mps", "cpu": "cpu"}[machine.kind]
        made = layout_of_config(shipped(f"accelerate_configs/{name}.yaml"))
    devices = machine.devices
    if machine.kind == "cpu" and made.for_cpu:
        return made, []
    # An explicit config of more devices than the machine has means several machines.
    if config is not None and made.processes > devices and made.processes % devices == 0 and machine.kind == "cuda":
        return replace(made, nodes=made.processes // devices), []
    if made.processes == devices and made.for_cpu == (machine.kind == "cpu"):
        return made, []
    spread = replace(made, processes=devices, nodes=1, sequence=min(made.sequence, devices), for_cpu=False)
    if devices == 1 and made.sharding == "ddp":
        spread = replace(spread, sharding="none")
    elif devices > 1 and made.sharding == "none":
        spread = replace(spread, sharding="ddp")
    if made.processes == devices:
        return spread, []
    said = f"{given.name if given else 'the default'} starts {made.processes} processes, {machine.name} has {devices}"
    same = "a step reads as many windows as there, by gradient_accumulation"
    return spread, [f"launch: {said} device{'s' if devices > 1 else ''}; planned as {spread}; {same}."]


def same_step(recipe: Recipe, layout: Layout, config: Path | None = None) -> Recipe:
    """The recipe with so much accumulation that a step reads what it reads where its launch config starts it.

    Args:
        recipe: The recipe.
        layout: Where it is planned now.
        config: An accelerate config that was asked for; its number of processes is meant then.
    """
    if config is not None or recipe.launch.config == "auto":
        return recipe
    meant = layout_of_config(Path(recipe.launch.config)).replicas
    if meant == layout.replicas:
        return recipe

    def more(accumulation: int) -> dict[str, int]:
        return {"gradient_accumulation": max(1, round(accumulation * meant / layout.replicas))}

    train = recipe.train.model_copy(update=more(recipe.train.gradient_accumulation))
    stages = [
        stage.model_copy(update=more(stage.gradient_accumulation) if stage.gradient_accumulation else {})
        for stage in recipe.stages
    ]
    sft = recipe.sft and recipe.sft.model_copy(update=more(recipe.sft.gradient_accumulation))
    return recipe.model_copy(update={"train": train, "stages": stages, "sft": sft})


def sft_window(recipe: Recipe, shape: Shape) -> int:
    """Window of the dialogues in tokens: `sft.context`, else the last stage's, else the base's own positions."""
    own = recipe.sft.context if recipe.sft else None
    return own or recipe.last_context or shape.positions


def shape_of_recipe(recipe: Recipe, count: Counter | None = None) -> tuple[Shape, ModelConfig, bool]:
    """The model's shape, its config, and whether its vocabulary grows.

    Args:
        recipe: The recipe.
        count: Counts what no formula knows, with torch.

    Raises:
        UserError: A base that is not there, or an architecture without a formula where nothing can count it.
    """
    found = config_of(recipe.model)
    base = recipe.model.base is not None
    vocabulary = recipe.tokenizer.train.vocab_size if recipe.tokenizer.train else None
    if vocabulary is None and recipe.model.from_config is not None:
        vocabulary = found.config.get("vocab_size")
    grown = base and not found.spare_rows
    shape = shape_of(found.config, vocabulary)
    if shape is None and count is None:
        raise UserError(f"model: {found.config.get('model_type')} has no formula here, and torch is not to be loaded")
    if shape is None:
        assert count is not None, "just asked"
        shape = count(recipe, vocabulary)
    return (replace(shape, vocabulary=shape.vocabulary + NEW_TOKENS) if grown else shape), found, grown


def plan_recipe(
    recipe: Recipe,
    run: Run,
    machine: Machine,
    config: Path | None = None,
    layout: Layout | None = None,
    books: int | None = None,
    dialogues: int | None = None,
    count: Counter | None = None,
) -> Plan:
    """Plan a recipe on a machine.

    Args:
        recipe: The recipe.
        run: Its run; where its data are built, tokens are counted and not guessed.
        machine: Where.
        config: An accelerate config (default: the recipe's).
        layout: Processes and what they share, where they are known already.
        books: Tokens of books to plan with.
        dialogues: Tokens of dialogues to plan with.
        count: Counts a model that no formula knows, with torch.

    Raises:
        UserError: A base that is not there, levers that do not go together, a config that is not there.
    """
    shape, found, grown = shape_of_recipe(recipe, count)
    notes: list[str] = []
    asked = recipe
    if layout is None:
        layout, notes = default_layout(recipe, machine, config)
        asked = same_step(recipe, layout, config)
    context = sft_window(recipe, shape)
    read = supplies(recipe, run, context, books, dialogues)
    long = (recipe.eval.context or recipe.last_context or context) if recipe.eval.long_text else 0
    parts = tuple(
        plan_part(asked, part, shape, read[part.name], machine, layout, grown, long)
        for part in parts_of(asked, context)
    )
    if machine.name == HERE:
        notes.append(f"machine: {machine.source}.")
    return Plan(recipe, machine, layout, shape, found.source, parts, tuple(notes), config)
