"""How processes share a training: what a launch configuration starts, and what it cannot be combined with, and why.

Engine.of_file      read from accelerate's YAML, before anything is started (`run`, `doctor`)
Engine.of_process   read from what accelerate's launcher put into the environment
trouble, refusals   what is wrong with it, and what of a recipe it cannot do: a sentence each
"""

import os
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import psutil
import yaml

from shridhar_ft.config import Recipe
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout, is_on, layout_here, layout_of_config
from shridhar_ft.plan.models import config_of
from shridhar_ft.shipped import shipped

PROCESSES = "SHRIDHAR_FT_PROCESSES"  # how many processes `shridhar-ft run` asked accelerate for
# When the launcher is told to stop, or one process has left, torch kills those that are still there after 30 seconds,
# in a step of 108K tokens or in a save.
PATIENCE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
FLASH = ("flash_attention_2", "flash_attention_3")


@dataclass(frozen=True)
class Engine:
    """What starts the processes of a training, and how they share weights and windows."""

    layout: Layout
    """Processes, what is sharded among them, who shares a window."""
    launcher: str = "NO"
    """accelerate's distributed_type."""
    cpu: bool = False
    """Whether it is meant for the CPU alone."""
    context: int = 1
    """Processes that share one window by context parallelism."""
    attention: str = "sdpa"
    """transformers' name of the attention that Ulysses calls."""
    gpus: bool = False
    """Whether its file is one for GPUs."""
    split_as_read: bool = False
    """Whether ZeRO-3 splits weights as they are read (zero3_init_flag)."""

    @classmethod
    def of_file(cls, path: Path) -> "Engine":
        """What an accelerate configuration starts.

        Raises:
            UserError: It is no such file, or names a DeepSpeed file that is not there.
        """
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            launcher = str(settings.get("distributed_type", "NO"))
            layout = layout_of_config(path)
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"launch.config: {path} is no accelerate configuration ({type(error).__name__})") from error
        shared = settings.get("parallelism_config") or {}
        given = {key.removeprefix("parallelism_config_"): value for key, value in shared.items()}
        return cls(
            layout,
            launcher,
            bool(settings.get("use_cpu")),
            int(given.get("cp_size") or 1),
            str(given.get("sp_attn_implementation") or "sdpa"),
            settings.get("use_cpu") is False or (layout.processes > 1 and not settings.get("use_cpu")),
            is_true((settings.get("deepspeed_config") or {}).get("zero3_init_flag")),
        )

    @classmethod
    def of_process(cls) -> "Engine":
        """What started this process, as accelerate's launcher says it in the environment."""
        layout, said = layout_here(), os.environ
        names = {"none": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}
        shared = said if is_on("ACCELERATE_USE_PARALLELISM_CONFIG", said) else {}
        return cls(
            layout,
            "DEEPSPEED" if is_on("ACCELERATE_USE_DEEPSPEED", said) else names[layout.sharding],
            is_on("ACCELERATE_USE_CPU", said),
            int(shared.get("PARALLELISM_CONFIG_CP_SIZE", "1")),
            shared.get("PARALLELISM_CONFIG_SP_ATTN_IMPLEMENTATION", "sdpa"),
            not is_on("ACCELERATE_USE_CPU", said) and _launched_for_gpus(),
            is_on("ACCELERATE_DEEPSPEED_ZERO3_INIT", said),
        )

    @property
    def deepspeed(self) -> bool:
        return self.launcher == "DEEPSPEED"

    @property
    def processes(self) -> int:
        """Over all machines."""
        return self.layout.processes

    @property
    def sequence(self) -> int:
        """Processes that share one window (Ulysses sequence parallelism)."""
        return self.layout.sequence

    @property
    def readers(self) -> int:
        """Processes, or groups of them, that read different windows in one forward pass."""
        return max(1, self.processes // (self.sequence * self.context))

    def shared_length(self, window: int) -> int | None:
        """Tokens of every row where processes share one: the window, filled up to a multiple of them; else None."""
        return None if self.sequence == 1 else window + -window % self.sequence

    # ------------------------------------------------------------------------------------------- refusals

    def trouble(self, device: str | None = None) -> str | None:
        """What is wrong with it whatever the recipe, a sentence; None where it does what it says.

        Args:
            device: Type of the device that it will run on, where that is known.
        """
        if self.launcher == "MULTI_CPU" and self.processes > 1:
            return (
                "distributed_type MULTI_CPU silently starts one process; take MULTI_GPU with use_cpu: true, as "
                "accelerate_configs/cpu_ddp.yaml does"
            )
        if self.launcher == "FSDP" and (self.cpu or device == "cpu"):
            return "FSDP on a CPU silently becomes DDP; take accelerate_configs/cpu_zero3.yaml or cpu_ddp.yaml"
        if self.gpus and self.processes == 1 and device == "cpu":
            return (
                "it is for a GPU (use_cpu: false), and there is none here: it would train on the CPU without a word; "
                "take accelerate_configs/cpu.yaml, or auto"
            )
        if self.gpus and self.processes > 1 and device in ("cpu", "mps"):
            return (
                f"it starts {self.processes} processes, each on a GPU, and there is none here; take one of "
                "accelerate_configs/cpu*.yaml"
            )
        if self.context > 1:
            return (
                "context parallelism drops the boundaries of documents, and every window here is packed: documents "
                "would read one another; take sequence parallelism (accelerate_configs/ulysses.yaml)"
            )
        if self.sequence > 1 and (not self.deepspeed or self.processes % self.sequence):
            return f"Ulysses needs DeepSpeed and a multiple of its {self.sequence} processes"
        return None

    def refusals(self, recipe: Recipe) -> list[str]:
        """What of a recipe it cannot do, a sentence each with the mend."""
        said = []
        for index, stage in enumerate(recipe.stages):
            if self.layout.shards_name and stage.carry.optimizer:
                said.append(
                    f"stages.{index}.carry.optimizer: a sharded optimizer ({self.layout.shards_name}) cannot be "
                    "carried over; take it away"
                )
            if self.sequence > 1 and stage.pose:
                said.append(
                    f"stages.{index}.pose: Ulysses knows documents by positions that begin again, and those of pose "
                    "jump inside one; take pose away, or another launch.config"
                )
        if self.sequence > 1 and recipe.model.attention not in ("auto", "flash"):
            said.append(
                f"model.attention: {recipe.model.attention} is an attention of our own, and accelerate's Ulysses takes "
                "flash_attention_2, flash_attention_3 and transformers' sdpa only; set it to auto"
            )
        if self.sequence > 1 and self.attention not in FLASH and recipe.sft:
            said.append(f"sft: {PACKED_ULYSSES}")
        if self.sequence > 1 and (heads := self._undivided_heads(recipe)):
            said.append(heads)
        for where, method in _methods(recipe):
            if method == "qlora" and self.layout.sharding == "fsdp":
                said.append(
                    f"{where}: FSDP shards weights of one float type, and quantised ones are bytes beside floats: it "
                    "fails, or leaves them whole on every card; take accelerate_configs/zero2.yaml or ddp.yaml, or lora"
                )
            if method == "qlora" and self.layout.sharding == "zero3" and self.split_as_read:
                said.append(
                    f"{where}: with zero3_init_flag ZeRO-3 splits weights as they are read, and quantised ones are "
                    "known to break there (DeepSpeed issues 3719, 5049); set it to false, or take "
                    "accelerate_configs/zero2.yaml"
                )
        return list(dict.fromkeys(said))

    def notes(self, recipe: Recipe, device: str) -> list[str]:
        """What is doubtful under it, a sentence each.

        Args:
            recipe: The recipe.
            device: Type of the device that it runs on.
        """
        doubtful = device != "cpu" and self.layout.sharding == "zero3"
        return [
            f"{where}: QLoRA under ZeRO-3 gave the losses of one process on two CPU processes; it was not tried on "
            "GPUs, where others met failures (DeepSpeed issues 3719, 5049); accelerate_configs/zero2.yaml is safe"
            for where, method in _methods(recipe)
            if doubtful and method == "qlora"
        ]

    def _undivided_heads(self, recipe: Recipe) -> str | None:
        """Why the model's heads cannot be shared out, a sentence; None where they can, or its config does not say.

        The rule is that of DeepSpeed's UlyssesSPAttentionHF.
        """
        try:
            config = config_of(recipe.model).config
        except UserError:  # told where the base is loaded
            return None
        heads = config.get("num_attention_heads")
        shared = config.get("num_key_value_heads") or heads
        if not isinstance(heads, int) or not isinstance(shared, int):
            return None

        def divides(among: int) -> bool:
            return heads % among == 0 and (shared % among == 0 or among % shared == 0)

        if divides(self.sequence):
            return None
        most = max(number for number in range(1, self.sequence) if divides(number) and self.processes % number == 0)
        mend = f"set parallelism_config_sp_size to {most} in its file" if most > 1 else "take another launch.config"
        return (
            f"launch.config: Ulysses shares attention heads out among {self.sequence} processes, and the model's "
            f"{heads} ({shared} of keys and values) do not divide so; {mend}"
        )

    def check(self, recipe: Recipe, device: str | None = None) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: The first trouble or refusal.
        """
        if trouble := self.trouble(device):
            raise UserError(f"launch.config: {trouble}")
        for refusal in self.refusals(recipe):
            raise UserError(refusal)

    def check_packed(self, packed: bool, part: str) -> None:
        """Refuse windows of several documents where Ulysses would let them read one another.

        Raises:
            UserError: It would.
        """
        if packed and self.sequence > 1 and self.attention not in FLASH:
            raise UserError(f"{part}: {PACKED_ULYSSES}")


PACKED_ULYSSES = (
    "several documents share a window, and Ulysses with sdpa drops the mask that keeps them apart (the isolation "
    "probe shows it); use flash_attention_2 on GPUs (accelerate_configs/ulysses.yaml), or another launch.config"
)


def _methods(recipe: Recipe) -> list[tuple[str, str]]:
    """Key and value of every `method` of a recipe that trains something."""
    return [
        *([("train.method", str(recipe.train.method))] if recipe.stages else []),
        *([("sft.method", str(recipe.sft.method))] if recipe.sft else []),
    ]


def is_true(value: object) -> bool:
    """Whether a switch of an accelerate configuration is on; YAML has it as a word or as text."""
    return str(value).lower() in ("1", "true", "yes")


# --------------------------------------------------------------------------------------- processes of a launch


def check_processes(found: int) -> None:
    """Refuse to train alone where several processes were asked for: some accelerate settings silently start one.

    Raises:
        UserError: Another number of processes came up than was asked for.
    """
    asked = asked_processes()
    if asked != found:
        raise UserError(
            f"launch.config asks for {asked} processes and {found} came up; on a CPU use distributed_type MULTI_GPU "
            "with use_cpu: true, as accelerate_configs/cpu_ddp.yaml does"
        )


def impatient_launcher() -> str | None:
    """What to say where this process was started beside others by a launcher that nobody told to wait for a save."""
    name, seconds = next(iter(PATIENCE.items()))
    if name in os.environ or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return None
    return (
        f"the launcher kills processes that are still saving 30 seconds after a SIGTERM to it; set {name}={seconds} in "
        "its environment, or use shridhar-ft run, which does"
    )


def asked_processes() -> int:
    """How many processes this one's launcher was asked for: by `run`, by torchrun, or in accelerate's configuration."""
    if said := os.environ.get(PROCESSES) or os.environ.get("WORLD_SIZE"):
        return int(said)
    # accelerate's launcher of a single process says nothing, even where its configuration asks for several.
    return launched_processes(_launchers_command())


def launched_processes(command: list[str]) -> int:
    """The processes that a command line of `accelerate launch` asks for."""
    given = _launch_options(command)
    if "num_processes" in given:
        return int(given["num_processes"])
    return Engine.of_file(Path(given["config_file"])).processes if "config_file" in given else 1


def _launched_for_gpus() -> bool:
    """Whether accelerate's launcher of this process was given a configuration for GPUs."""
    given = _launch_options(_launchers_command())
    return "config_file" in given and Engine.of_file(Path(given["config_file"])).gpus


def _launchers_command() -> list[str]:
    """The command line of accelerate's launcher, where it started this process; else []."""
    try:
        launcher = psutil.Process().parent()
        command = launcher.cmdline() if launcher else []
    except psutil.Error:
        return []
    return command if any("accelerate" in word for word in command[:3]) else []


def _launch_options(command: list[str]) -> dict[str, str]:
    """Those of `accelerate launch` that are read here."""
    given: dict[str, str] = {}
    for word, following in zip_longest(command, command[1:], fillvalue=""):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--config_file", "--num-processes", "--config-file"):
            given[name.strip("-").replace("-", "_")] = value or following
    return given


def found_deepspeed_file(named: str) -> Path:
    """DeepSpeed's settings that an accelerate configuration names: a file of the user's, or the shipped one.

    Raises:
        UserError: It is in neither place.
    """
    found = next((place.resolve() for place in (Path(named), shipped(named)) if place.is_file()), None)
    if found is None:
        raise UserError(
            f"launch.config: its deepspeed_config_file {named} does not exist; shipped ones are in "
            "accelerate_configs/deepspeed/"
        )
    return found
