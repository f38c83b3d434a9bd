"""Machines, their chips, and what an hour costs: machines.yaml, the user's own file, and this machine itself."""

import difflib
import os
import platform
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from shridhar_ft.config import read_yaml
from shridhar_ft.cores import cores
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.plan.free_memory import free_bytes
from shridhar_ft.runfolder import read_json

FILE = Path(__file__).with_name("machines.yaml")
CPUINFO = Path("/proc/cpuinfo")
HERE = "here"
Kind = Literal["cuda", "mps", "cpu"]
HALF_AT = 512  # hidden size at which a GPU's matrix products reach half of what wide ones reach


@dataclass(frozen=True)
class Rates:
    """How fast one device is in a training step."""

    matmul: dict[str, dict[int, float]]
    """Type (fp32, bf16) → width → operations a second; between widths it is interpolated."""
    attention: dict[str, dict[int, float]]
    """Type → tokens of a document → operations a second of attention, forward and backward; between them as above."""
    memory: dict[int, float]
    """Bytes of a tensor, and of larger ones up to the next → bytes a second that elementwise work on it moves; the
    last where it is calibrated: of tensors that stay."""
    layer: float
    """Seconds that one pass over one layer takes however little it computes."""
    link: float
    """Bytes a second from one device to another."""
    measured: bool = False
    """Whether this machine was calibrated; else they are peaks times stated efficiencies."""

    def matmul_at(self, dtype: str, width: int) -> float:
        """Operations a second of matrix products of this width."""
        return _between(self.matmul[dtype], width)

    def attention_at(self, dtype: str, document: float) -> float:
        """Operations a second of attention in a document of so many tokens: blocks on the diagonal are half wasted."""
        return _between(self.attention[dtype], document)

    def memory_at(self, tensor: float) -> float:
        """Bytes a second of elementwise work on tensors of so many bytes.

        No straight line lies between two sizes: from the one on that an allocator takes afresh from the system, it is
        the page faults that cost.
        """
        sizes = sorted(self.memory)
        return self.memory[max([size for size in sizes if size <= tensor], default=sizes[0])]


def _between(rates: dict[int, float], at: float) -> float:
    """The rate at a size: on the straight line between the two that are known, else that of the nearest."""
    points = sorted(rates.items())
    if at <= points[0][0]:
        return points[0][1]
    for (low, slow), (high, fast) in pairwise(points):
        if at <= high:
            return slow + (fast - slow) * (at - low) / (high - low)
    return points[-1][1]


@dataclass(frozen=True)
class Machine:
    """One machine: its devices, its rates, its price."""

    name: str
    kind: Kind
    chip: str
    devices: int
    memory: int
    """Bytes of one device; on a CPU those of the machine."""
    host: int
    """Bytes of the host."""
    disk: int | None
    """Bytes of its own disk; None: as much as is asked for."""
    rates: Rates
    usd_per_hour: float | None
    spot: float | None
    egress_usd_per_gb: float
    priced: date | None
    source: str
    free: int | None = None
    """This machine: bytes that are free now."""
    cloud: str | None = None
    """Where it is rented: lambda, aws, gcp; None where nothing here knows how."""
    instance: str | None = None
    """Its type there."""
    sky: str | None = None
    """Its chip's name in SkyPilot's catalogs."""

    @property
    def limit(self) -> int:
        """Bytes of one device that may come to be filled, before the share that is left free."""
        return self.memory if self.free is None else self.free

    def in_bf16(self, precision: str) -> bool:
        """Whether `precision` means bf16 here: auto takes what is faster."""
        if precision != "auto":
            return precision == "bf16"
        if self.kind == "mps":  # taken only where the recipe says so
            return False
        fastest = {dtype: max(widths.values()) for dtype, widths in self.rates.matmul.items()}
        return fastest.get("bf16", 0) > 1.2 * fastest["fp32"]


def user_file() -> Path:
    """The user's own machines."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "shridhar_ft" / "machines.yaml"


def calibration_file() -> Path:
    """What `plan --calibrate` measured on this machine."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "shridhar_ft" / f"machine-{platform.node() or 'local'}.json"


@cache
def machines() -> dict[str, Machine]:
    """All machines by name, the user's own before those that ship.

    Raises:
        UserError: The user's file is no such YAML; says which key of which machine.
    """
    shipped, own = _read(FILE), _read(user_file()) if user_file().is_file() else {"chips": {}, "machines": {}}
    chips = shipped["chips"] | own["chips"]
    found = {}
    for file, listed in ((FILE, shipped["machines"]), (user_file(), own["machines"])):
        for name, given in listed.items():
            try:
                found[name] = _machine(name, given, chips)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{file}: machines.{name}: {error} is missing or wrong; see {FILE.name}") from error
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        held = read_yaml(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML ({getattr(error, 'problem', error)}); mend it") from error
    sections = {key: (held.get(key) or {}) if isinstance(held, dict) else None for key in ("chips", "machines")}
    for key, section in sections.items():
        if not isinstance(section, dict):
            raise UserError(f"{file}: {key} is no mapping of names; write it as in {FILE.name}")
    return sections


def _machine(name: str, given: dict[str, Any], chips: dict[str, Any]) -> Machine:
    chip = chips[given["chip"]]
    devices, memory, host = int(given["devices"]), float(chip["memory_gib"]), float(given["host_gib"])
    if min(devices, memory, host) <= 0:
        raise ValueError("one of devices, memory_gib, host_gib is not above zero, which")
    return Machine(
        name=name,
        kind=chip["kind"],
        chip=given["chip"],
        devices=devices,
        memory=int(memory * 2**30),
        host=int(host * 2**30),
        disk=int(given["disk_gb"] * 1e9) if given.get("disk_gb") else None,
        rates=_rates(chip),
        usd_per_hour=_price(given.get("usd_per_hour")),
        spot=_price(given.get("spot")),
        egress_usd_per_gb=float(given.get("egress_usd_per_gb") or 0),
        priced=given.get("priced"),
        source=str(given.get("source", "your own file")),
        cloud=given.get("cloud"),
        instance=given.get("instance"),
        sky=chip.get("sky"),
    )


def _price(given: Any) -> float | None:  # noqa: ANN401 - any YAML
    """US dollars an hour, as the file has it."""
    return None if given is None else float(given)


def _rates(chip: dict[str, Any]) -> Rates:
    """Peaks times efficiencies; a GPU's matrix products lose by narrow models."""
    share = chip["efficiency"]

    def peak(dtype: str, what: str) -> float:
        stated = share[what]
        return float(chip[dtype] * 1e12 * (stated[dtype] if isinstance(stated, dict) else stated))

    widths = (128, 256, 512, 1024, 2048, 4096, 8192)
    lost = HALF_AT if chip["kind"] != "cpu" else 0
    return Rates(
        matmul={
            dtype: {width: peak(dtype, "matmul") * width / (width + lost) for width in widths}
            for dtype in ("fp32", "bf16")
        },
        attention={dtype: {1: peak(dtype, "attention")} for dtype in ("fp32", "bf16")},
        memory={1: chip["gb_per_s"] * 1e9 * share["memory"]},
        layer=3e-4,
        link=chip["link_gb_per_s"] * 1e9,
    )


def machine(name: str) -> Machine:
    """A machine by name; `here` is this one.

    Raises:
        UserError: There is none of that name.
    """
    if name == HERE:
        return this_machine()
    known = machines()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, HERE], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join([HERE, *known])}"
        raise UserError(f"machine '{name}': there is none of that name ({hint}); add it to {user_file()}")
    return known[name]


def this_machine() -> Machine:
    """This machine: as calibrated, else with the rates of two cores of its kind by its own cores, and its own memory.

    Its GPUs are known by `plan --calibrate` only: without torch there is no asking.
    """
    memory = psutil.virtual_memory().total
    count = cores()
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    two_cores = "cpu-2-cores-bf16" if _multiplies_bf16() else "cpu-2-cores"
    near = machines()["macbook-m4-max" if apple else two_cores]
    scale = max(1.0, count / 2) if near.kind == "cpu" else 1.0
    guessed = Rates(
        matmul={d: {w: rate * scale for w, rate in widths.items()} for d, widths in near.rates.matmul.items()},
        attention={d: {n: rate * scale for n, rate in sizes.items()} for d, sizes in near.rates.attention.items()},
        memory=near.rates.memory,
        layer=near.rates.layer,
        link=near.rates.link,
    )
    here = replace(
        near,
        name=HERE,
        memory=memory,
        host=memory,
        free=free_bytes(),
        rates=guessed,
        source=f"this machine, rates guessed from {near.name} by its {count} cores: run plan --calibrate",
    )
    if not calibration_file().is_file():
        return here
    try:
        held = read_json(calibration_file())
        if not isinstance(held["rates"]["memory"], dict):
            return replace(here, source=f"{here.source} again: it was calibrated by an earlier version")
        if held["kind"] == "cpu" and held.get("cores", count) != count:
            return replace(here, source=f"{here.source} again: it was calibrated on {held['cores']} cores")
        return replace(
            here,
            kind=held["kind"],
            chip=held["chip"],
            devices=held["devices"],
            memory=held["memory"],
            free=free_bytes() if held["kind"] != "cuda" else None,
            rates=_stored(held["rates"]),
            source=f"this machine, calibrated {held['at']}",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{calibration_file()} is damaged ({type(error).__name__}: {first_line(error)}); remove it, or measure "
            "anew: shridhar-ft plan --calibrate"
        ) from error


def _multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16, by what Linux says of it; emulation takes a thousand times as long."""
    try:
        said = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return False
    flags = next((line for line in said.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _stored(held: dict[str, Any]) -> Rates:
    """Rates as a JSON file holds them, whose keys are text."""

    def numbered(rates: dict[str, float]) -> dict[int, float]:
        if not rates:
            raise ValueError("a table of rates is empty")
        return {int(size): rate for size, rate in rates.items()}

    by_type = {
        what: {dtype: numbered(rates) for dtype, rates in held[what].items()} for what in ("matmul", "attention")
    }
    return Rates(**{**held, **by_type, "memory": numbered(held["memory"]), "measured": True})
