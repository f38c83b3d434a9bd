"""A recipe made small enough for a laptop: what is done stays, how much of it shrinks, and every change is listed.

    shrink(recipe, laptop, made) -> Shrunk(recipe, changes, untried)

Nothing is read or asked here: what the machine can, and where the small data lie, come as arguments.
"""

from dataclasses import dataclass, field
from typing import Any

from shridhar_ft.config import Recipe, TrainTokenizer
from shridhar_ft.config_data import Data
from shridhar_ft.config_training import LIMITS, Sft, Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.levers import check_levers
from shridhar_ft.rehearse.sizes import K_ROW, ROW, small_config

SUFFIX = "-rehearsal"
LONGEST = 2048  # tokens of the longest context
SHORTEST = 64  # tokens of a context; of what has to be shorter than one, a half or a quarter of it
EXCHANGE = 512  # tokens: exchanges of a dialogue do not shrink with the contexts
VOCABULARY = 1024  # tokens: the bundled sample has merges for as many
STEPS = (32, 16, 4)
"""Optimizer steps of the part that is killed, of the one that is stopped by a signal, and of each other part."""
SAVE_EVERY = 4  # steps
TOKENS_A_PASS, TOKENS_A_STEP = 16_384, 32_768
K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m", "q3_k_m")


@dataclass(frozen=True)
class Laptop:
    """What the machine that rehearses can."""

    deepspeed: bool = True
    bitsandbytes: bool = True
    gguf: bool = True
    """Whether the converter is installed."""
    llama_cpp: bool = True
    """Whether llama.cpp itself is: k-quants are its own."""
    device: str = "cpu"


@dataclass(frozen=True)
class Made:
    """What the rehearsal made beforehand, in the place of what is too large or not here."""

    data: Data
    long_text: list[str]
    others: list[str]
    launch: str
    """accelerate config, or `auto`."""
    layout: Layout
    """The layout of that config."""
    glossary: str | None = None
    rublimp: str | None = None
    base: str | None = None
    """Folder of a small model of the base's architecture, where the recipe has a base."""
    cut: tuple["Change", ...] = ()
    """Sources of which only a part is read."""
    extend: str | None = None
    """Folder of the tokenizer that is extended, where the recipe names one that is here."""


@dataclass(frozen=True)
class Change:
    """One setting that the rehearsal has otherwise."""

    key: str
    real: Any
    here: Any
    why: str


@dataclass
class Shrunk:
    """The small recipe."""

    recipe: Recipe
    changes: list[Change] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    """Sentences on keys that this machine cannot try."""


def divisor_of(recipe: Recipe) -> int:
    """The power of two by which every length in tokens is divided; 1 where the recipe is short enough."""
    lengths = [stage.context for stage in recipe.stages] + ([recipe.sft.context or 0] if recipe.sft else [])
    divisor = 1
    while max(lengths) / divisor > LONGEST:
        divisor *= 2
    return divisor


def shrink(recipe: Recipe, laptop: Laptop, made: Made) -> Shrunk:
    """The recipe of the rehearsal.

    Args:
        recipe: The real one.
        laptop: What this machine can.
        made: The small data, and the small base.

    Returns:
        The recipe, which validates; what it has otherwise, and what it cannot try.
    """
    small = Shrunk(recipe)
    raw = recipe.model_dump(mode="json")
    divisor = divisor_of(recipe)
    raw["name"] = recipe.name + SUFFIX
    raw["data"] = made.data.model_dump(mode="json")
    _model(raw, recipe, divisor, made, small)
    raw["stages"] = [_stage(recipe, index, divisor, laptop, made.layout, small) for index in range(len(recipe.stages))]
    _first_factors(raw["stages"], recipe, small)
    if recipe.sft is not None:
        raw["sft"] = _sft(recipe, recipe.sft, raw["stages"], divisor, laptop, made.layout, small)
    raw["train"] |= _tuning("train", recipe.train, laptop, made.layout, small)
    raw["train"] |= dict.fromkeys(LIMITS)
    _eval(raw["eval"], recipe, divisor, made, small)
    _export(raw["export"], recipe, laptop, small)
    if recipe.budget.max_usd is not None:
        raw["budget"]["max_usd"] = None
        small.untried.append("budget.max_usd: nothing is spent here, so it stops nothing.")
    raw["launch"]["config"] = _change(small, "launch.config", recipe.launch.config, made.launch, f"{made.layout} here")
    small.changes += made.cut
    small.recipe = Recipe.model_validate(raw)
    return small


def _change(small: Shrunk, key: str, real: Any, here: Any, why: str) -> Any:  # noqa: ANN401 - any setting
    """Book a change, if it is one; returns what stands here."""
    if real != here:
        small.changes.append(Change(key, real, here, why))
    return here


# ------------------------------------------------------------------------------------------------------- model


def _model(raw: dict[str, Any], recipe: Recipe, divisor: int, made: Made, small: Shrunk) -> None:
    model = raw["model"]
    if recipe.tokenizer.train is not None:
        own = recipe.tokenizer.train.vocab_size
        raw["tokenizer"]["train"]["vocab_size"] = _change(
            small, "tokenizer.train.vocab_size", own, min(own, VOCABULARY), "little text has few merges"
        )
    if recipe.tokenizer.extend is not None:
        raw["tokenizer"]["extend"] = made.extend
        if made.extend is None and recipe.model.base is None:
            raw["tokenizer"]["train"] = TrainTokenizer(vocab_size=VOCABULARY).model_dump(mode="json")
            small.untried.append(f"tokenizer.extend: {recipe.tokenizer.extend} is not here; one is trained instead.")
    sparse = recipe.model.attention == "sparse"
    if recipe.model.from_config is not None:
        row = K_ROW if set(recipe.export.gguf_kinds) & set(K_QUANTS) else ROW
        every = recipe.model.sparse.global_every if sparse else 0
        own = dict(recipe.model.from_config)
        made_small = small_config(own, divisor, every, row)
        made_small.pop("vocab_size", None)  # it follows the tokenizer
        for key, value in made_small.items():
            _change(small, f"model.from_config.{key}", own.get(key), value, "a small model of the same build")
        model["from_config"] = made_small
    else:
        model["base"] = _change(small, "model.base", recipe.model.base, made.base, "random weights of the same build")
        model["revision"] = None
    if sparse:
        window = recipe.model.sparse.window
        model["sparse"]["window"] = _change(
            small, "model.sparse.window", window, _shorter(window, divisor, SHORTEST // 4), "in proportion"
        )
    if recipe.model.attention in ("flash", "flex"):
        model["attention"] = "auto"
        small.untried.append(f"model.attention: {recipe.model.attention} needs a GPU; auto is taken here.")


# ------------------------------------------------------------------------------------------------------ stages


def _shorter(length: int, divisor: int, least: int = SHORTEST) -> int:
    return max(min(length, least), length // divisor)


def _steps_of(number: int) -> int:
    """Steps of the part of this number, counted from 0."""
    return STEPS[min(number, len(STEPS) - 1)]


def _stage(recipe: Recipe, index: int, divisor: int, laptop: Laptop, layout: Layout, small: Shrunk) -> dict[str, Any]:
    stage, key = recipe.stages[index], f"stages.{index}"
    raw = stage.model_dump(mode="json")

    def shorter(name: str, length: int, least: int = SHORTEST, below: int = 1 << 62) -> int:
        here = min(_shorter(length, divisor, least), below - 1)  # rounding must not make two lengths equal
        return _change(small, f"{key}.{name}", length, here, "in proportion")

    raw["context"] = shorter("context", stage.context)
    if stage.pose:
        raw["pose"]["window"] = shorter("pose.window", stage.pose.window, SHORTEST // 2, raw["context"])
    if stage.replay:
        raw["replay"]["context"] = shorter("replay.context", stage.replay.context, SHORTEST // 4, _window(raw))
    if stage.rope.original_context:
        raw["rope"]["original_context"] = shorter("rope.original_context", stage.rope.original_context)
    raw["gate"] = _change(small, f"{key}.gate", stage.gate, "tell", "the loss of so small a model means nothing")
    if stage.overlong == "drop" and stage.packing == "documents":
        raw["overlong"] = _change(small, f"{key}.overlong", "drop", "split", "chapters do not shrink with the window")
    tuning = stage.tuning(recipe.train)
    raw |= _limits(key, tuning, index, small)
    raw |= _batch(key, tuning, _window(raw), small)
    if stage.memory is not None:
        raw["memory"] = _levers(f"{key}.memory", tuning, laptop, layout, small)
    return raw


def _window(raw: dict[str, Any]) -> int:
    return int((raw.get("pose") or {}).get("window") or raw["context"])


def _first_factors(raws: list[dict[str, Any]], recipe: Recipe, small: Shrunk) -> None:
    """Raise a given factor that no longer reaches its context, since both lengths were rounded."""
    for index, raw in enumerate(raws):
        factor = raw["rope"]["factor"]
        original = raw["rope"]["original_context"] or (raws[0]["context"] if recipe.model.base is None else None)
        if factor and original and factor * original < raw["context"]:
            raw["rope"]["factor"] = _change(
                small, f"stages.{index}.rope.factor", factor, raw["context"] / original, "both lengths were rounded"
            )


def _limits(key: str, tuning: Tuning, number: int, small: Shrunk) -> dict[str, Any]:
    """A few steps, whatever limited the part; saved and measured often enough to be stopped in the middle."""
    steps = _steps_of(number)
    real = {name: value for name in LIMITS if (value := getattr(tuning, name)) is not None} or {"max_epochs": 1}
    limits = ", ".join(f"{name}: {value:,g}" for name, value in real.items())
    _change(small, f"{key}.max_steps", limits, steps, "minutes")
    every = {"save_every": SAVE_EVERY, "evaluate_every": steps}
    for name, value in every.items():
        _change(small, f"{key}.{name}", getattr(tuning, name), value, "to be stopped in the middle")
    return {**dict.fromkeys(LIMITS), "max_steps": steps, **every}


def _batch(key: str, tuning: Tuning, window: int, small: Shrunk) -> dict[str, int]:
    """Batch and accumulation as they are, unless a step of the small windows were still too long for minutes."""
    size = min(tuning.batch_size, max(1, TOKENS_A_PASS // window))
    accumulation = min(tuning.gradient_accumulation, max(1, TOKENS_A_STEP // (size * window)))
    why = "a step of minutes"
    return {
        "batch_size": _change(small, f"{key}.batch_size", tuning.batch_size, size, why),
        "gradient_accumulation": _change(
            small, f"{key}.gradient_accumulation", tuning.gradient_accumulation, accumulation, why
        ),
    }


def _sft(
    recipe: Recipe, sft: Sft, stages: list[dict[str, Any]], divisor: int, laptop: Laptop, layout: Layout, small: Shrunk
) -> dict[str, Any]:
    raw = sft.model_dump(mode="json")
    if sft.context:
        most = stages[-1]["context"] if stages else EXCHANGE
        here = min(sft.context, most, max(_shorter(sft.context, divisor), EXCHANGE))
        raw["context"] = _change(small, "sft.context", sft.context, here, "exchanges do not shrink")
    elif not stages:  # the base's own positions, which may be many
        raw["context"] = _change(small, "sft.context", None, EXCHANGE, "exchanges do not shrink")
    window = raw["context"] or stages[-1]["context"]
    raw |= _tuning("sft", sft, laptop, layout, small)
    raw |= _limits("sft", sft, len(stages), small)
    raw |= _batch("sft", sft, window, small)
    return raw


def _tuning(key: str, tuning: Tuning, laptop: Laptop, layout: Layout, small: Shrunk) -> dict[str, Any]:
    """Method and levers as far as this machine has them; the log line by line."""
    method = tuning.method
    if method == "qlora" and not laptop.bitsandbytes:
        method = "lora"
        small.untried.append(f"{key}.method: qlora needs bitsandbytes, which is not installed here; lora is taken.")
    return {
        "method": method,
        "memory": _levers(f"{key}.memory", tuning, laptop, layout, small),
        "log_every": _change(small, f"{key}.log_every", tuning.log_every, 1, "there are few steps"),
    }


def _levers(key: str, tuning: Tuning, laptop: Laptop, layout: Layout, small: Shrunk) -> str | list[str]:
    if tuning.memory == "auto":
        return "auto"
    kept: list[Any] = []
    for lever in tuning.memory:
        try:
            if lever == "adamw_8bit" and not laptop.bitsandbytes:
                raise UserError("memory: adamw_8bit needs bitsandbytes, which is not installed here")
            check_levers((*kept, lever), tuning, laptop.device, layout.shards_name)
        except UserError as why:
            small.untried.append(f"{key}: {lever} is not tried here ({why}).")
        else:
            kept.append(lever)
    return kept


# ------------------------------------------------------------------------------------------------- eval, export


def _eval(raw: dict[str, Any], recipe: Recipe, divisor: int, made: Made, small: Shrunk) -> None:
    raw["long_text"], raw["others"] = made.long_text, made.others
    raw["glossary"], raw["rublimp"] = made.glossary, made.rublimp
    raw["encoding"] = "auto"
    if recipe.eval.context:
        raw["context"] = _change(
            small, "eval.context", recipe.eval.context, _shorter(recipe.eval.context, divisor), "in proportion"
        )
    most = recipe.eval.max_windows
    raw["max_windows"] = _change(small, "eval.max_windows", most, min(most, 2), "minutes")
    raw["suite"] = _change(small, "eval.suite", recipe.eval.suite, "quick", "minutes")


def _export(raw: dict[str, Any], recipe: Recipe, laptop: Laptop, small: Shrunk) -> None:
    kinds = recipe.export.gguf_kinds
    kept = [kind for kind in kinds if laptop.gguf and (kind not in K_QUANTS or laptop.llama_cpp)]
    if lost := [kind for kind in kinds if kind not in kept]:
        package = "the converter (shridhar_ft[gguf])" if not laptop.gguf else "llama.cpp (shridhar_ft[llama-cpp])"
        small.untried.append(f"export.gguf: {', '.join(lost)} needs {package}, which is not installed here.")
    raw["gguf"] = kept
    raw["ollama"] = recipe.export.ollama and bool(kept)
    if recipe.export.push_to_hub is not None:
        raw["push_to_hub"] = None
        small.untried.append(f"export.push_to_hub: nothing is sent to {recipe.export.push_to_hub} in a rehearsal.")
