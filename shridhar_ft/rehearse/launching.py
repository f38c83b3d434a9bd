"""Which accelerate config the rehearsal starts under: the recipe's own where it is a CPU's, else its twin for CPUs."""

from dataclasses import dataclass
from pathlib import Path

from shridhar_ft.config import Recipe
from shridhar_ft.plan.layout import Layout, layout_of_config
from shridhar_ft.rehearse.small import Laptop
from shridhar_ft.shipped import shipped


@dataclass(frozen=True)
class StandIn:
    """What is launched here."""

    config: str
    """Path of an accelerate config, or `auto`."""
    layout: Layout
    untried: tuple[str, ...] = ()


def stand_in(recipe: Recipe, real: Layout, laptop: Laptop) -> StandIn:
    """The twin of a layout for the processor of a laptop.

    Args:
        recipe: The real recipe; its `launch.config` exists or is `auto`.
        real: How it would lie on the machine that it is meant for.
        laptop: What this machine can.
    """
    if real.for_cpu and recipe.launch.config != "auto":
        return StandIn(recipe.launch.config, real)
    if recipe.launch.config == "auto" and real.processes == 1:
        return StandIn("auto", Layout(for_cpu=True))
    said = []
    name = {"none": "cpu", "ddp": "cpu_ddp", "fsdp": "cpu_ddp", "zero3": "cpu_zero3"}.get(real.sharding, "cpu_zero2")
    if real.sharding == "fsdp":
        said.append("launch.config: FSDP cannot run on a CPU; DDP stands in, and its sharding is not tried.")
    if name.startswith("cpu_zero") and not laptop.deepspeed:
        said.append(f"launch.config: {real} needs DeepSpeed, which is not installed here; DDP stands in.")
        name = "cpu_ddp"
    if real.sequence > 1:
        said.append(
            f"launch.config: Ulysses over {real.sequence} devices needs FlashAttention for packed windows; here each "
            "process reads windows of its own."
        )
    if real.offload_optimizer or real.offload_weights:
        said.append("launch.config: offload to the host is not tried, the host is all there is here.")
    config = shipped(f"accelerate_configs/{name}.yaml")
    here = layout_of_config(Path(config))
    if real.processes != here.processes:
        said.append(f"launch.config: {here} stands in for {real}: what only shows at {real.processes} is not tried.")
    return StandIn(str(config), here, tuple(said))
