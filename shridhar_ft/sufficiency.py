"""Whether the data suffice for what the recipe asks: tokens by split, and a verdict on each training part.

The bounds and their sources are in plan/steps.py.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Stage, Tuning
from shridhar_ft.data.load import conversations, load_split
from shridhar_ft.data.pack import pack
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.documents import Packing, book_documents, dialogue_documents
from shridhar_ft.engines import Engine
from shridhar_ft.model.build import base_config
from shridhar_ft.plan.steps import (
    ENOUGH_CONVERSATIONS,
    FEW_STEPS,
    SMALLEST_EXTENSION,
    WORTH_REPEATING,
    replay_windows,
    schedule,
)
from shridhar_ft.runfolder import PART, Run, fingerprint, read_object, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARE_OFF = 0.03  # of the tokens of a kind
Lengths = Callable[[SplitName, Packing], list[int]]
"""Tokens of each document of a split, as a packing makes documents."""


def write_verdict(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase", sft_context: int) -> dict[str, Any]:
    """`verdict`, kept in data/verdict.json until the data, the tokenizer or the recipe's training changes."""
    made_from = fingerprint(
        *(read_object(folder / PART, "fingerprint")["fingerprint"] for folder in (run.data, run.tokenizer)),
        recipe.model_dump(mode="json", include={"model", "train", "stages", "sft"}),
        sft_context,
        _processes(recipe),
    )
    file = run.data / "verdict.json"
    if file.is_file() and (held := read_object(file, mend="remove it")).get("made_from") == made_from:
        return held
    found = {"made_from": made_from, **verdict(recipe, run, tokenizer, sft_context)}
    write_json(file, found)
    return found


def verdict(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase", sft_context: int) -> dict[str, Any]:
    """Count tokens and judge whether they suffice.

    Args:
        recipe: The recipe.
        run: Its run, data and tokenizer made.
        tokenizer: The run's.
        sft_context: Window of the dialogues in tokens.

    Returns:
        tokens           split → kind → tokens, conversations longer than the window counted in parts
        characters_per_token   kind → characters, None where there is no text of the kind
        shares           kind → split → {asked, tokens, characters} (0 to 1)
        notes            sentences on shares that are off
        processes        how many the launch config starts (1 where the recipe leaves it to the machine)
        stages           one for each stage, see `_judge_stage`
        sft              see `_judge_sft`; None where the recipe has none
    """

    @cache
    def lengths(split: SplitName, packing: Packing) -> list[int]:
        return [len(document.ids) for document in book_documents(run, tokenizer, split, packing)]

    dialogues = {split: _count_dialogues(run, tokenizer, split, sft_context) for split in SPLITS}
    tokens = {
        split: {"books": sum(lengths(split, "split")), "dialogues": sum(dialogues[split]["lengths"])}
        for split in SPLITS
    }
    characters = {
        split: {kind: size["characters"] for kind, size in kinds.items()}
        for split, kinds in read_object(run.data / "report.json", "splits")["splits"].items()
    }
    shares = {kind: _shares(recipe, kind, tokens, characters) for kind in ("books", "dialogues")}
    processes = _processes(recipe)
    return {
        "tokens": tokens,
        "characters_per_token": {
            kind: round(_sum(characters, kind) / whole, 3) if (whole := _sum(tokens, kind)) else None for kind in shares
        },
        "shares": shares,
        "notes": [note for kind, of_kind in shares.items() for note in _share_notes(kind, of_kind)],
        "processes": processes,
        "stages": [_judge_stage(recipe, stage, lengths, processes) for stage in recipe.stages],
        "sft": _judge_sft(recipe, dialogues["train"], sft_context, processes) if recipe.sft else None,
    }


# -------------------------------------------------------------------------------------------------- counting


def _count_dialogues(run: Run, tokenizer: "PreTrainedTokenizerBase", split: SplitName, context: int) -> dict[str, Any]:
    """Lengths of a split's conversations as they are packed, and what else there is to count in them."""
    found: dict[str, Any] = {"lengths": [], "assistant": 0, "longer": 0}
    for part in dialogue_documents(run, tokenizer, split, context, assistant_only=True):
        found["lengths"].append(len(part.ids))
        found["assistant"] += int(part.learned.sum())
        found["longer"] += not part.whole
    turns = [len(messages) for _, messages in conversations(load_split(run, split))]
    return {**found, "conversations": len(turns), "turns": sum(turns)}


def _sum(counted: dict[Any, dict[str, int]], kind: str) -> int:
    return sum(of_split[kind] for of_split in counted.values())


def _shares(recipe: Recipe, kind: str, tokens: Any, characters: Any) -> dict[str, dict[str, float]]:  # noqa: ANN401
    """Each split's share of a kind as asked, by tokens and by characters; {} where the kind is absent."""
    if not _sum(tokens, kind):
        return {}
    return {
        split: {
            "asked": getattr(recipe.data.split, split),
            "tokens": round(tokens[split][kind] / _sum(tokens, kind), 4),
            "characters": round(characters[split][kind] / _sum(characters, kind), 4),
        }
        for split in SPLITS
    }


def _share_notes(kind: str, shares: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{kind}: {split} holds {share['tokens']:.1%} of the tokens, and {share['asked']:.1%} were asked for."
        for split, share in shares.items()
        if abs(share["tokens"] - share["asked"]) > SHARE_OFF
    ]


def _processes(recipe: Recipe) -> int:
    """Windows that are read at once; what `auto` starts is known only where the training runs: one process here."""
    config = Path(recipe.launch.config)
    if recipe.launch.config == "auto" or not config.is_file():
        return 1
    return Engine.of_file(config).readers


# --------------------------------------------------------------------------------------------------- judging


def _judge_stage(recipe: Recipe, stage: Stage, lengths: Lengths, processes: int) -> dict[str, Any]:
    """Numbers of one stage, its verdict (a sentence), and notes (sentences on what to change).

    `documents` are what stands by itself in the stage's text: chapters where they are packed alone, works otherwise.
    """
    packed = lengths("train", stage.packing)
    drops = stage.packing == "documents" and stage.overlong == "drop"
    kept = [length for length in packed if length <= stage.window] if drops else packed
    own = kept if stage.packing == "documents" else lengths("train", "split")
    windows = len(pack(kept, stage.window))
    replayed = replay_windows(windows, stage.replay) if stage.replay else 0
    tuning = stage.tuning(recipe.train)
    numbers = {
        "name": stage.name,
        "context": stage.context,
        "packing": stage.packing,
        "tokens": sum(kept),
        "dropped": sum(packed) - sum(kept),
        "documents": len(own),
        "longer_than_half_a_window": sum(length > stage.context / 2 for length in own),
        "longest_document": max(own, default=0),
        "windows": windows,
        "filled": round(sum(kept) / (windows * stage.window), 4) if windows else 0.0,
        "replay_windows": replayed,
        **schedule(tuning, windows + replayed, stage.window, processes),
    }
    kind, sentence = _kind(recipe, numbers)
    notes = _stage_notes(numbers, tuning)
    if stage.carry.data:
        notes.append("It reads only what the stage before did not get to (carry.data): fewer windows than these.")
    return {**numbers, "kind": kind, "verdict": sentence, "notes": notes}


def _kind(recipe: Recipe, numbers: dict[str, Any]) -> tuple[str, str]:
    """What a stage is, in a word and in a sentence."""
    context, tokens = numbers["context"], numbers["tokens"]
    if recipe.model.from_config is not None:
        own = recipe.stages[0].context
        if context <= own:
            return "first training", f"First training, from random weights: {tokens:,} distinct tokens."
    else:
        own = int(base_config(recipe.model).max_position_embeddings)
        if context <= own:
            return "adaptation", f"Adaptation to a domain: the base holds {own:,} tokens already."
    if tokens < SMALLEST_EXTENSION:
        return "adaptation", (
            f"Adaptation to a domain, no extension of context: {tokens:,} distinct tokens, "
            f"where the smallest published extension read {SMALLEST_EXTENSION:,}."
        )
    if not numbers["longer_than_half_a_window"]:
        return "adaptation", (
            f"Adaptation to a domain, no extension of context: {tokens:,} distinct tokens would do, "
            "but no document is long."
        )
    return "extension", (
        f"Extension of context: {tokens / 1e9:,.1f} billion distinct tokens, where published ones read 0.5 to 40."
    )


def _stage_notes(numbers: dict[str, Any], tuning: Tuning) -> list[str]:
    notes = []
    context, windows = numbers["context"], numbers["windows"]
    if not windows:
        notes.append("Nothing is left to train on: every chapter is longer than the window; set overlong: split.")
        return notes
    if not numbers["longer_than_half_a_window"]:
        notes.append(
            f"No document is longer than half a window; the longest fills {numbers['longest_document'] / context:.0%}."
        )
    if numbers["dropped"]:
        share = numbers["dropped"] / (numbers["dropped"] + numbers["tokens"])
        notes.append(f"{share:.0%} of the text stands in chapters longer than the window and is dropped, as asked.")
    if numbers["epochs"] > WORTH_REPEATING:
        enough = max(1, WORTH_REPEATING * windows // numbers["windows_per_step"])
        mend = (
            f"max_steps: {enough}" if tuning.max_steps and not tuning.max_epochs else f"max_epochs: {WORTH_REPEATING}"
        )
        notes.append(
            f"{numbers['epochs']:,.0f} epochs, and beyond about {WORTH_REPEATING} repeating teaches little; set {mend}."
        )
    if numbers["steps"] < FEW_STEPS and numbers["windows_per_step"] > 1:
        notes.append(
            f"Only {numbers['steps']} optimizer steps of {numbers['windows_per_step']} windows; "
            "make them smaller, or more."
        )
    return notes


def _judge_sft(recipe: Recipe, dialogues: dict[str, Any], context: int, processes: int) -> dict[str, Any]:
    """Numbers of SFT, its verdict (a sentence), and notes (sentences on what to look at)."""
    assert recipe.sft is not None, "the caller asks whether there is SFT"
    windows = len(pack(dialogues["lengths"], context))
    tokens = sum(dialogues["lengths"])
    numbers = {
        "context": context,
        "conversations": dialogues["conversations"],
        "turns": dialogues["turns"],
        "tokens": tokens,
        "assistant_tokens": dialogues["assistant"],
        "pieces_of_longer_exchanges": dialogues["longer"],
        "windows": windows,
        "filled": round(tokens / (windows * context), 4) if windows else 0.0,
        **schedule(recipe.sft, windows, context, processes),
    }
    enough = numbers["conversations"] >= ENOUGH_CONVERSATIONS
    sentence = (
        f"{numbers['conversations']:,} conversations with {numbers['assistant_tokens']:,} tokens of answers: "
        + (
            "enough to teach a manner."
            if enough
            else f"few; about {ENOUGH_CONVERSATIONS:,} taught a large base its manner."
        )
    )
    notes = []
    if longer := numbers["pieces_of_longer_exchanges"]:
        notes.append(
            f"Exchanges longer than the window go on in the next one: {longer:,} pieces are no whole exchange."
        )
    return {**numbers, "verdict": sentence, "notes": notes}
