"""The plan of one training part on one machine: levers and memory, steps, seconds by term, hours, bytes on the disk."""

from dataclasses import dataclass
from typing import Literal

from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.choosing import FILLED, Step, as_needed, exact_levers
from shridhar_ft.plan.disk import Written, written
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import check_levers
from shridhar_ft.plan.machines import Machine
from shridhar_ft.plan.memory import GIB, Footprint
from shridhar_ft.plan.shapes import Shape
from shridhar_ft.plan.sizes import sizes_of
from shridhar_ft.plan.steps import evaluated_every, schedule
from shridhar_ft.plan.tokens import Supply
from shridhar_ft.plan.work import Work, forward_work, step_seconds, step_work

SHORT = 2048  # tokens: the long text is read in whole windows, and their ends once more behind so many
BLOCKWISE = 4.0  # times that attention takes with dropout where there is no FlashAttention


@dataclass(frozen=True)
class Part:
    """A stage, or SFT, as the recipe has it."""

    name: str
    tuning: Tuning
    context: int
    window: int
    kind: Literal["stage", "sft"]


@dataclass(frozen=True)
class PartPlan:
    """What one part takes."""

    part: Part
    supply: Supply
    step: Step
    levers: tuple[Lever, ...]
    memory: Footprint
    without: int
    """Peak of a device without any lever, in bytes."""
    limit: int
    """Bytes of a device that may be filled."""
    host: int
    """Bytes of the host that all its processes take."""
    host_limit: int
    bf16: bool
    per_step: int
    steps: int | None
    epochs: float | None
    work: Work
    seconds: dict[str, float]
    """Of one optimizer step, by term."""
    evaluating: float
    """Hours of measuring: on the validation split, and on the long text before and after."""
    written: Written

    @property
    def fits(self) -> bool:
        return self.missing <= 0 and self.host <= self.host_limit

    @property
    def missing(self) -> int:
        """Bytes that a device lacks; negative where some are left."""
        return self.memory.peak - self.limit

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def training(self) -> float | None:
        """Hours of steps."""
        return None if self.steps is None else self.steps * self.step_seconds / 3600

    @property
    def hours(self) -> float | None:
        return None if self.training is None else self.training + self.evaluating

    @property
    def tokens_a_step(self) -> int:
        return self.per_step * self.part.window


def parts_of(recipe: Recipe, sft_context: int) -> list[Part]:
    """The training parts of a recipe, in order."""
    stages = [
        Part(f"stages/{stage.name}", stage.tuning(recipe.train), stage.context, stage.window, "stage")
        for stage in recipe.stages
    ]
    return [*stages, *([Part("sft", recipe.sft, sft_context, sft_context, "sft")] if recipe.sft else [])]


def plan_part(
    recipe: Recipe,
    part: Part,
    shape: Shape,
    supply: Supply,
    machine: Machine,
    layout: Layout,
    grown: bool,
    long_context: int,
) -> PartPlan:
    """Plan one part.

    Args:
        recipe: The whole recipe.
        part: Which part.
        shape: The model's.
        supply: What it reads.
        machine: Where.
        layout: On which of its devices, and how.
        grown: Whether the base's vocabulary grows.
        long_context: Length at which the long text is measured; 0 where there is none.

    Raises:
        UserError: The recipe lists levers that cannot be together here.
    """
    tuning, bf16 = part.tuning, machine.in_bf16(part.tuning.precision)
    size = sizes_of(shape, tuning, grown)
    step = Step(size, tuning, part.window * tuning.batch_size, bf16, machine.kind, layout)
    # One memory holds all processes of a machine without devices of their own.
    local = -(-layout.processes // layout.nodes) if machine.kind == "cpu" else 1
    limit = int(FILLED * machine.limit / local)
    if tuning.memory == "auto" and tuning.memory_limit:
        limit = int(tuning.memory_limit * GIB)
    host_limit = int(FILLED * machine.host)
    if tuning.memory == "auto":
        levers, _ = as_needed(step, limit, host_limit // max(1, machine.devices))
    else:
        levers = tuple(tuning.memory)
        check_levers(levers, tuning, machine.kind, layout.shards_name)
    memory = step.footprint(levers)
    document = supply.document
    work = step_work(size, tuning, part.window, document, levers, machine.kind, bf16, layout)
    seconds = step_seconds(work, size, machine, bf16, local)
    seconds["attention"] *= blockwise(recipe, machine)
    limits = schedule(tuning, supply.windows or 0, part.window, layout.replicas)
    known = supply.windows is not None or (tuning.max_steps or tuning.max_tokens) is not None
    steps = limits["steps"] if supply.windows else _fixed_steps(tuning, part.window, layout) if known else None
    host_each = memory.of_host if machine.kind == "cuda" else 0
    plan = PartPlan(
        part=part,
        supply=supply,
        step=step,
        levers=levers,
        memory=memory,
        without=step.peak(),
        limit=limit,
        host=host_each * -(-layout.processes // layout.nodes),
        host_limit=host_limit,
        bf16=bf16,
        per_step=limits["windows_per_step"],
        steps=steps,
        epochs=limits["epochs"] if supply.windows else None,
        work=work,
        seconds=seconds,
        evaluating=0.0,
        written=written(size, tuning, levers, layout, bf16, steps or 1),
    )
    hours = _evaluating(recipe, plan, machine, local, long_context)
    return PartPlan(**{**plan.__dict__, "evaluating": hours})


def _fixed_steps(tuning: Tuning, window: int, layout: Layout) -> int:
    """Steps where only max_steps and max_tokens speak."""
    per_step = tuning.batch_size * tuning.gradient_accumulation * layout.replicas
    by_tokens = -(-tuning.max_tokens // (per_step * window)) if tuning.max_tokens else None
    return min(limit for limit in (tuning.max_steps, by_tokens) if limit is not None)


def blockwise(recipe: Recipe, machine: Machine) -> float:
    """Times that attention takes: its dropout forces the slow kernel of a machine without FlashAttention."""
    config = recipe.model.from_config or {}
    return BLOCKWISE if machine.kind != "cuda" and float(config.get("attention_dropout") or 0) > 0 else 1.0


def _evaluating(recipe: Recipe, plan: PartPlan, machine: Machine, local: int, long_context: int) -> float:
    """Hours of forward passes for measuring, shared by the processes."""

    def seconds(window: int, document: float) -> float:
        layers, head, attention = forward_work(plan.step.size, window, document)
        dtype = "bf16" if plan.bf16 else "fp32"
        rate = machine.rates.matmul_at(dtype, plan.step.size.shape.hidden)
        return (layers + head) / rate + attention / machine.rates.attention_at(dtype, min(window, document))

    steps = plan.steps or 0
    times = steps // evaluated_every(plan.part.tuning, steps)
    whole = plan.supply.validation * seconds(plan.part.window, plan.supply.document)
    most = recipe.eval.max_windows
    # Before and after: of a stage's validation windows at most so many; of SFT's all.
    around = min(plan.supply.validation, most) if plan.part.kind == "stage" else plan.supply.validation
    spent = times * whole + 2 * around * seconds(plan.part.window, plan.supply.document)
    for length in dict.fromkeys((plan.part.context, long_context)) if long_context else ():
        spent += 2 * most * (seconds(length, length) + seconds(SHORT, SHORT))
    replicas = plan.step.layout.replicas / local if machine.kind == "cpu" else plan.step.layout.replicas
    return spent / max(1.0, replicas) / 3600


def longest_context(plan: PartPlan, host_bytes: int) -> int:
    """The longest window of this part that its devices hold with every exact lever, in tokens (to 1%)."""
    low, high = 0, max(plan.step.tokens, 256)

    def fits(tokens: int) -> bool:
        step = Step(plan.step.size, plan.step.tuning, tokens, plan.bf16, plan.step.device, plan.step.layout)
        names: tuple[Lever, ...] = ()
        for name in exact_levers(step, host_bytes):
            names = (*names, name) if step.goes((*names, name)) else names
        found = step.footprint(names)
        return found.peak <= plan.limit and found.of_host <= host_bytes

    while fits(high) and high < 1 << 26:
        low, high = high, high * 2
    while high - low > max(16, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low // plan.part.tuning.batch_size
