"""The texts that a model is measured on: a run's held-out books and dialogues, other authors, a long text.

train         what the run trained on: counts for floors, the author's style, the copy guard
calibration   the validation split, for thresholds
held_out      the test split
others        other authors (`eval.others`), which nothing trains on
long_text     `eval.long_text`, or the held-out text where there is none
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from shridhar_ft.config import Recipe
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.sources.books import find_books, read_book, work_name
from shridhar_ft.data.split import SplitName
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.ngrams import CharacterGrams
from shridhar_ft.evaluation.rublimp import rublimp_files
from shridhar_ft.runfolder import Run, file_hash, fingerprint, read_json


class Text(NamedTuple):
    """A stretch of text that runs on without a gap."""

    work: str
    text: str


class Term(NamedTuple):
    """A term of the subject."""

    term: str
    definition: str
    """Empty where the glossary gives none."""


class Unmeasured(Exception):
    """A task cannot be measured with what there is; its text is a sentence for the results."""


@dataclass
class Materials:
    """All texts of an evaluation; tests fill it by hand."""

    held_out: list[Text] = field(default_factory=list)
    calibration: list[Text] = field(default_factory=list)
    train: list[Text] = field(default_factory=list)
    others: list[Text] = field(default_factory=list)
    """One entry a work."""
    long_text: list[Text] = field(default_factory=list)
    dialogues: list[list[dict[str, str]]] = field(default_factory=list)
    """Held-out conversations, each ending with an answer."""
    glossary: list[Term] = field(default_factory=list)
    rublimp: Path | None = None
    """Folder with the CSVs of RuBLiMP."""
    made_from: str = ""
    """Fingerprint of all of it."""

    @cached_property
    def grams(self) -> CharacterGrams | None:
        """Character n-grams of the training text, counted once; None where there is no such text."""
        return CharacterGrams([text.text for text in self.train]) if self.train else None

    def haystack(self) -> list[Text]:
        """Prose for needles: nothing trains on it."""
        return self.long_text or [*self.held_out, *self.calibration]


def materials_of(recipe: Recipe, run: Run) -> Materials:
    """The texts of a run and of its recipe's `eval` section.

    Raises:
        UserError: The run's data are not built, or a text of `eval` cannot be found or read.
    """
    settings = recipe.eval
    files = [file for paths, key in _named(recipe) for file in find_books(paths, key)]
    glossary = Path(settings.glossary) if settings.glossary else None
    if glossary is not None and not glossary.is_file():
        raise UserError(f"eval.glossary: {glossary} does not exist; name a text with one term a line")
    rublimp = Path(settings.rublimp) if settings.rublimp else None
    pairs = rublimp_files(rublimp) if rublimp else []
    test = load_split(run, "test")
    return Materials(
        held_out=_stretches(run, "test"),
        calibration=_stretches(run, "validation"),
        train=_stretches(run, "train"),
        others=list(_texts(recipe, settings.others, "eval.others")),
        long_text=list(_texts(recipe, settings.long_text, "eval.long_text")),
        dialogues=[messages for _, messages in conversations(test)],
        glossary=read_glossary(glossary) if glossary else [],
        rublimp=rublimp,
        made_from=fingerprint(
            read_json(run.data / "part.json")["fingerprint"],
            [(file.name, file_hash(file)) for file in [*files, *([glossary] if glossary else [])]],
            [(file.name, file_hash(file)) for file in pairs] or None,
        ),
    )


def _named(recipe: Recipe) -> Iterator[tuple[list[str], str]]:
    for key in ("others", "long_text"):
        if paths := getattr(recipe.eval, key):
            yield paths, f"eval.{key}"


def _stretches(run: Run, split: SplitName) -> list[Text]:
    return [Text(work.name, text) for work in works(load_split(run, split)) for text in work.stretches()]


def _texts(recipe: Recipe, paths: list[str], key: str) -> Iterator[Text]:
    """Texts outside the run, cleaned as its books are."""
    clean = recipe.data.clean
    for file in find_books(paths, key) if paths else ():
        book = read_book(file, recipe.eval.encoding, "eval", mojibake_allowed=clean.mojibake)
        yield Text(work_name(file), clean_text(book.text, clean, is_book=True).text)


def read_glossary(file: Path) -> list[Term]:
    """Terms, one a line, each with a definition behind a dash or colon if it has one.

    Raises:
        UserError: The file is not UTF-8, or holds no term.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8; save the glossary as UTF-8") from error
    terms = []
    for line in lines:
        for mark in (" — ", " – ", " - ", ": "):
            if mark in line:
                term, _, definition = line.partition(mark)
                break
        else:
            term, definition = line, ""
        if term.strip():
            terms.append(Term(term.strip().lower(), definition.strip()))
    if not terms:
        raise UserError(f"{file}: the glossary is empty; write one term a line")
    return terms
