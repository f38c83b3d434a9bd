"""A plan as a person reads it, and as JSON."""

from collections.abc import Iterator
from typing import Any

from shridhar_ft.plan.memory import GIB
from shridhar_ft.plan.parts import PartPlan
from shridhar_ft.plan.plan import Plan
from shridhar_ft.plan.verdicts import hours


def _of_layers(*names: str) -> tuple[str, ...]:
    """Terms of one layer, and of the layers beside it or of all."""
    return tuple(f"{name}{which}" for name in names for which in ("", " of other layers", " of all layers"))


TERMS = {  # how the terms of memory are summed up in the table
    "weights": ("weights", "quantised weights", "gathered weights", "layers in bf16"),
    "gradients": ("gradients", "head's gradient", "buffers"),
    "optimizer": ("optimizer",),
    "kept": ("checkpoints", "kept attention"),
    "attention": _of_layers("attention", "kv"),
    "MLP": _of_layers("mlp"),
    "norms": _of_layers("norms"),
    "loss": ("hidden states", "logits", "head in bf16"),
    "rest": ("process", "on the way back", "attention on the way back", "holes in the heap", "fragmentation"),
}


def lines(plan: Plan, sentences: list[str]) -> Iterator[str]:
    """The whole plan: model, tables, disk, verdicts."""
    shape = plan.shape
    yield (
        f"model: {shape.total / 1e6:,.1f} million parameters ({plan.model}), {shape.layers} layers of {shape.hidden}, "
        f"vocabulary {shape.vocabulary:,}"
    )
    yield f"machine: {plan.machine.name}, {plan.machine.devices} × {plan.machine.chip}, {plan.layout}"
    for source in dict.fromkeys(part.supply.source for part in plan.parts if part.supply.source):
        yield f"tokens: {source}"
    yield from plan.notes
    yield ""
    head = f"{'GiB at the peak':<18}{'all':>8}" + "".join(f"{name:>11}" for name in TERMS) + f"{'host':>8}  levers"
    yield head
    for part in plan.parts:
        found = [sum(part.memory.device.get(term, 0) for term in terms) / GIB for terms in TERMS.values()]
        cells = "".join(f"{value:>11.2f}" for value in found)
        yield (
            f"{part.part.name:<18}{part.memory.peak / GIB:>8.2f}{cells}{part.host / GIB:>8.1f}  "
            f"{', '.join(part.levers) or '-'}"
        )
    yield ""
    yield (
        f"{'part':<18}{'method':>8}{'window':>9}{'tokens':>13}{'windows':>9}{'steps':>8}{'epochs':>8}"
        f"{'s/step':>9}{'training':>14}{'measuring':>14}{'US$':>10}"
    )
    for part in plan.parts:
        yield _row(plan, part)
    yield ""
    yield (
        f"disk: about {plan.disk / 1e9:,.1f} GB at the end (a checkpoint of the largest part "
        f"{max(part.written.checkpoint for part in plan.parts) / 1e9:,.2f} GB); "
        f"a backup of every checkpoint carries {plan.backup / 1e9:,.1f} GB{_rate(plan)}"
    )
    yield ""
    yield from sentences


def _row(plan: Plan, part: PartPlan) -> str:
    supply = part.supply
    usd = part.hours * plan.price if part.hours is not None and plan.price is not None else None
    return (
        f"{part.part.name:<18}{part.part.tuning.method:>8}{part.part.window:>9,}{_count(supply.tokens):>13}"
        f"{_count(supply.windows):>9}{_count(part.steps):>8}"
        f"{'?' if part.epochs is None else f'{part.epochs:,.1f}':>8}{part.step_seconds:>9.2f}"
        f"{'?' if part.training is None else hours(part.training):>14}{hours(part.evaluating):>14}"
        f"{'-' if usd is None else f'{usd:,.2f}':>10}"
    )


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _rate(plan: Plan) -> str:
    """How fast a backup has to be to keep up, and what it costs to take the result home."""
    if not plan.hours:
        return ""
    home = plan.machine.egress_usd_per_gb * 4 * plan.shape.total / 1e9
    paid = f"; taking the model home costs ${home:,.2f}" if plan.machine.usd_per_hour else ""
    return f", {plan.backup / plan.hours / 3600 / 1e6:,.1f} MB/s on the average{paid}"


def compared(plans: list[tuple[str, Plan]]) -> Iterator[str]:
    """Machines and methods beside each other, the cheapest that fits first."""
    yield (
        f"{'machine':<24}{'method':<8}{'layout':<12}{'fits':<6}{'GiB':>8}{'of':>8}{'time':>14}{'US$':>11}{'spot':>10}"
        "  levers"
    )
    order = sorted(
        plans, key=lambda found: (not found[1].fits, found[1].usd is None, found[1].usd or 0, found[1].hours or 0)
    )
    for method, plan in order:
        worst = max(plan.parts, key=lambda part: part.missing)
        levers = dict.fromkeys(lever for part in plan.parts for lever in part.levers)
        usd, spot = (("-" if value is None else f"{value:,.2f}") for value in (plan.usd, plan.usd_spot))
        yield (
            f"{plan.machine.name:<24}{method:<8}{plan.layout.sharding:<12}{'yes' if plan.fits else 'NO':<6}"
            f"{worst.memory.peak / GIB:>8.1f}{worst.limit / GIB:>8.1f}"
            f"{'?' if plan.hours is None else hours(plan.hours):>14}{usd:>11}{spot:>10}  {', '.join(levers) or '-'}"
        )


def as_json(plan: Plan, sentences: list[str]) -> dict[str, Any]:
    """The plan as JSON holds it; bytes, seconds, hours and US dollars."""
    return {
        "recipe": plan.recipe.name,
        "machine": plan.machine.name,
        "layout": str(plan.layout),
        "processes": plan.layout.processes,
        "parameters": plan.shape.total,
        "fits": plan.fits,
        "hours": plan.hours,
        "usd": plan.usd,
        "usd_spot": plan.usd_spot,
        "usd_per_hour": plan.price,
        "priced": plan.machine.priced,
        "source": plan.machine.source,
        "disk_bytes": plan.disk,
        "backup_bytes": plan.backup,
        "parts": [part_as_json(part) for part in plan.parts],
        "notes": list(plan.notes),
        "verdicts": sentences,
    }


def part_as_json(part: PartPlan) -> dict[str, Any]:
    """One part as JSON holds it."""
    return {
        "name": part.part.name,
        "method": part.part.tuning.method,
        "window": part.part.window,
        "fits": part.fits,
        "levers": list(part.levers),
        "precision": "bf16" if part.bf16 else "fp32",
        "peak_bytes": part.memory.peak,
        "peak_without_levers_bytes": part.without,
        "limit_bytes": part.limit,
        "instant": part.memory.instant,
        "device_bytes": part.memory.device,
        "host_bytes": part.memory.host,
        "trained": part.step.size.trained,
        "tokens": part.supply.tokens,
        "tokens_source": part.supply.source,
        "windows": part.supply.windows,
        "windows_per_step": part.per_step,
        "steps": part.steps,
        "epochs": part.epochs,
        "operations_per_step": {name: getattr(part.work, name) for name in ("linear", "head", "attention")},
        "step_seconds": part.step_seconds,
        "step_seconds_by_term": part.seconds,
        "hours_training": part.training,
        "hours_measuring": part.evaluating,
        "checkpoint_bytes": part.written.checkpoint,
    }
