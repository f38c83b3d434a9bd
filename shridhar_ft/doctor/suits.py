"""Which accelerate configuration suits this machine, and a recipe on it."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from shridhar_ft.config import Recipe
from shridhar_ft.engines import FLASH, Engine
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import base_config
from shridhar_ft.plan.check import machine_here
from shridhar_ft.plan.free_memory import room_bytes
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.meta import shape_on_meta
from shridhar_ft.plan.plan import plan_recipe
from shridhar_ft.runfolder import Run
from shridhar_ft.shipped import shipped

if TYPE_CHECKING:
    from shridhar_ft.plan.machines import Kind

GIB = 1 << 30
# The simplest first: each next one saves memory and costs time.
LADDERS = {
    "cpu": ("cpu", "cpu_ddp"),
    "mps": ("mps",),
    "one": ("single_gpu", "zero3_offload"),
    "many": ("ddp", "zero2", "zero3", "fsdp2", "ulysses", "zero3_offload"),
}
SEVERAL = "multi_node_zero3"  # what is left when nothing fits one machine
WHY = {
    "cpu": "no GPU here: one process with all cores",
    "mps": "Apple silicon: one process",
    "single_gpu": "one GPU",
    "ddp": "several GPUs, each of which holds the whole model",
    "fsdp2": "as ZeRO-3, without DeepSpeed",
    "ulysses": "its windows fit only where several GPUs share each",
}


def ladder(machine: dict[str, Any]) -> tuple[str, ...]:
    """Names of the configurations that a machine could take, the simplest first."""
    if machine["device"] == "cuda":
        return LADDERS["many" if len(machine["devices"]) > 1 else "one"]
    return LADDERS.get(machine["device"], LADDERS["cpu"])


def suits(machine: dict[str, Any], recipe: Recipe | None, run: Run | None) -> dict[str, Any]:
    """The configuration to take, why, and what stands in its way.

    Args:
        machine: From `machine.look`.
        recipe: What is to be trained; None asks about the machine alone.
        run: The recipe's run.

    Returns:
        `config`, `why`, `tried` (a line for each configuration looked at) and `troubles` (sentences; with one, nothing
        suits, or what the recipe names cannot be).
    """
    names = ladder(machine)
    if recipe is None or run is None:
        return {"config": _path(names[0]), "why": WHY[names[0]], "tried": [], "troubles": []}
    tried: list[str] = []
    chosen: str | None = None
    for name in names:
        verdict = _fits(recipe, run, machine, shipped(_path(name)))
        tried.append(f"{name}: {verdict or 'fits'}")
        if verdict is None:
            chosen = name
            break
    troubles = []
    if chosen is None:
        troubles.append("no configuration for this machine trains the recipe; `shridhar-ft plan` says what would fit")
        if len(machine["devices"]) > 1:
            verdict = _fits(recipe, run, machine, shipped(_path(SEVERAL)))
            tried.append(f"{SEVERAL}: {verdict or 'fits'}")
            if verdict is None:
                troubles[0] += f", and {_path(SEVERAL)} would, on several machines like this one"
    if recipe.launch.config != "auto":
        named = Path(recipe.launch.config)
        if not named.is_file():
            troubles.append(f"launch.config: {named} does not exist")
        elif verdict := _fits(recipe, run, machine, named):
            troubles.append(f"launch.config {named.name}: {verdict}")
        else:
            return {"config": str(named), "why": "the recipe names it, and it fits", "tried": tried, "troubles": []}
    why = WHY.get(chosen or "", "the simplest that fits")
    return {"config": _path(chosen) if chosen else None, "why": why, "tried": tried, "troubles": troubles}


def _fits(recipe: Recipe, run: Run, machine: dict[str, Any], config: Path) -> str | None:
    """Why a configuration cannot train a recipe here, in a few words; None where it can."""
    import torch

    try:
        engine = Engine.of_file(config)
        engine.check(recipe, machine["device"])
        if engine.sequence > 1 and engine.attention in FLASH and find_spec("flash_attn") is None:
            return "FlashAttention is not installed: pip install 'shridhar_ft[flash]'"
        if engine.deepspeed and find_spec("deepspeed") is None:
            return "DeepSpeed is not installed: pip install 'shridhar_ft[deepspeed]'"
        device = torch.device(machine["device"])
        room = machine["devices"][0]["free"] if device.type == "cuda" else room_bytes(device)
        here = machine_here(cast("Kind", device.type), room, Layout(max(1, len(machine["devices"]))))
        plan = plan_recipe(
            recipe, run, here, config, count=lambda held, size: shape_on_meta(base_config(held.model, size))
        )
    except UserError as error:
        return str(error)
    for part in plan.parts:
        if not part.fits:
            return f"{part.part.name} needs {part.memory.peak / GIB:.1f} GiB, {part.limit / GIB:.1f} may be filled"
    return None


def _path(name: str) -> str:
    return f"accelerate_configs/{name}.yaml"
