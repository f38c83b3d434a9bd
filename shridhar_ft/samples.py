"""Samples for the run page: what the base, each stage and SFT say to the same prompts, kept in the run folder.

    runs/<name>/samples.json
      prompts   kind (text or question), text, and of a text the work it is from and how it truly goes on
      models    name (base or a part), made_from (fingerprint of the part), answers: the likeliest text, or None without
                a chat template; `cut` where a prompt's beginning did not fit; `withheld` instead of a text that repeats
                a dialogue

Prompts are beginnings from the books' held-out split and questions of our own, never what people said. A model taught
on dialogues may still say one over: an answer with a run of eight words (four, where it is shorter) that stands in any
of the run's dialogues is not kept, and telephones, addresses and the like are taken out of the others.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from shridhar_ft.config import Recipe, load_recipe
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.overlap import window_hashes
from shridhar_ft.data.pii import scrub
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.data.words import words_of
from shridhar_ft.evaluation.hf_reader import base_hash, open_base, open_part
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.style import cut
from shridhar_ft.report.collect import SAMPLES
from shridhar_ft.runfolder import Run, fingerprint, part_of, read_json, write_json
from shridhar_ft.scoring import evenly
from shridhar_ft.stages import part_names

TOKENS = 48  # of an answer
WORDS = 24  # of a prompt, and as many of how it truly goes on
TEXTS = 3
QUESTIONS = ("Что такое терпение?", "С чего начать день?")
RUN, FEWEST = (
    8,
    4,
)  # words of a run that counts as said over; an answer of fewer is compared whole, down to the second number
AT_ONCE = 1000  # conversations compared together
VERSION = 1
Say = Callable[[str], None]


def ensure_samples(run: Run, say: Say) -> dict[str, Any] | None:
    """The run's samples; those of a model that is as it was are not made again.

    Args:
        run: A run with data; parts that are not finished are left out.
        say: Told each line.

    Returns:
        What samples.json holds; None where no part has finished.
    """
    if not (run.root / "recipe.yaml").is_file():
        say("samples: the run has no recipe.yaml yet; none are made")
        return None
    recipe = load_recipe(run.root / "recipe.yaml")
    finished = [(name, part) for name in part_names(recipe) if (part := part_of(run.root / name))]
    if not finished:
        say("samples: no part is finished; none are made")
        return None
    file = run.root / SAMPLES
    settings = fingerprint(VERSION, TOKENS, WORDS, TEXTS, QUESTIONS, (part_of(run.data) or {})["fingerprint"])
    held = read_json(file) if file.is_file() else {}
    kept = {one["name"]: one for one in held["models"]} if held.get("settings") == settings else {}
    wanted = {name: part["fingerprint"] for name, part in finished}
    if recipe.model.base is not None:
        wanted = {"base": base_hash(recipe), **wanted}
    waiting = [name for name, made_from in wanted.items() if kept.get(name, {}).get("made_from") != made_from]
    if not waiting and kept.keys() == wanted.keys():
        say("samples: up to date")
        return held
    prompts = _prompts(run)
    made = {name: _answers(recipe, run, name, prompts, say) for name in waiting}
    made = _guarded(run, made)
    models = [
        {"name": name, "made_from": made_from, "answers": made[name]} if name in made else kept[name]
        for name, made_from in wanted.items()
    ]
    found = {
        "settings": settings,
        "tokens": TOKENS,
        "random_base": recipe.model.base is None,
        "prompts": prompts,
        "models": models,
    }
    write_json(file, found)
    return found


def _prompts(run: Run) -> list[dict[str, str]]:
    """Beginnings from the held-out books, spread evenly, and the questions."""
    held: Sequence[SplitName] = ("test", "validation")
    for split in held:
        passages = [
            (work.name, passage)
            for work in works(load_split(run, split))
            for text in work.stretches()
            for passage in cut(text, 2 * WORDS)
        ]
        if passages:
            break
    texts = []
    for work, passage in evenly(passages, TEXTS):
        begin = next(cut(passage, WORDS))
        texts.append({"kind": "text", "work": work, "text": begin, "true": passage[len(begin) :].strip()})
    return [*texts, *({"kind": "question", "text": question} for question in QUESTIONS)]


def _answers(recipe: Recipe, run: Run, name: str, prompts: Sequence[dict[str, str]], say: Say) -> list[dict[str, Any]]:
    """What one model says to all prompts."""
    say(f"samples: {name}, {len(prompts)} prompts")
    reader = open_base(recipe, run, name) if name == "base" else open_part(recipe, run, name, name)
    answers = [_answer(reader, prompt) for prompt in prompts]
    del reader
    gc.collect()  # the next model takes its place
    return answers


def _answer(reader: Reader, prompt: dict[str, str]) -> dict[str, Any]:
    if prompt["kind"] == "question":
        ids = reader.conversation([{"role": "user", "content": prompt["text"]}])
        if ids is None:
            return {"text": None}
    else:
        ids = [*reader.opening, *reader.encode(prompt["text"])]
    limit = min(TOKENS, reader.window // 2)
    room = reader.window - limit
    short = len(ids) > room
    if short:  # the end of a prompt is what is gone on with
        ids = [*reader.opening, *ids[len(ids) - room + len(reader.opening) :]]
    reader.read(ids)
    return {"text": scrub(reader.decode(reader.go_on(limit))).text, **({"cut": True} if short else {})}


# --------------------------------------------------------------------------------------------------- the guard


def _guarded(run: Run, made: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The answers, with `withheld` in the place of those that say a dialogue over."""
    runs: dict[int, list[np.ndarray]] = {}  # words of a run → hashes of an answer's runs
    for answer in (one for answers in made.values() for one in answers if one["text"]):
        length, hashes = _runs_of(answer["text"])
        runs.setdefault(length, []).append(hashes)
    said: dict[int, np.ndarray] = {length: np.empty(0, np.uint64) for length in runs}
    ours = {length: np.unique(np.concatenate(hashes)) for length, hashes in runs.items()}
    for texts in _dialogues(run):
        words = words_of(texts).hashes
        for length, hashes in ours.items():
            said[length] = np.union1d(said[length], np.intersect1d(hashes, window_hashes(words, length)))

    def shown(answer: dict[str, Any]) -> dict[str, Any]:
        if not answer["text"]:
            return answer
        length, hashes = _runs_of(answer["text"])
        return {"withheld": True} if np.isin(hashes, said[length]).any() else answer

    return {name: [shown(answer) for answer in answers] for name, answers in made.items()}


def _runs_of(text: str) -> tuple[int, np.ndarray]:
    """Words of a run by which an answer is judged, and the hashes of its runs; none where it is too short."""
    words = words_of([text]).hashes
    length = min(RUN, max(FEWEST, len(words)))
    return length, window_hashes(words, length)


def _dialogues(run: Run) -> Iterator[list[str]]:
    """What was said in the run's conversations, many at once; a run over the seam of two can only withhold more."""
    for split in SPLITS:
        held = conversations(load_split(run, split))
        while some := list(islice(held, AT_ONCE)):
            yield [message["content"] for _, messages in some for message in messages]
