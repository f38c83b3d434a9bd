"""What a plan means, in sentences: what fits and by how much, the smallest change that mends it, what it costs."""

from collections.abc import Iterator
from dataclasses import dataclass

from shridhar_ft.config import Recipe
from shridhar_ft.plan.machines import machines
from shridhar_ft.plan.memory import GIB
from shridhar_ft.plan.mending import smallest_change
from shridhar_ft.plan.parts import PartPlan
from shridhar_ft.plan.plan import Plan, plan_recipe, same_step
from shridhar_ft.plan.shapes import Shape
from shridhar_ft.plan.steps import (
    ENOUGH_CONVERSATIONS,
    FEW_STEPS,
    NOTHING,
    SMALLEST_EXTENSION,
    WORTH_REPEATING,
    trains_nothing,
)
from shridhar_ft.runfolder import Run

NOT_WORTH_SAYING = 0.02  # share of the bill


@dataclass(frozen=True)
class Again:
    """Plans the same recipe with something changed."""

    plan: Plan
    run: Run
    books: int | None = None
    dialogues: int | None = None

    def recipe(self, recipe: Recipe) -> Plan:
        """The plan of another recipe on the same machine."""
        return plan_recipe(
            same_step(recipe, self.plan.layout, self.plan.config),
            self.run,
            self.plan.machine,
            layout=self.plan.layout,
            books=self.books,
            dialogues=self.dialogues,
            count=self._shape,
        )

    def elsewhere(self, name: str) -> Plan:
        """The plan of the same recipe on another machine."""
        return plan_recipe(
            self.plan.recipe, self.run, machines()[name], books=self.books, dialogues=self.dialogues, count=self._shape
        )

    def _shape(self, recipe: Recipe, vocabulary: int | None) -> Shape:
        return self.plan.shape


def verdicts(again: Again) -> list[str]:
    """All sentences on a plan, the gravest first.

    Args:
        again: The plan, and what it takes to plan with something changed.
    """
    plan = again.plan
    said = [sentence for part in plan.parts for sentence in _fit(again, part)]
    said += [sentence for part in plan.parts for sentence in _enough(plan, part)]
    said += _money(plan)
    if (cheapest := _cheapest(again)) is not None:
        said.append(cheapest)
    said += _spending(plan)
    said += _halving(again)
    return said


# ------------------------------------------------------------------------------------------------- memory


def _fit(again: Again, part: PartPlan) -> Iterator[str]:
    name, peak, limit = part.part.name, part.memory.peak / GIB, part.limit / GIB
    levers = f"with {', '.join(part.levers)}" if part.levers else "without levers"
    if part.missing <= 0:
        yield (
            f"{name}: fits: {peak:.1f} of {limit:.1f} GiB {_each(again.plan)} at the peak, {levers}; "
            f"{-part.missing / GIB:.1f} GiB are left."
        )
    else:
        yield (
            f"{name}: does not fit: {peak:.1f} GiB {_each(again.plan)} at the peak, {levers}, and {limit:.1f} may be "
            f"filled: {part.missing / GIB:.1f} GiB are missing; {smallest_change(part, again.plan)}."
        )
    if part.host > part.host_limit:
        yield (
            f"{name}: does not fit: its processes take {part.host / GIB:.1f} GiB of the host, and "
            f"{part.host_limit / GIB:.1f} may be filled; take fewer processes, or offload to a disk."
        )


def _each(plan: Plan) -> str:
    if plan.machine.kind != "cpu":
        return "of a device"
    return "of a process" if plan.layout.processes > 1 else "of memory"


# --------------------------------------------------------------------------------------------------- data


def _enough(plan: Plan, part: PartPlan) -> Iterator[str]:
    name, supply, tuning = part.part.name, part.supply, part.part.tuning
    if supply.tokens is None:
        yield f"{name}: nobody can tell how many tokens it reads: {supply.source}."
        if part.steps is None:
            return
    if part.epochs is not None and part.epochs > WORTH_REPEATING:
        if tuning.max_epochs is None or (tuning.max_steps or tuning.max_tokens):
            steps = max(1, int(WORTH_REPEATING * (supply.windows or 0) / part.per_step))
            mend = f"max_steps: {steps}"
        else:
            mend = f"max_epochs: {WORTH_REPEATING}"
        yield (
            f"{name}: {part.epochs:,.0f} epochs ({part.steps or 0:,} steps of {part.tokens_a_step:,} tokens read "
            f"{(part.steps or 0) * part.tokens_a_step / 1e6:,.1f} million of {(supply.tokens or 0) / 1e6:,.2f}); "
            f"beyond about {WORTH_REPEATING} repeating teaches little: set {mend}."
        )
    going_on = {f"stages/{stage.name}" for stage in plan.recipe.stages if stage.carry.schedule}
    if trains_nothing(tuning, part.steps, name in going_on):
        yield f"{name}: {NOTHING}."
    if part.part.kind == "sft":
        if supply.conversations is not None and supply.conversations < ENOUGH_CONVERSATIONS:
            yield (
                f"{name}: {supply.conversations:,} conversations are few; about {ENOUGH_CONVERSATIONS:,} taught a "
                "large base its manner."
            )
        return
    if supply.tokens is not None:
        own = plan.recipe.stages[0].context if plan.recipe.model.from_config else plan.shape.positions
        if part.part.context > own and supply.tokens < SMALLEST_EXTENSION:
            yield (
                f"{name}: adaptation to a domain, no extension of context: {supply.tokens / 1e6:,.2f} million distinct "
                f"tokens, where the smallest published extension read {SMALLEST_EXTENSION / 1e6:,.0f} million."
            )
        if supply.tokens < part.part.context:
            yield f"{name}: a window is {part.part.context:,} tokens, and there are about {supply.tokens:,}; add books."
        elif part.steps is not None and part.steps < FEW_STEPS and part.per_step > 1:
            these = f"{part.steps} optimizer step{'s' if part.steps > 1 else ''}"
            yield f"{name}: only {these} of {part.per_step} windows; make them smaller, or more."


# --------------------------------------------------------------------------------------------------- money


def _money(plan: Plan) -> Iterator[str]:
    if plan.hours is None:
        return
    if plan.usd is None:
        yield f"time: about {hours(plan.hours)} on {plan.machine.name}; nothing is known of what an hour of it costs."
        return
    spot = f", ${plan.usd_spot:,.2f} at the spot price where there is one" if plan.usd_spot is not None else ""
    yield (
        f"money: about {hours(plan.hours)} on {plan.machine.name} at ${plan.price:,.2f} an hour: ${plan.usd:,.2f}{spot}"
        f" (price of {plan.machine.priced}: {plan.machine.source})."
    )
    most = plan.recipe.budget.max_usd
    if most is not None and plan.usd > most:
        yield f"budget: ${plan.usd:,.2f} is more than budget.max_usd allows (${most:,.2f})."


def _cheapest(again: Again) -> str | None:
    """The machine on which the recipe costs least, of those that it fits on."""
    found = []
    for name in machines():
        if (other := again.elsewhere(name)).fits and other.usd:
            found.append(other)
    if not found:
        return None if again.plan.hours is None else "cheapest: it fits on no machine whose price is known."
    best = min(found, key=lambda other: other.usd or 0)
    if best.machine.name == again.plan.machine.name:
        return f"cheapest: {best.machine.name} is the cheapest of the listed machines that it fits on."
    return f"cheapest: {best.machine.name} does it in {hours(best.hours or 0)} for ${best.usd:,.2f}."


def _spending(plan: Plan) -> Iterator[str]:
    """What the hours go into: parts, then what a step of the dearest part consists of."""
    if not plan.hours:
        return
    shares = {part.part.name: (part.hours or 0) / plan.hours for part in plan.parts}
    measuring = sum(part.evaluating for part in plan.parts) / plan.hours
    around = 1 - sum(shares.values())
    said = [f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda found: -found[1])]
    said += [f"setting up {around:.0%}"] if around > NOT_WORTH_SAYING else []
    dearest = max(plan.parts, key=lambda part: part.hours or 0)
    terms = sorted(dearest.seconds.items(), key=lambda found: -found[1])
    of_step = [
        f"{name} {value / dearest.step_seconds:.0%}" for name, value in terms if value > 0.02 * dearest.step_seconds
    ]
    yield (
        f"time goes into: {', '.join(said)}; {measuring:.0%} of it is measuring; a step of {dearest.part.name} is "
        f"{', '.join(of_step)}."
    )


def _halving(again: Again) -> Iterator[str]:
    """Changes that halve the bill, or the one that saves most."""
    plan = again.plan
    whole = plan.usd if plan.usd is not None else plan.hours
    if not whole or plan.hours is None:
        return
    unit = "bill" if plan.usd is not None else "time"
    saves: list[tuple[float, str]] = []
    if plan.usd_spot is not None and plan.usd:
        saves.append((1 - plan.usd_spot / plan.usd, "the spot price (checkpoints make it safe)"))
    for what, other in _changes(plan.recipe):
        found = again.recipe(other)
        now = found.usd if plan.usd is not None else found.hours
        if now is not None:
            saves.append((1 - now / whole, what))
    saves = sorted((save for save in saves if save[0] > NOT_WORTH_SAYING), reverse=True)
    if enough := [f"{what} (−{share:.0%})" for share, what in saves if share >= 0.5]:
        yield f"what halves the {unit}: {'; or '.join(enough)}."
    elif saves:
        yield f"nothing alone halves the {unit}; most is saved by {saves[0][1]} (−{saves[0][0]:.0%})."


def _changes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Recipes that cost less, and what differs in them."""
    plain = {"max_epochs": float(WORTH_REPEATING), "max_steps": None, "max_tokens": None}
    stages = [stage.model_copy(update=plain) for stage in recipe.stages]
    if stages:
        yield f"{WORTH_REPEATING} epochs a stage", recipe.model_copy(update={"stages": stages})
    rarely = {"evaluate_every": 10**9}
    yield (
        "measuring at the end only (evaluate_every)",
        recipe.model_copy(
            update={
                "stages": [stage.model_copy(update=rarely) for stage in recipe.stages],
                "sft": recipe.sft and recipe.sft.model_copy(update=rarely),
            }
        ),
    )
    if len(recipe.stages) > 1:
        shorter = recipe.stages[:-1]
        yield f"leaving out the stage '{recipe.stages[-1].name}'", recipe.model_copy(update={"stages": shorter})
    config = recipe.model.from_config or {}
    if config.get("attention_dropout"):
        without = recipe.model.model_copy(update={"from_config": {**config, "attention_dropout": 0.0}})
        yield "attention_dropout: 0", recipe.model_copy(update={"model": without})
    if config and recipe.model.attention != "sparse":
        sliding = {"model_type": "olmo3", "head_dim": None}
        model = recipe.model.model_copy(update={"attention": "sparse", "from_config": {**config, **sliding}})
        yield (
            "sliding windows in three of four layers (olmo3, attention: sparse)",
            recipe.model_copy(update={"model": model}),
        )


def hours(number: float) -> str:
    """Hours as a person says them."""
    if number < 2:
        count, unit = (number * 3600, "second") if number < 1 / 60 else (number * 60, "minute")
        return f"{count:.0f} {unit}{'' if round(count) == 1 else 's'}"
    return f"{number:.1f} hours" if number < 48 else f"{number / 24:.1f} days"
