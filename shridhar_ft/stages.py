"""The order of the parts that train: each stage, then SFT, and what each one is made from.

One part begins with the weights of the part before it; so its fingerprint holds the fingerprint of that one, and a
changed setting makes anew just what hangs on it.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.checkpoint import whole
from shridhar_ft.config import Recipe
from shridhar_ft.config_training import OF_ADAPTERS, OF_QLORA, Tuning
from shridhar_ft.data.split import SplitName
from shridhar_ft.data.unread import unread
from shridhar_ft.data.windows import Encoded, Layout, load_windows
from shridhar_ft.documents import book_documents, dialogue_documents
from shridhar_ft.errors import UserError
from shridhar_ft.guarded import ROWS_READ
from shridhar_ft.model.build import base_config, base_contents, build_model, stage_config
from shridhar_ft.model.rope import original_context, stage_rope
from shridhar_ft.part import TrainingPart
from shridhar_ft.plan.levers import INEXACT
from shridhar_ft.preparation import window_of_sft
from shridhar_ft.receipts import write_receipt
from shridhar_ft.resume import BEFORE
from shridhar_ft.runfolder import (
    PART,
    Run,
    as_json,
    file_hash,
    fingerprint,
    finish_part,
    is_current,
    part_of,
    publishing,
    read_object,
)
from shridhar_ft.starting import Origin
from shridhar_ft.tokenizer import END, opening_token
from shridhar_ft.weights import Weights

# Settings that change no number of the weights. `memory` is among them but for the levers that do (INEXACT).
NOT_IN_THE_WEIGHTS = {"log_every", "evaluate_every", "save_every", "keep_checkpoints", "memory", "memory_limit"}
KERNELS = {"attention", "sparse"}  # which kernel attends changes no weight; which tokens see one another does

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def part_names(recipe: Recipe) -> list[str]:
    """Names of the training parts in order, as `train_part` and the status file call them."""
    return [f"stages/{stage.name}" for stage in recipe.stages] + (["sft"] if recipe.sft else [])


def training_part(recipe: Recipe, run: Run, name: str, tokenizer: "PreTrainedTokenizerBase") -> TrainingPart:
    """The part of this name (one of `part_names`), ready for `train_part`; those before it must be finished."""
    if name == "sft":
        return sft_part(recipe, run, tokenizer)
    return stage_part(recipe, run, part_names(recipe).index(name), tokenizer)


def stage_part(recipe: Recipe, run: Run, index: int, tokenizer: "PreTrainedTokenizerBase") -> TrainingPart:
    """Stage `index`, ready for `train_part`; the stage before it must be finished."""
    stage = recipe.stages[index]
    tuning = stage.tuning(recipe.train)
    before = _finished(recipe, run, index)
    start = Weights.from_dict(before["weights"], run.root) if before else _first_weights(recipe, run, tuning, tokenizer)
    rope = stage_rope(recipe, index, original_context(base_config(recipe.model)))
    spanned, place = _schedule_of(recipe, index)
    overlong = stage.overlong if stage.packing == "documents" else "split"
    own = {
        "context": stage.context,
        "window": stage.window,
        "packing": stage.packing,
        "overlong": overlong,
        "carry": stage.carry.model_dump(),
        "replay": stage.replay and stage.replay.model_dump(),
        "rope": rope.rope.model_dump(),
        "rope_context": rope.context,
        "limits_of_the_schedule": [[fixed.max_steps, fixed.max_tokens] for fixed, _ in spanned],
    }
    return TrainingPart(
        name=f"stages/{stage.name}",
        folder=run.stage(stage.name),
        tuning=tuning,
        context=stage.context,
        layout=Layout(stage.window, overlong, stage.replay, opening_token(tokenizer)),
        stage_index=index,
        documents=partial(_documents_of, recipe, run, index, tokenizer),
        why_masked="not learned",
        origin=Origin(start, continues_adapter=bool(before) and tuning.method != "full", came_from=before),
        settings=_made_of(recipe, run, tuning, before, own),
        gate=stage.gate,
        skips=stage.pose is not None,
        schedule_of=spanned,
        schedule_place=place,
        carries_optimizer=_ended_at(run, before) if stage.carry.optimizer else None,
    )


def _documents_of(
    recipe: Recipe, run: Run, index: int, tokenizer: "PreTrainedTokenizerBase", split: SplitName
) -> Iterator[Encoded]:
    """The books of a split for a stage: all of them, or of train what the stage before did not get to."""
    stage = recipe.stages[index]
    if split != "train" or not stage.carry.data:
        return book_documents(run, tokenizer, split, packing=stage.packing)
    before = _finished(recipe, run, index)
    windows, _ = load_windows(run.root / before["name"] / "windows" / "train")
    read = np.load(whole(_ended_at(run, before), "carry.data") / ROWS_READ)
    return unread(_documents_of(recipe, run, index - 1, tokenizer, split), windows, read)


def _ended_at(run: Run, before: dict[str, Any]) -> Path:
    """The checkpoint whose weights a finished part handed over."""
    return run.root / before["name"] / "checkpoints" / before["checkpoint"]


def _schedule_of(recipe: Recipe, index: int) -> tuple[tuple[tuple[Tuning, int], ...], int]:
    """Tuning and window of all stages that share a learning-rate schedule with this one, and its place among them."""
    first = last = index
    while recipe.stages[first].carry.schedule:
        first -= 1
    while last + 1 < len(recipe.stages) and recipe.stages[last + 1].carry.schedule:
        last += 1
    if first == last:
        return (), 0
    return tuple((stage.tuning(recipe.train), stage.window) for stage in recipe.stages[first : last + 1]), index - first


def sft_part(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase") -> TrainingPart:
    """SFT, ready for `train_part`; every stage must be finished."""
    assert recipe.sft is not None, "the caller asks whether there is SFT"
    before = _finished(recipe, run, len(recipe.stages))
    start = (
        Weights.from_dict(before["weights"], run.root) if before else _first_weights(recipe, run, recipe.sft, tokenizer)
    )
    context = window_of_sft(recipe)
    assistant_only = recipe.sft.assistant_only_loss
    return TrainingPart(
        name="sft",
        folder=run.sft,
        tuning=recipe.sft,
        context=context,
        layout=Layout(context),
        stage_index=-1,
        documents=lambda split: dialogue_documents(run, tokenizer, split, context, assistant_only),
        why_masked="not the assistant's",
        origin=Origin(start, continues_adapter=_goes_on_with_adapter(recipe), came_from=before),
        settings=_made_of(recipe, run, recipe.sft, before, {"context": context, "assistant_only_loss": assistant_only}),
        handed_over=partial(_mask_receipt, run, context, assistant_only),
    )


def _goes_on_with_adapter(recipe: Recipe) -> bool:
    """Whether SFT trains the stages' adapter on, instead of one of its own on the merged weights.

    A base in four bits cannot take an adapter in: rounding the sum again would undo part of what the stages learned.

    Raises:
        UserError: SFT asks for another adapter than the stages'.
    """
    sft, train = recipe.sft, recipe.train
    if sft is None or not recipe.stages or (sft.method, train.method) != ("qlora", "qlora"):
        return False
    shape = [key for key in (*OF_ADAPTERS, *OF_QLORA) if key != "dropout"]
    for key in shape:
        if getattr(sft, key) != getattr(train, key):
            raise UserError(
                f"sft.{key}: {getattr(sft, key)}, and the stages' is {getattr(train, key)}; after qlora stages, qlora "
                "SFT goes on with their adapter (merged into a quantised base it would be rounded): give both the same "
                "value, or set sft.method to lora"
            )
    return True


def last_part(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """part.json of the part whose weights the run ends with.

    Raises:
        UserError: A part is not finished, or was trained with other settings than the recipe now has.
    """
    finished: dict[str, Any] = {}
    for name in part_names(recipe):
        found = part_of(run.root / name)
        if found is None:
            raise UserError(f"{run.root / name} is not finished; run `shridhar-ft run` with this recipe first")
        if found.get("fingerprint") != training_part(recipe, run, name, tokenizer).made_from:
            raise UserError(
                f"{run.root / name} was trained with other settings than the recipe has now; take the change back, or "
                "run `shridhar-ft run` with this recipe to train it anew"
            )
        finished = {"name": name, **found}
    return finished


def _finished(recipe: Recipe, run: Run, index: int) -> dict[str, Any]:
    """part.json of the stage before number `index`; {} where there is none."""
    if index == 0:
        return {}
    stage = recipe.stages[index - 1]
    finished = part_of(run.stage(stage.name))
    if finished is None:
        raise UserError(
            f"stage '{stage.name}' has not finished, so nothing can begin with its weights; "
            "run `accelerate launch -m shridhar_ft.pretrain` with this recipe first"
        )
    return {"name": f"stages/{stage.name}", **finished}


def _first_weights(recipe: Recipe, run: Run, tuning: Tuning, tokenizer: "PreTrainedTokenizerBase") -> Weights | None:
    """What the first part begins with: the base; random weights; or, under an adapter, random weights on disk."""
    if recipe.model.base is not None:
        return Weights(recipe.model.base, recipe.model.revision)
    if tuning.method == "full":
        return None
    # An adapter alone could not be loaded again: the random weights it was trained on have to be kept.
    folder = run.root / "base"
    wanted = fingerprint(recipe.model.model_dump(), recipe.seed, len(tokenizer))
    if not is_current(folder, wanted):
        config, _ = stage_config(recipe, 0, len(tokenizer))
        with publishing(folder) as temporary:
            build_model(config, recipe.seed, "sdpa").save_pretrained(temporary)
            finish_part(temporary, wanted, 0.0)
    return Weights(str(folder))


def _made_of(recipe: Recipe, run: Run, tuning: Tuning, before: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """All that a part's weights hang on, by name, as JSON holds it."""
    settings = {k: v for k, v in _tuning_alone(tuning).items() if k not in NOT_IN_THE_WEIGHTS}
    settings["levers"] = sorted(set(tuning.memory) & set(INEXACT))
    sparse = recipe.model.attention == "sparse"
    of_model = recipe.model.model_dump(exclude=None if sparse else KERNELS)
    return as_json(
        {
            **settings,
            **own,
            "seed": recipe.seed,
            **{f"model.{key}": value for key, value in of_model.items()},
            "base": base_contents(recipe.model.base) if recipe.model.base or before else _random_base(run, tuning),
            "data": read_object(run.data / PART, "fingerprint")["fingerprint"],
            "tokenizer": file_hash(run.tokenizer / "tokenizer.json"),  # a longer last window changes no token of it
            BEFORE: before.get("fingerprint"),
        }
    )


def _random_base(run: Run, tuning: Tuning) -> str | None:
    """What the random weights under the first adapter were made from."""
    return None if tuning.method == "full" else read_object(run.root / "base" / PART, "fingerprint")["fingerprint"]


def _tuning_alone(tuning: Tuning) -> dict[str, Any]:
    """The tuning settings alone, without what a subclass adds."""
    return {key: value for key, value in tuning.model_dump(mode="json").items() if key in Tuning.model_fields}


def _mask_receipt(run: Run, context: int, assistant_only: bool, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Print one conversation with its masked part marked, so that a person sees what is learned."""
    examples = dialogue_documents(run, tokenizer, "train", context, assistant_only)
    example = next((found for found in examples if found.whole), None)
    if example is None:
        raise UserError(
            f"sft.context: every conversation of the train split has an exchange of over {context} tokens; lengthen it"
        )
    spans: list[tuple[bool, list[int]]] = []
    marked: list[str] = []
    for token, learned in zip(example.ids.tolist(), example.learned.tolist(), strict=True):
        if not spans or spans[-1][0] != learned:
            spans.append((learned, []))
        spans[-1][1].append(token)
    for learned, tokens in spans:
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        marked.append(f"⟦{text}⟧" if learned else text)
    end = tokenizer.convert_tokens_to_ids(END)
    closes = [bool(tokens) and tokens[-1] == end for learned, tokens in spans if learned]
    learned = int(example.learned.sum())
    write_receipt(
        run.sft / "receipts" / "mask.json",
        {"assistant_only_loss": assistant_only, "the_closing_token_is_learned": True},
        {
            "example": "".join(marked),
            "legend": "⟦what the loss falls on⟧",
            "tokens": len(example.ids),
            "learned_tokens": learned,
            "answers": len(closes),
            "answers_with_their_closing_token": sum(closes),
        },
        learned > 0 and all(closes) and (not assistant_only or learned < len(example.ids)),
        mend="the chat template must mark the assistant's words with {% generation %}, <|end|> included",
    )
