"""What the real run would stumble over on its machine, a sentence each: files, data, launch, packages, plan, room.

Nothing is loaded for it: files' sizes, the plan's formulas, and what is installed here tell.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe
from shridhar_ft.engines import FLASH, Engine
from shridhar_ft.errors import UserError
from shridhar_ft.plan.machines import HERE, Machine
from shridhar_ft.plan.plan import Plan
from shridhar_ft.plan.steps import WORTH_REPEATING
from shridhar_ft.plan.tokens import characters_per_token
from shridhar_ft.plan.verdicts import Again, verdicts
from shridhar_ft.runfolder import RUNS, Run

SUFFICES = 0.5  # of the context: a shorter document shows no long range
BOOKS = {".fb2": "lxml", ".zip": "lxml", ".epub": "lxml", ".docx": "docx", ".pdf": "pypdf", ".md": "markdown_it"}
"""Modules that read books of other formats than plain text."""


@dataclass(frozen=True)
class Block:
    """One thing to mend or to know before money is spent."""

    about: str
    """files, data, launch, packages, plan, room, base, untried."""
    what: str
    """A sentence."""
    stops: bool = False
    """Whether the real run would end there."""


def blocks(recipe: Recipe, run: Run, machine: Machine, plan: Plan | str, made: dict[str, Any]) -> list[Block]:
    """Everything that is found, the gravest first.

    Args:
        recipe: The real recipe.
        run: Its run.
        machine: Where it is meant to train.
        plan: Its plan there, or why there is none.
        made: What sampling found (sampling.py).
    """
    found = [
        *_files(made),
        *_base(recipe),
        *_data(recipe, made),
        *_launch(recipe, machine),
        *_packages(recipe, machine, made),
        *_plan(plan, run, bool(made["missing"])),
        *_room(plan, machine),
    ]
    return sorted(found, key=lambda block: not block.stops)


# ------------------------------------------------------------------------------------------------ files, base


def _files(made: dict[str, Any]) -> Iterator[Block]:
    for sentence in (*made["missing"], *made["unreadable"]):
        yield Block("files", _ended(sentence), stops=True)
    for key in made["hub"]:
        yield Block("files", f"{key}: it lies on the Hub, and a rehearsal downloads nothing; it was not read.")
    if made["replaced"]:
        yield Block("files", f"the bundled sample stood in for {', '.join(made['replaced'])}.")


def _base(recipe: Recipe) -> Iterator[Block]:
    base = recipe.model.base
    if base is None or Path(base).is_dir():
        return
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(base, "config.json", revision=recipe.model.revision), str):
        yield Block("base", f"model.base: {base} is not on this disk; the run downloads it, or fails without the Hub.")
    if recipe.model.revision is None:
        yield Block("base", f"model.revision: none is given, so {base} is what the Hub has that day; name a commit.")


# -------------------------------------------------------------------------------------------------------- data


def _data(recipe: Recipe, made: dict[str, Any]) -> Iterator[Block]:
    """Tokens of the real text against what the stages ask for, and documents against their contexts."""
    each = characters_per_token(recipe)
    works = {name: int(characters / each) for name, characters in made["works"]}
    total = int(sum(works.values()) * recipe.data.split.train)
    longest = max(works.values(), default=0)
    if recipe.stages and not works:
        yield Block("data", "the books were not read, so nobody can tell whether they suffice for the stages.")
    for index, stage in enumerate(recipe.stages if works else ()):
        key = f"stages.{index}.context"
        if total < stage.context:
            yield Block(
                "data",
                f"{key}: one window is {stage.context:,} tokens and the books' train split has about {total:,}; add "
                "books, or shorten it.",
                stops=True,
            )
        if longest < stage.context * SUFFICES:
            yield Block(
                "data",
                f"{key}: the longest of {len(works)} works has about {longest:,} tokens, {longest / stage.context:.0%} "
                f"of {stage.context:,}: no window shows a document of that length.",
            )
    held = int(sum(works.values()) * recipe.data.split.test)
    last = recipe.last_context or 0
    if works and not recipe.eval.long_text and held < last:
        yield Block(
            "data",
            f"eval.long_text: none is given, and the test split of about {held:,} tokens fills no window of {last:,}: "
            "the long context would not be measured.",
        )
    if made["long"] is not None:
        tokens, needed = int(made["long"] / each), recipe.eval.context or last
        if tokens < needed:
            yield Block(
                "data",
                f"eval.long_text: about {tokens:,} tokens, less than one window of {needed:,}; name a longer text, or "
                f"set eval.context to {tokens} or less.",
                stops=True,
            )


# -------------------------------------------------------------------------------------------- launch, packages


def _launch(recipe: Recipe, machine: Machine) -> Iterator[Block]:
    if recipe.launch.config == "auto":
        return
    try:
        engine = Engine.of_file(Path(recipe.launch.config))
    except UserError as error:
        yield Block("launch", _ended(str(error)), stops=True)
        return
    if trouble := engine.trouble(machine.kind):
        yield Block("launch", f"launch.config: {trouble}.", stops=True)
    for refusal in engine.refusals(recipe):
        yield Block("launch", f"{refusal}.", stops=True)
    there = machine.devices * engine.layout.nodes
    if machine.kind == "cuda" and engine.processes != there:
        end = "the processes cannot start" if engine.processes > there else "devices are paid for and idle"
        yield Block(
            "launch",
            f"launch.config: it starts {engine.processes} processes and {machine.name} has {there} devices: {end}.",
            stops=engine.processes > there,
        )


def _packages(recipe: Recipe, machine: Machine, made: dict[str, Any]) -> Iterator[Block]:
    """What the run needs there and is not installed here, so that nothing here has tried it."""
    wanted: list[tuple[str, str, str, bool]] = []  # module, how to install it, what for, whether it stops without it
    cuda = machine.kind == "cuda"
    ways = [recipe.train, *([recipe.sft] if recipe.sft else [])]
    named = [*(way.memory for way in ways), *(stage.memory for stage in recipe.stages)]
    levers = {lever for levers in named if isinstance(levers, list) for lever in levers}
    if cuda and recipe.model.attention in ("auto", "flash"):
        stops = recipe.model.attention == "flash"
        wanted.append(("flash_attn", "shridhar_ft[flash]", "packed windows at full speed (FlashAttention)", stops))
    if any(tuning.method == "qlora" for tuning in ways) or levers & {"adamw_8bit", "paged_adamw_8bit"}:
        wanted.append(("bitsandbytes", "bitsandbytes", "qlora and 8-bit moments", True))
    config = Path(recipe.launch.config)
    if recipe.launch.config != "auto" and config.is_file():
        engine = Engine.of_file(config)
        if engine.deepspeed:
            wanted.append(("deepspeed", "shridhar_ft[deepspeed]", f"launch.config {config.name}", True))
        if engine.sequence > 1 and engine.attention in FLASH:
            wanted.append(("flash_attn", "shridhar_ft[flash]", "Ulysses on packed windows", True))
    if recipe.export.gguf_kinds:
        wanted.append(("gguf", "shridhar_ft[gguf]", "export.gguf", True))
        wanted.append(("llama_cpp", "shridhar_ft[llama-cpp]", "certifying a GGUF by llama.cpp", False))
    suffixes = {Path(name).suffix.lower() for name, _ in made["works"]}
    wanted += [
        (module, "shridhar_ft[books]", f"{suffix} books", True)
        for suffix, module in BOOKS.items()
        if suffix in suffixes
    ]
    for module, install, what_for, stops in dict.fromkeys(wanted):
        if find_spec(module) is None:
            name = module.replace("_", "-")
            end = "the run ends without it" if stops else "without it the run is slower, or less is proved"
            yield Block(
                "packages",
                f"{name} is not installed here, so it was not tried ({what_for}); on {machine.name} "
                f"`pip install '{install}'`: {end}.",
                stops and machine.name == HERE,
            )


# -------------------------------------------------------------------------------------------------- plan, room


def _plan(plan: Plan | str, run: Run, missing: bool) -> Iterator[Block]:
    """The plan's verdicts; of data that are missing, and named above, it cannot tell anything."""
    if isinstance(plan, str):
        yield Block("plan", _ended(plan))
        return
    for note in plan.notes:
        yield Block("plan", note)
    for sentence in verdicts(Again(plan, run)):
        if missing and "nobody can tell" in sentence:
            continue
        stops = "does not fit" in sentence or sentence.startswith("budget:")
        many = f"beyond about {WORTH_REPEATING}" in sentence
        yield Block("plan" if not many else "data", sentence, stops)


def _room(plan: Plan | str, machine: Machine) -> Iterator[Block]:
    if isinstance(plan, str):
        return
    free = machine.disk
    if machine.name == HERE:
        free = shutil.disk_usage(RUNS if RUNS.is_dir() else Path()).free
    if free is not None and plan.disk > free:
        yield Block(
            "room", f"disk: the run writes {plan.disk / 1e9:,.1f} GB and there are {free / 1e9:,.1f}; make room.", True
        )
    elif free is not None and plan.disk > free / 2:
        yield Block("room", f"disk: the run writes {plan.disk / 1e9:,.1f} GB of {free / 1e9:,.1f} that there are.")
    elif free is None:
        yield Block("room", f"disk: ask for {plan.disk / 1e9:,.1f} GB and what the sources take.")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "…")) else f"{sentence}."
