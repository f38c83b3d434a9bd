"""A recipe made small enough for a laptop: what is done stays, how much of it shrinks, and every change is listed.

    shrink(recipe, laptop, made) -> Shrunk(recipe, changes, untried)

Nothing is read or asked here: what the machine can, and where the small data lie, come as arguments.
"""

from typing import Any

from shridhar_ft.config import Recipe, TrainTokenizer
from shridhar_ft.config_training import LIMITS, Sft
from shridhar_ft.plan.layout import Layout
from shridhar_ft.rehearse.sizes import K_ROW, ROW, small_config
from shridhar_ft.rehearse.small import Laptop, Made, Shrunk, change
from shridhar_ft.rehearse.tuning import batch, levers, limits, tuning_here

SUFFIX = "-rehearsal"
LONGEST = 2048  # tokens of the longest context
SHORTEST = 64  # tokens of a context; of what has to be shorter than one, a half or a quarter of it
EXCHANGE = 512  # tokens: exchanges of a dialogue do not shrink with the contexts
VOCABULARY = 1024  # tokens: the bundled sample has merges for as many
OUTWARD = {
    ("budget", "max_usd"): "nothing is spent here, so it stops nothing",
    ("export", "push_to_hub"): "a rehearsal sends no model anywhere",
    ("train", "backup"): "a rehearsal puts no checkpoints where the real run's will lie",
    ("train", "notify"): "a rehearsal tells nobody of its stages and stops",
    ("train", "report_to"): "a rehearsal sends its curves nowhere",
    ("train", "stop_after"): "a rehearsal is stopped by signals alone",
}
"""Settings that reach beyond this machine, and why they are not tried."""
K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m", "q3_k_m")


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
    raw["train"] |= tuning_here("train", recipe.train, laptop, made.layout, small)
    raw["train"] |= dict.fromkeys(LIMITS)
    _eval(raw["eval"], recipe, divisor, made, small)
    _export(raw["export"], recipe, laptop, small)
    for (section, key), why in OUTWARD.items():
        if raw[section][key]:
            raw[section][key] = [] if isinstance(raw[section][key], list) else None
            small.untried.append(f"{section}.{key}: {why}.")
    raw["launch"]["config"] = change(small, "launch.config", recipe.launch.config, made.launch, f"{made.layout} here")
    small.changes += made.cut
    small.recipe = Recipe.model_validate(raw)
    return small


# ------------------------------------------------------------------------------------------------------- model


def _model(raw: dict[str, Any], recipe: Recipe, divisor: int, made: Made, small: Shrunk) -> None:
    model = raw["model"]
    if recipe.tokenizer.train is not None:
        own = recipe.tokenizer.train.vocab_size
        raw["tokenizer"]["train"]["vocab_size"] = change(
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
        given = dict(recipe.model.from_config)
        made_small = small_config(given, divisor, every, row)
        made_small.pop("vocab_size", None)  # it follows the tokenizer
        for key, value in made_small.items():
            change(small, f"model.from_config.{key}", given.get(key), value, "a small model of the same build")
        model["from_config"] = made_small
    else:
        model["base"] = change(small, "model.base", recipe.model.base, made.base, "random weights of the same build")
        model["revision"] = None
    if sparse:
        window = recipe.model.sparse.window
        model["sparse"]["window"] = change(
            small, "model.sparse.window", window, _shorter(window, divisor, SHORTEST // 4), "in proportion"
        )
    if recipe.model.attention in ("flash", "flex"):
        model["attention"] = "auto"
        small.untried.append(f"model.attention: {recipe.model.attention} needs a GPU; auto is taken here.")


# ------------------------------------------------------------------------------------------------------ stages


def _shorter(length: int, divisor: int, least: int = SHORTEST) -> int:
    return max(min(length, least), length // divisor)


def _stage(recipe: Recipe, index: int, divisor: int, laptop: Laptop, layout: Layout, small: Shrunk) -> dict[str, Any]:
    stage, key = recipe.stages[index], f"stages.{index}"
    raw = stage.model_dump(mode="json")

    def shorter(name: str, length: int, least: int = SHORTEST, below: int = 1 << 62) -> int:
        here = min(_shorter(length, divisor, least), below - 1)  # rounding must not make two lengths equal
        return change(small, f"{key}.{name}", length, here, "in proportion")

    raw["context"] = shorter("context", stage.context)
    if stage.pose:
        raw["pose"]["window"] = shorter("pose.window", stage.pose.window, SHORTEST // 2, raw["context"])
    if stage.replay:
        raw["replay"]["context"] = shorter("replay.context", stage.replay.context, SHORTEST // 4, _window(raw))
    if stage.rope.original_context:
        raw["rope"]["original_context"] = shorter("rope.original_context", stage.rope.original_context)
    raw["gate"] = change(small, f"{key}.gate", stage.gate, "tell", "the loss of so small a model means nothing")
    if stage.overlong == "drop" and stage.packing == "documents":
        raw["overlong"] = change(small, f"{key}.overlong", "drop", "split", "chapters do not shrink with the window")
    tuning = stage.tuning(recipe.train)
    raw |= limits(key, tuning, index, small)
    raw |= batch(key, tuning, _window(raw), small)
    if stage.memory is not None:
        raw["memory"] = levers(f"{key}.memory", tuning, laptop, layout, small)
    return raw


def _window(raw: dict[str, Any]) -> int:
    return int((raw.get("pose") or {}).get("window") or raw["context"])


def _first_factors(raws: list[dict[str, Any]], recipe: Recipe, small: Shrunk) -> None:
    """Raise a given factor that no longer reaches its context, since both lengths were rounded."""
    for index, raw in enumerate(raws):
        factor = raw["rope"]["factor"]
        original = raw["rope"]["original_context"] or (raws[0]["context"] if recipe.model.base is None else None)
        if factor and original and factor * original < raw["context"]:
            raw["rope"]["factor"] = change(
                small, f"stages.{index}.rope.factor", factor, raw["context"] / original, "both lengths were rounded"
            )


def _sft(
    recipe: Recipe, sft: Sft, stages: list[dict[str, Any]], divisor: int, laptop: Laptop, layout: Layout, small: Shrunk
) -> dict[str, Any]:
    raw = sft.model_dump(mode="json")
    if sft.context:
        most = stages[-1]["context"] if stages else EXCHANGE
        here = min(sft.context, most, max(_shorter(sft.context, divisor), EXCHANGE))
        raw["context"] = change(small, "sft.context", sft.context, here, "exchanges do not shrink")
    elif not stages:  # the base's own positions, which may be many
        raw["context"] = change(small, "sft.context", None, EXCHANGE, "exchanges do not shrink")
    window = raw["context"] or stages[-1]["context"]
    raw |= tuning_here("sft", sft, laptop, layout, small)
    raw |= limits("sft", sft, len(stages), small)
    raw |= batch("sft", sft, window, small)
    return raw


# ------------------------------------------------------------------------------------------------- eval, export


def _eval(raw: dict[str, Any], recipe: Recipe, divisor: int, made: Made, small: Shrunk) -> None:
    raw["long_text"], raw["others"] = made.long_text, made.others
    raw["glossary"], raw["rublimp"] = made.glossary, made.rublimp
    raw["encoding"] = "auto"
    if recipe.eval.context:
        raw["context"] = change(
            small, "eval.context", recipe.eval.context, _shorter(recipe.eval.context, divisor), "in proportion"
        )
    most = recipe.eval.max_windows
    raw["max_windows"] = change(small, "eval.max_windows", most, min(most, 2), "minutes")
    raw["suite"] = change(small, "eval.suite", recipe.eval.suite, "quick", "minutes")


def _export(raw: dict[str, Any], recipe: Recipe, laptop: Laptop, small: Shrunk) -> None:
    kinds = recipe.export.gguf_kinds
    kept = [kind for kind in kinds if laptop.gguf and (kind not in K_QUANTS or laptop.llama_cpp)]
    if lost := [kind for kind in kinds if kind not in kept]:
        package = "the converter (shridhar_ft[gguf])" if not laptop.gguf else "llama.cpp (shridhar_ft[llama-cpp])"
        small.untried.append(f"export.gguf: {', '.join(lost)} needs {package}, which is not installed here.")
    raw["gguf"] = kept
    raw["ollama"] = recipe.export.ollama and bool(kept)
