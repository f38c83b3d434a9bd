"""How many tokens each part of a recipe reads: counted where the data are built, else guessed from the files' sizes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe
from shridhar_ft.config_data import Books, Rows
from shridhar_ft.config_training import Stage
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand
from shridhar_ft.plan.steps import replay_windows
from shridhar_ft.runfolder import Run, read_json

SAMPLE = 1 << 18  # bytes of each file that are looked at, to tell how many make a character
TRAINED = {1024: 1.9, 50_000: 4.6}  # characters a token of Russian, by vocabulary; between them along the logarithm
OF_A_BASE = 2.6  # characters a token of Russian with the tokenizers of open bases: Qwen 2.6, Gemma 3.2
ROWS, DUMP = 0.5, 0.2  # share of a file of rows, of a database dump, that is text to train on
CHAPTER = 5000  # tokens, where chapters are packed alone and nobody has counted them
CONVERSATION = 300  # tokens
PACKED = {".epub", ".docx", ".pdf", ".zip", ".gz", ".zst", ".xz", ".bz2"}  # a byte of these counts as one character


@dataclass(frozen=True)
class Supply:
    """What a part reads."""

    tokens: int | None
    """Distinct tokens of its train split; None where nobody can tell."""
    windows: int | None
    """Train windows, those that are replayed included."""
    validation: int
    """Windows of the validation split."""
    document: float
    """Mean length of what stands by itself in a window, in tokens."""
    conversations: int | None = None
    counted: bool = False
    source: str = ""


def supplies(
    recipe: Recipe, run: Run, sft_context: int, books: int | None = None, dialogues: int | None = None
) -> dict[str, Supply]:
    """What each training part reads.

    Args:
        recipe: The recipe.
        run: Its run; where the data are built there, they are counted.
        sft_context: Window of the dialogues in tokens.
        books: Tokens of books to plan with, instead of what is there.
        dialogues: The same of dialogues.
    """
    verdict = _verdict(recipe, run)
    given = {"books": books, "dialogues": dialogues}
    found: dict[str, Supply] = {}
    guesses = {kind: _guess(recipe, kind, given[kind]) for kind in given if verdict is None or given[kind] is not None}
    for index, stage in enumerate(recipe.stages):
        name = f"stages/{stage.name}"
        if "books" in guesses:
            found[name] = _guessed_stage(recipe, stage, *guesses["books"])
        else:
            assert verdict is not None, "without a verdict everything is guessed"
            found[name] = _counted_stage(stage, verdict["stages"][index], verdict)
    if recipe.sft is not None:
        if "dialogues" in guesses:
            found["sft"] = _guessed_sft(recipe, sft_context, *guesses["dialogues"])
        else:
            assert verdict is not None, "without a verdict everything is guessed"
            found["sft"] = _counted_sft(sft_context, verdict["sft"], verdict)
    return found


def characters_per_token(recipe: Recipe) -> float:
    """Characters of Russian that a token of the recipe's tokenizer holds, before anything is tokenised."""
    if recipe.tokenizer.train is None:
        return OF_A_BASE
    (small, few), (large, many) = sorted(TRAINED.items())
    place = math.log(recipe.tokenizer.train.vocab_size / small) / math.log(large / small)
    return round(min(many, max(1.0, few + (many - few) * place)), 2)


# -------------------------------------------------------------------------------------------------- counted


def _verdict(recipe: Recipe, run: Run) -> dict[str, Any] | None:
    """What was counted of this run's data, if it is of the same stages; None otherwise."""
    file = run.data / "verdict.json"
    if not file.is_file():
        return None
    held = read_json(file)
    counted = [(stage["name"], stage["context"], stage["packing"]) for stage in held["stages"]]
    wanted = [(stage.name, stage.context, stage.packing) for stage in recipe.stages]
    return held if counted == wanted and (held["sft"] is None) == (recipe.sft is None) else None


def _counted_stage(stage: Stage, counted: dict[str, Any], verdict: dict[str, Any]) -> Supply:
    documents = max(1, counted["documents"])
    own = counted["tokens"] / documents if stage.packing == "documents" else stage.window
    windows = counted["windows"] + counted["replay_windows"]
    return Supply(
        tokens=counted["tokens"],
        windows=windows,
        validation=math.ceil(verdict["tokens"]["validation"]["books"] / stage.window),
        document=_mixed(own, stage, counted["windows"], counted["replay_windows"]),
        counted=True,
        source="counted in the run's data",
    )


def _counted_sft(context: int, counted: dict[str, Any], verdict: dict[str, Any]) -> Supply:
    return Supply(
        tokens=counted["tokens"],
        windows=counted["windows"],
        validation=math.ceil(verdict["tokens"]["validation"]["dialogues"] / context),
        document=counted["tokens"] / max(1, counted["conversations"]),
        conversations=counted["conversations"],
        counted=True,
        source="counted in the run's data",
    )


# -------------------------------------------------------------------------------------------------- guessed


def _guess(recipe: Recipe, kind: str, given: int | None) -> tuple[int | None, str]:
    """Tokens of all splits of a kind, and how they were found."""
    if given is not None:
        return given, f"{given:,} tokens of {kind}, as given"
    data, option = recipe.data, f"--{kind.removesuffix('s')}-tokens"
    sources: dict[str, Books | Rows] = {f"data.dialogues.{number}": rows for number, rows in enumerate(data.dialogues)}
    if kind == "books":
        sources = {"data.books": data.books} if data.books else {}
        sources |= {f"data.texts.{number}": rows for number, rows in enumerate(data.texts)}
    characters = 0.0
    try:
        for key, source in sources.items():
            if isinstance(source, Rows) and not source.paths:
                return None, f"{kind}: a dataset on the Hub has no size here; give {option}"
            share = 1.0
            if isinstance(source, Rows):
                share = DUMP if source.format == "mysql_dump" else ROWS
            characters += share * sum(_characters(file) for file in expand(source.paths, ["*"], f"{key}.paths"))
    except UserError as error:
        return None, f"{error}; or give {option}"
    each = characters_per_token(recipe)
    return int(characters / each), (
        f"about {characters / 1e6:,.2f} million characters of {kind} by their files' sizes, {each:g} of them a token"
    )


def _characters(file: Path) -> float:
    """Characters of a text file by its size; a sample tells UTF-8's two bytes a letter from one-byte encodings."""
    if file.is_dir():
        return 0.0
    size = file.stat().st_size
    if file.suffix.lower() in PACKED:
        return float(size)
    with file.open("rb") as held:
        sample = held.read(SAMPLE)
    try:
        letters = len(sample.decode("utf-8"))
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:  # not just a letter that the sample's end cut
            return float(size)
        letters = len(sample.decode("utf-8", errors="ignore"))
    return size * letters / len(sample) if sample else 0.0


def _guessed_stage(recipe: Recipe, stage: Stage, tokens: int | None, source: str) -> Supply:
    own = min(CHAPTER, stage.window) if stage.packing == "documents" else stage.window
    if tokens is None:
        return Supply(None, None, 0, own, source=source)
    split = recipe.data.split
    windows = math.ceil(tokens * split.train / stage.window)
    replayed = replay_windows(windows, stage.replay) if stage.replay else 0
    return Supply(
        tokens=int(tokens * split.train),
        windows=windows + replayed,
        validation=math.ceil(tokens * split.validation / stage.window),
        document=_mixed(own, stage, windows, replayed),
        source=source,
    )


def _guessed_sft(recipe: Recipe, context: int, tokens: int | None, source: str) -> Supply:
    document = min(CONVERSATION, context)
    if tokens is None:
        return Supply(None, None, 0, document, source=source)
    split = recipe.data.split
    return Supply(
        tokens=int(tokens * split.train),
        windows=math.ceil(tokens * split.train / context),
        validation=math.ceil(tokens * split.validation / context),
        document=document,
        conversations=int(tokens * split.train / document),
        source=source,
    )


def _mixed(own: float, stage: Stage, windows: int, replayed: int) -> float:
    """Mean length of a document over the windows of the stage's own length and those of short pieces."""
    if not stage.replay or not windows + replayed:
        return own
    return (own * windows + min(own, stage.replay.context) * replayed) / (windows + replayed)
