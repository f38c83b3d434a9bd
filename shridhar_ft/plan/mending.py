"""The smallest change that makes a part fit, and the longest window that does."""

from collections.abc import Iterator
from dataclasses import replace

from shridhar_ft.config_training import Tuning
from shridhar_ft.plan.choosing import Step, as_needed, exact_levers
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.machines import Kind
from shridhar_ft.plan.parts import PartPlan, longest_context
from shridhar_ft.plan.plan import Plan
from shridhar_ft.plan.sizes import sizes_of

SHORTEST = 256  # tokens: a shorter window is no advice


def smallest_change(part: PartPlan, plan: Plan) -> str:
    """The change that costs least and makes a part fit, as a sentence without its stop.

    In order: exact levers, levers that change numbers, a smaller batch, sharding, offloading, adapters, a shared
    window, a shorter one; each after the first with the levers that `memory: auto` would turn on.

    Args:
        part: A part that does not fit.
        plan: The plan that it is of.
    """
    step, limit, host = part.step, part.limit, part.host_limit // max(1, plan.machine.devices)
    names = part.levers
    for lever in exact_levers(step, host):
        if lever in names or not step.goes((*names, lever)):
            continue
        names = (*names, lever)
        if step.peak(names) <= limit:
            return f"set memory to [{', '.join(names)}], which changes no number"

    def fits(changed: Step) -> bool:
        return changed.peak(as_needed(changed, limit, host)[0]) <= limit

    tuning, layout = step.tuning, step.layout
    if tuning.memory != "auto" and fits(step):
        return f"set memory to auto, which turns on {', '.join(as_needed(step, limit, host)[0])}"
    for batch in range(tuning.batch_size - 1, 0, -1):
        if fits(replace(step, tokens=part.part.window * batch)):
            times = f"{tuning.gradient_accumulation * tuning.batch_size / batch:g}"
            return f"set batch_size to {batch} (and gradient_accumulation to {times})"
    for config, wider in _sharded(layout, plan.machine.kind):
        if fits(replace(step, layout=wider)):
            return f"launch with accelerate_configs/{config}.yaml, shared out over {layout.processes} devices"
    for method in _lighter(part, plan):
        if fits(_with_method(part, plan, method)):
            return f"set method to {method}"
    if layout.processes > 1 and layout.sequence == 1 and plan.machine.kind == "cuda":
        together = replace(layout, sharding="zero3", sequence=layout.processes)
        if fits(replace(step, layout=together)):
            return f"share each window among {layout.processes} devices (accelerate_configs/ulysses.yaml)"
    longest = longest_context(part, host)
    if longest >= SHORTEST:
        return f"shorten the window to {longest:,} tokens, the longest that fits, or take a smaller model"
    return "no window of this model fits; take a smaller one, or a larger machine"


def _sharded(layout: Layout, kind: Kind) -> Iterator[tuple[str, Layout]]:
    """Layouts that share out more, by the name of their accelerate config, the cheapest first."""
    if layout.processes == 1 or kind == "mps":
        return
    prefix = "" if kind == "cuda" else "cpu_"
    if layout.sharding in ("ddp", "zero1"):
        yield f"{prefix}zero2", replace(layout, sharding="zero2")
    if layout.sharding in ("ddp", "zero1", "zero2"):
        yield f"{prefix}zero3", replace(layout, sharding="zero3")
    if kind == "cuda" and not layout.offload_weights:
        yield "zero3_offload", replace(layout, sharding="zero3", offload_optimizer=True, offload_weights=True)


def _lighter(part: PartPlan, plan: Plan) -> tuple[str, ...]:
    """Methods that need less; adapters on random weights would teach nothing."""
    if part.part.kind == "stage" and plan.recipe.model.base is None:
        return ()
    return {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}[part.step.tuning.method]


def _with_method(part: PartPlan, plan: Plan, method: str) -> Step:
    tuning: Tuning = part.step.tuning.model_copy(update={"method": method})
    return replace(part.step, tuning=tuning, size=sizes_of(plan.shape, tuning))
