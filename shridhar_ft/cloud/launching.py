"""The accelerate config that a rented machine starts, and the settings that keep a step what the recipe says."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import layout_of_config
from shridhar_ft.plan.machines import Machine
from shridhar_ft.plan.plan import Plan, same_step
from shridhar_ft.shipped import ROOT, shipped

SEVERAL = "accelerate_configs/multi_node_zero3.yaml"


@dataclass(frozen=True)
class Launch:
    """How training starts on the machines."""

    config: str
    """As `launch.config` names it there."""
    made_from: Path
    """The config that is here."""
    text: str | None = None
    """What is written to `config`; None where the shipped file is right as it is."""
    steps: tuple[str, ...] = ()
    """Overrides that keep the windows of a step where the processes are other than the recipe's config starts."""

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The config as a file, for what reads files; gone after the block where it is not written yet."""
        if self.text is None:
            yield self.made_from
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / self.made_from.name
            file.write_text(self.text, encoding="utf-8")
            yield file

    def same_steps(self, recipe: Recipe, plan: Plan) -> tuple[str, ...]:
        """The overrides that the plan has made, as the command line takes them."""
        planned = same_step(recipe, plan.layout, plan.config)
        pairs: list[tuple[str, Tuning | None, Tuning | None]] = [
            ("train", recipe.train, planned.train), ("sft", recipe.sft, planned.sft),
        ]  # fmt: skip
        said = [
            f"{key}.gradient_accumulation={new.gradient_accumulation}"
            for key, old, new in pairs
            if old and new and old.gradient_accumulation != new.gradient_accumulation
        ]
        for index, (before, after) in enumerate(zip(recipe.stages, planned.stages, strict=True)):
            if before.gradient_accumulation != after.gradient_accumulation:
                said.append(f"stages.{index}.gradient_accumulation={after.gradient_accumulation}")
        return tuple(said)


def launch_for(recipe: Recipe, machine: Machine, nodes: int, file: Path) -> Launch:
    """The recipe's own accelerate config where it suits the machine, else one with the machine's processes.

    Args:
        recipe: The recipe.
        machine: One of the machines.
        nodes: How many of them; from two on it is ZeRO-3 over all.
        file: Where a config that has to be written goes.

    Raises:
        UserError: A config that starts several processes is asked for on a machine with one device.
    """
    made_from = shipped(SEVERAL) if nodes > 1 else _of_one_machine(recipe, machine)
    layout = layout_of_config(made_from)
    if machine.devices == 1 and nodes == 1 and layout.processes > 1:
        raise UserError(
            f"launch.config: {made_from.name} starts {layout.processes} processes and {machine.name} has one device; "
            "set launch.config=accelerate_configs/single_gpu.yaml"
        )
    inside = made_from.is_relative_to(ROOT / "accelerate_configs")
    if inside and (layout.processes, layout.nodes) == (machine.devices * nodes, nodes):
        return Launch(str(made_from.relative_to(ROOT)), made_from)
    settings = yaml.safe_load(made_from.read_text(encoding="utf-8"))
    settings |= {"num_processes": machine.devices * nodes, "num_machines": nodes}
    head = f"# {made_from.name} for {nodes} × {machine.name}; written by `shridhar-ft cloud`.\n"
    return Launch(str(file), made_from, head + yaml.safe_dump(settings, sort_keys=False))


def _of_one_machine(recipe: Recipe, machine: Machine) -> Path:
    """The recipe's config, or for `auto` and for a CPU's the plain one."""
    plain = shipped(f"accelerate_configs/{'ddp' if machine.devices > 1 else 'single_gpu'}.yaml")
    if recipe.launch.config == "auto":
        return plain
    given = Path(recipe.launch.config)
    layout = layout_of_config(given)
    if layout.for_cpu or (machine.devices == 1 and layout.sharding == "ddp"):
        return plain
    return plain if machine.devices > 1 and layout.sharding == "none" else given
