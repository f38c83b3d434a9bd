"""How a run lies on its devices: processes, what is sharded among them, what is offloaded, who shares a window.

Read from an accelerate config, or from the environment that accelerate's launcher made of it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from shridhar_ft.config import read_yaml
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.shipped import shipped

Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
BUCKET = 500_000_000  # numbers in DeepSpeed's buffer of gradients where its config does not say
LIVE = 1_000_000_000  # numbers of gathered parameters that ZeRO-3 lets live; it keeps what is used again within as many


@dataclass(frozen=True)
class Layout:
    """One run on its devices."""

    processes: int = 1
    """One a device, over all nodes."""
    nodes: int = 1
    sharding: Sharding = "none"
    offload_optimizer: bool = False
    """Moments and masters in host memory."""
    offload_weights: bool = False
    """ZeRO-3: weights in host memory too."""
    sequence: int = 1
    """Devices that share one window (Ulysses)."""
    bucket: int = BUCKET
    """Numbers in a buffer of gradients on their way (DeepSpeed)."""
    overlap: bool = False
    """DeepSpeed: a second such buffer, filled while the first is on its way."""
    live: int = LIVE
    """ZeRO-3: gathered parameters that may live at once (numbers)."""
    for_cpu: bool = False
    """Whether its config is one for processes on a CPU."""

    @property
    def replicas(self) -> int:
        """Windows that are read at once, for batch_size 1."""
        return self.processes // self.sequence

    @property
    def deepspeed(self) -> bool:
        return self.sharding.startswith("zero")

    @property
    def shards(self) -> int:
        """Parts into which moments are cut; 1 where every process has them whole."""
        return 1 if self.sharding in ("none", "ddp") else self.processes

    @property
    def shards_name(self) -> str | None:
        """What shards the optimizer, in words; None where nothing does."""
        if self.deepspeed:
            return f"DeepSpeed ZeRO-{self.sharding[-1]}"
        return "FSDP" if self.sharding == "fsdp" else None

    def __str__(self) -> str:
        name = {"none": "one process", "ddp": "DDP", "fsdp": "FSDP"}.get(self.sharding)
        name = name or f"ZeRO-{self.sharding[-1]}"
        extra = [
            *(["optimizer offloaded"] if self.offload_optimizer else []),
            *(["weights offloaded"] if self.offload_weights else []),
            *([f"Ulysses over {self.sequence}"] if self.sequence > 1 else []),
        ]
        many = f" × {self.processes}" if self.processes > 1 else ""
        return f"{name}{many}" + (f" ({', '.join(extra)})" if extra else "")


def layout_of_config(file: Path) -> Layout:
    """The layout that an accelerate config asks for.

    Args:
        file: YAML as `accelerate launch --config_file` takes it; a DeepSpeed JSON that it names is looked for from the
            working folder, then beside it, then among the shipped ones.

    Raises:
        UserError: The file is not there or no such config, or names a DeepSpeed config that is not there.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such accelerate config; shipped ones are accelerate_configs/*.yaml")
    try:
        return _layout(file)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file} is no accelerate configuration ({first_line(error)}); take one like accelerate_configs/*.yaml"
        ) from error


def _layout(file: Path) -> Layout:
    settings = read_yaml(file.read_text(encoding="utf-8")) or {}
    kind = str(settings.get("distributed_type", "NO")).strip('"')
    processes = int(settings.get("num_processes", 1))
    for_cpu = bool(settings.get("use_cpu")) or file.stem.startswith("cpu")  # DeepSpeed's configs cannot say use_cpu
    made = Layout(processes=processes, nodes=int(settings.get("num_machines", 1)), for_cpu=for_cpu)
    parallel = settings.get("parallelism_config") or {}
    sequence = int(parallel.get("parallelism_config_sp_size", parallel.get("sp_size", 1)) or 1)
    made = replace(made, sequence=sequence)
    if kind == "DEEPSPEED":
        plugin = dict(settings.get("deepspeed_config") or {})
        given = plugin.get("deepspeed_config_file")
        if given:
            plugin = {**plugin, **_read_deepspeed(Path(given), file)}
        return _with_deepspeed(made, plugin)
    if kind == "FSDP":
        plugin = settings.get("fsdp_config") or {}
        return replace(made, sharding="fsdp", offload_weights=bool(plugin.get("fsdp_offload_params")))
    return replace(made, sharding="ddp" if processes > 1 else "none")


def _read_deepspeed(given: Path, beside: Path) -> dict[str, Any]:
    """What a DeepSpeed JSON says, by the names of accelerate's plugin."""
    places = (given, beside.parent / given, beside.parent.parent / given, beside.parent / given.name, shipped(given))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{beside}: its deepspeed_config_file {given} is not there")
    return _of_deepspeed(json.loads(found.read_text(encoding="utf-8")))


def _of_deepspeed(config: dict[str, Any]) -> dict[str, Any]:
    zero = config.get("zero_optimization") or {}
    return {
        "zero_stage": zero.get("stage", 0),
        "offload_optimizer_device": (zero.get("offload_optimizer") or {}).get("device", "none"),
        "offload_param_device": (zero.get("offload_param") or {}).get("device", "none"),
        "reduce_bucket_size": zero.get("reduce_bucket_size", BUCKET),
        "overlap_comm": zero.get("overlap_comm", False),
        "live": zero.get("stage3_max_live_parameters", LIVE),
    }


def _with_deepspeed(made: Layout, plugin: Mapping[str, Any]) -> Layout:
    stage = int(plugin.get("zero_stage", 2))
    sharding: Sharding = {1: "zero1", 2: "zero2", 3: "zero3"}.get(stage, "ddp")  # type: ignore[assignment]

    def number(key: str, otherwise: int) -> int:
        value = plugin.get(key, otherwise)
        return otherwise if isinstance(value, str) and not value.isdigit() else int(value)  # "auto"

    return replace(
        made,
        sharding=sharding,
        offload_optimizer=str(plugin.get("offload_optimizer_device", "none")).lower() not in ("none", ""),
        offload_weights=stage == 3 and str(plugin.get("offload_param_device", "none")).lower() not in ("none", ""),
        bucket=number("reduce_bucket_size", BUCKET),
        overlap=plugin.get("overlap_comm") is True,
        live=number("live", LIVE),
    )


def is_on(key: str, env: Mapping[str, str]) -> bool:
    """Whether accelerate's launcher set this switch."""
    return env.get(key, "").lower() in ("1", "true", "yes")


def layout_here() -> Layout:
    """The layout of this very process, as accelerate's launcher left it in the environment."""
    env = os.environ

    processes = int(env.get("WORLD_SIZE", "1"))
    nodes = max(1, processes // max(1, int(env.get("LOCAL_WORLD_SIZE", str(processes)))))
    made = Layout(
        processes, nodes, "ddp" if processes > 1 else "none", sequence=int(env.get("PARALLELISM_CONFIG_SP_SIZE", "1"))
    )
    if is_on("ACCELERATE_USE_DEEPSPEED", env):
        file = env.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        plugin: dict[str, Any] = {
            "zero_stage": env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"),
            "offload_optimizer_device": env.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none"),
            "offload_param_device": env.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none"),
        }
        if file.lower() != "none":
            plugin |= _read_deepspeed(Path(file), Path(file))
        return _with_deepspeed(made, plugin)
    if is_on("ACCELERATE_USE_FSDP", env):
        return replace(made, sharding="fsdp", offload_weights=is_on("FSDP_OFFLOAD_PARAMS", env))
    return made
