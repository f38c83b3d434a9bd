"""The smallest change that makes a part fit, and the longest window that does."""

from dataclasses import replace

from shridhar_ft.config_training import Lever, Tuning
from shridhar_ft.plan.choosing import Step, exact_levers
from shridhar_ft.plan.layout import Sharding
from shridhar_ft.plan.memory import sizes_of
from shridhar_ft.plan.parts import PartPlan, longest_context
from shridhar_ft.plan.plan import Plan


def smallest_change(part: PartPlan, plan: Plan) -> str:
    """The change that costs least and makes a part fit, as a sentence without its stop.

    In order: an exact lever, a smaller batch, sharding, offloading, adapters, a shared window, a shorter one.
    """
    step, limit = part.step, part.limit
    host = part.host_limit // max(1, plan.machine.devices)
    names = part.levers
    for lever in exact_levers(step, host):
        if lever in names or not step.goes((*names, lever)):
            continue
        names = (*names, lever)
        if step.peak(names) <= limit:
            return f"set memory to [{', '.join(names)}], which changes no number"
    tuning, layout = step.tuning, step.layout
    if tuning.batch_size > 1:
        for batch in range(tuning.batch_size - 1, 0, -1):
            if _fits(replace(step, tokens=part.part.window * batch), names, limit):
                times = f"{tuning.gradient_accumulation * tuning.batch_size / batch:g}"
                return f"set batch_size to {batch} (and gradient_accumulation to {times})"
    if layout.processes > 1 and layout.sharding in ("ddp", "zero1", "zero2"):
        shardings: tuple[Sharding, ...] = ("zero2", "zero3")
        for sharding in shardings:
            wider = replace(layout, sharding=sharding)
            kept = tuple(name for name in names if sharding != "zero3" or name != "tiled_mlp")
            if sharding != layout.sharding and _fits(replace(step, layout=wider), kept, limit):
                shared = f"shares it out over {layout.processes} devices"
                return f"launch with accelerate_configs/{sharding}.yaml, which {shared}"
    offloaded = replace(layout, sharding="zero3", offload_optimizer=True)
    if plan.machine.kind == "cuda" and layout.deepspeed and not layout.offload_optimizer:
        kept = tuple(name for name in names if name != "tiled_mlp")
        if _fits(replace(step, layout=offloaded), kept, limit):
            return "launch with accelerate_configs/zero3_offload.yaml, which keeps the optimizer in host memory"
    for method in _lighter(part, plan):
        if _fits(_with_method(part, plan, method), names, limit):
            return f"set method to {method}"
    if layout.processes > 1 and layout.sequence == 1:
        together = replace(layout, sequence=layout.processes)
        if _fits(replace(step, layout=together), names, limit):
            return f"share each window among {layout.processes} devices (accelerate_configs/ulysses.yaml)"
    longest = longest_context(part, host)
    if longest >= 256:
        return f"shorten the window to {longest:,} tokens, the longest that fits, or take a smaller model"
    return "no window of this model fits; take a smaller one, or a larger machine"


def _fits(step: Step, names: tuple[Lever, ...], limit: int) -> bool:
    return step.goes(names) and step.peak(names) <= limit


def _lighter(part: PartPlan, plan: Plan) -> tuple[str, ...]:
    """Methods that need less; adapters on random weights would teach nothing."""
    if part.part.kind == "stage" and plan.recipe.model.base is None:
        return ()
    return {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}[part.step.tuning.method]


def _with_method(part: PartPlan, plan: Plan, method: str) -> Step:
    tuning: Tuning = part.step.tuning.model_copy(update={"method": method})
    return replace(part.step, tuning=tuning, size=sizes_of(plan.shape, tuning))
