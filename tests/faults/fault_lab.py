"""Where faults are tried: a tiny run prepared once, copies of it, and processes that train in them."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fault_child

from shridhar_ft.model.build import safetensors_hash
from shridhar_ft.shipped import shipped

RECIPE = """
name: tiny
data:
  books: {{paths: "{data}/books"}}
  dialogues: [{{paths: "{data}/dialogues/besedy.jsonl"}}]
tokenizer: {{train: {{vocab_size: 600}}}}
model:
  from_config:
    {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,
     num_key_value_heads: 2, tie_word_embeddings: true, attention_dropout: 0.1}}
train: {{learning_rate: 1e-2, batch_size: 4, max_steps: 6, save_every: 2, evaluate_every: 6, log_every: 1, memory: [],
        precision: fp32, keep_checkpoints: 3}}
stages:
  - {{name: short, context: 64}}
  - {{name: middle, context: 128, rope: {{type: yarn}}}}
  - {{name: long, context: 256, rope: {{type: yarn}}}}
sft: {{method: lora, rank: 2, dropout: 0.1, batch_size: 2, max_steps: 6, save_every: 2, evaluate_every: 3,
      learning_rate: 1e-2, context: 128, memory: [], precision: fp32}}
eval: {{max_windows: 1}}
"""
ONE = ("stages=[{name: short, context: 64, gate: tell}]", "sft=null")
BOUND = 600  # seconds after which what still runs counts as hung; far above what a loaded machine needs


@dataclass
class Done:
    """How the processes of a training ended."""

    statuses: list[int | None]
    """Exit statuses by rank; negative for a signal, None for a process that hung and was killed."""
    text: str
    """What they said."""
    seconds: float

    @property
    def status(self) -> int | None:
        return self.statuses[0]

    def together(self, status: int) -> bool:
        """Whether all ranks left by themselves: the first with this status, the others too, or ended by the launcher.

        Like torchrun, `_wait` ends the others as soon as one has left.
        """
        return self.status == status and all(left in (status, -signal.SIGTERM) for left in self.statuses[1:])


@dataclass
class Lab:
    """A folder for trials."""

    root: Path
    number: int = 0
    kept: dict[str, Path] = field(default_factory=dict)
    server: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    def __post_init__(self) -> None:
        # The fork server does not take over sys.path (Python 3.11), and would import nothing, without a word.
        here = str(Path(__file__).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        self.server.set_forkserver_preload(["fault_child"])
        self.environment = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "ACCELERATE_USE_CPU": "true",
        }

    @cached_property
    def prepared(self) -> Path:
        """A folder with the recipe and a run whose data and tokenizer are made."""
        folder = self.root / "prepared"
        folder.mkdir(parents=True)
        (folder / "r.yaml").write_text(RECIPE.format(data=shipped("recipes/demo/data")))
        done = self.train(folder, "train.max_steps=1", *ONE)
        assert done.status == 0, done.text
        shutil.rmtree(folder / "runs/tiny/stages")
        return folder

    @cached_property
    def uninterrupted(self) -> Path:
        """The first stage, trained without a fault."""
        folder = self.fresh()
        done = self.train(folder, *ONE)
        assert done.status == 0, done.text
        return folder

    def fresh(self) -> Path:
        """A copy of `prepared`."""
        return self.copy(self.prepared)

    def copy(self, folder: Path) -> Path:
        """A copy of a folder, for one trial."""
        self.number += 1
        return Path(shutil.copytree(folder, self.root / f"trial{self.number}"))

    def once(self, name: str, make: Callable[[], Path]) -> Path:
        """A copy of a folder that several trials begin with, and that is made once."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.copy(self.kept[name])

    def train(
        self,
        folder: Path,
        *arguments: str,
        module: str = "pretrain",
        faults: list[dict[str, Any]] | None = None,
        without: tuple[str, ...] = (),
        ranks: int = 1,
        bound: float = BOUND,
        engine: str | None = None,
    ) -> Done:
        """Train in a folder, in processes of their own.

        Args:
            folder: With r.yaml.
            *arguments: Overrides and options.
            module: `pretrain` or `sft`.
            faults: See fault_child.inject.
            without: Guards that are taken out.
            ranks: Processes.
            bound: Seconds after which what still runs is killed.
            engine: A configuration of DeepSpeed's in accelerate_configs/deepspeed, as the launcher would pass it on.
        """
        began = time.monotonic()
        log = self.root / "log.txt"
        log.unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = []
        for rank in range(ranks):
            together = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            spec = {
                "folder": str(folder),
                "module": module,
                "arguments": ["r.yaml", *arguments],
                "environment": self.environment
                | (together if ranks > 1 else {})
                | (deepspeed(engine) if engine else {}),
                "faults": faults or [],
                "without": without,
                "log": str(log),
            }
            process = self.server.Process(target=fault_child.run, args=(spec,))
            process.start()
            processes.append(process)
        statuses = _wait(processes, began + bound)
        return Done(statuses, log.read_text(errors="replace") if log.is_file() else "", time.monotonic() - began)


def deepspeed(name: str) -> dict[str, str]:
    """What accelerate's launcher puts into the environment for such a configuration."""
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(shipped(f"accelerate_configs/deepspeed/{name}.json")),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _wait(processes: list[Any], until: float) -> list[int | None]:
    """Statuses; when one rank fails, the others get a signal, as torchrun sends it, and at last are killed."""
    told = False
    while any(process.is_alive() for process in processes) and time.monotonic() < until:
        if not told and any(process.exitcode not in (None, 0) for process in processes):
            told, until = True, min(until, time.monotonic() + 20)
            for process in processes:
                if process.is_alive():
                    with suppress(ProcessLookupError):  # it left in between
                        os.kill(process.pid, signal.SIGTERM)
        processes[0].join(0.05)
        time.sleep(0.02)
    hung = [process.is_alive() for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return [None if stuck else process.exitcode for stuck, process in zip(hung, processes, strict=True)]


# ------------------------------------------------------------------------------------------------ what was left


def checkpoints(folder: Path, part: str = "stages/short") -> list[str]:
    """Names in a part's checkpoints folder, in order."""
    return sorted(path.name for path in (folder / "runs/tiny" / part / "checkpoints").glob("*"))


def checkpoint(folder: Path, step: int, part: str = "stages/short") -> Path:
    return folder / "runs/tiny" / part / "checkpoints" / f"checkpoint-{step}"


def weights(folder: Path, part: str = "stages/short") -> str:
    """Hash of the weights that a finished part handed over."""
    return json.loads((folder / "runs/tiny" / part / "part.json").read_text())["hash"]


def written(folder: Path, part: str = "stages/short", step: int = 6) -> str:
    return safetensors_hash(checkpoint(folder, step, part))


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/tiny/status.json").read_text())


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder, to see that nothing changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def small_disk(folder: Path, spare: int) -> Iterator[None]:
    """A disk of its own over a folder, with what is in it and so many bytes to spare.

    Raises:
        PermissionError: This user cannot mount one.
    """
    held = folder.with_name(f"{folder.name}.held")
    shutil.copytree(folder, held)
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in folder.rglob("*"))
    size = f"size={pages * 4096 + spare}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise PermissionError(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(held, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(held)
