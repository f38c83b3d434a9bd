"""Builds a run's data: sources -> clean -> blocks and conversations -> split -> Arrow, with report and receipts.

    stage        each source is read and cleaned into a stream of its own; a build that is stopped goes on from there
    deal         blocks and conversations are drawn; passages and conversations that stood before are dropped
    decontaminate  what train shares with validation and test in runs of 13 words is taken out
    measure      the receipts count what then lies on disk

Books go through memory one work at a time, dialogues one batch at a time.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shridhar_ft import config, config_data
from shridhar_ft.data.account import SourceAccount, take_decontaminated, total
from shridhar_ft.data.decontaminate import decontaminate
from shridhar_ft.data.duplicates import DuplicateFinder
from shridhar_ft.data.from_books import deal_works, stage_works
from shridhar_ft.data.from_dialogues import deal_dialogues, in_order, stage_dialogues
from shridhar_ft.data.measure import Kind, sizes
from shridhar_ft.data.overlap import shared_runs
from shridhar_ft.data.rows import RowStream, save_split
from shridhar_ft.data.sources.books import book_files, read_books
from shridhar_ft.data.sources.counts import SERVICE, RowCounts
from shridhar_ft.data.sources.dialogues import read_dialogues, row_files
from shridhar_ft.data.sources.texts import read_texts
from shridhar_ft.data.split import SPLITS
from shridhar_ft.data.staging import Staged, Staging
from shridhar_ft.data.statement import build_report, check_none_empty, summary, write_ledger, write_split
from shridhar_ft.errors import UserError
from shridhar_ft.progress import counted, quiet
from shridhar_ft.runfolder import Run, file_hash, fingerprint, finish_part, is_current, publishing, write_json

FORMAT = 2  # raise it when the same input gives other rows than before
STAGING = ".staging"  # in the run folder, while a build is under way

Say = Callable[[str], None]


class Source(NamedTuple):
    """One source of the recipe."""

    key: str
    """Its recipe key, e.g. `data.dialogues.0`."""
    kind: Kind
    settings: config_data.Section
    made_from: str
    """Fingerprint of its settings and the contents of its files."""
    read: Callable[[RowStream], list[SourceAccount]]
    """Reads and cleans it into a stream."""


def ensure(recipe: config.Recipe, run: Run, say: Say) -> Path:
    """Build the run's data unless they are there and made from the same settings and files.

    Returns:
        The data folder.

    Raises:
        As `build`.
    """
    if is_current(run.data, inputs_fingerprint(recipe)):
        say("data: up to date")
    else:
        build(recipe, run, say)
    return run.data


def inputs_fingerprint(recipe: config.Recipe) -> str:
    """What the data are made from: the settings under `data`, and names and contents of the source files.

    Folders are no part of it: a shelf that moved is the same shelf.

    Raises:
        UserError: A path matches nothing.
    """
    data = recipe.data
    rest = data.model_dump(mode="json", include={"split", "duplicates"})
    return fingerprint(FORMAT, rest, [source.made_from for source in sources_of(data, quiet)])


def sources_of(data: config_data.Data, say: Say) -> list[Source]:
    """The sources of a recipe in their order: books, texts, dialogues; `say` takes what reading them shows."""
    clean = data.clean.model_dump(mode="json")

    def made_from(settings: config_data.Section, files: list[Path]) -> str:
        contents = [(file.name, file_hash(file)) for file in files]
        return fingerprint(FORMAT, clean, settings.model_dump(mode="json", exclude={"paths"}), contents)

    found: list[Source] = []
    if data.books:
        read = partial(_read_books, data.books, data.clean, say)
        found.append(Source("data.books", "books", data.books, made_from(data.books, book_files(data.books)), read))
    for index, texts in enumerate(data.texts):
        key = f"data.texts.{index}"
        read = partial(_read_texts, texts, data.clean, key)
        found.append(Source(key, "books", texts, made_from(texts, row_files(texts, key)), read))
    for index, dialogues in enumerate(data.dialogues):
        key = f"data.dialogues.{index}"
        read = partial(_read_dialogues, dialogues, data.clean, key)
        found.append(Source(key, "dialogues", dialogues, made_from(dialogues, row_files(dialogues, key)), read))
    return found


def build(recipe: config.Recipe, run: Run, say: Say) -> dict[str, dict[str, Any]]:
    """Make `runs/<name>/data`: three splits, report.json, the ledger and split receipts; whole or not at all.

    Args:
        recipe: The recipe; only `data` of it matters here.
        run: Where the data go.
        say: Takes the lines that tell what was read, dropped and drawn; none of them quotes the sources.

    Returns:
        What report.json holds.

    Raises:
        UserError: Something of the input is wrong, or a wanted split would be empty.
        CheckFailed: A receipt does not hold.
        DiskFailed: The disk is full or fails.
    """
    started = time.perf_counter()
    made_from = inputs_fingerprint(recipe)
    split = recipe.data.split
    with publishing(run.data) as folder, Staging(run.root / STAGING) as staging:
        accounts = _write_splits(recipe.data, folder, staging, say)
        if split.decontaminate:
            done = decontaminate(folder, split)
            take_decontaminated(accounts, done)
        for name in SPLITS:
            save_split(folder / f"{name}.arrow", folder / name)
        measured = sizes(folder)
        check_none_empty(accounts, measured, split)
        shared = shared_runs(folder)
        report = build_report(accounts, measured, folder)
        write_json(folder / "report.json", report)
        write_ledger(folder / "receipts" / "ledger.json", accounts, measured)
        write_split(folder / "receipts" / "split.json", accounts, measured, shared, split)
        finish_part(folder, made_from, time.perf_counter() - started, splits=report["splits"])
    for line in summary(accounts, measured, shared):
        say(line)
    return report


def _write_splits(data: config_data.Data, folder: Path, staging: Staging, say: Say) -> list[SourceAccount]:
    """Write all rows into `folder/{train,validation,test}.arrow`, and account for them."""
    works: list[Staged] = []
    dialogues: list[tuple[Staged, str]] = []
    seen = DuplicateFinder(data.duplicates)
    with ExitStack() as stack:
        streams = {name: stack.enter_context(RowStream(folder / f"{name}.arrow")) for name in SPLITS}
        for source in sources_of(data, say):
            staged = staging.source(source.made_from, source.read)
            if not staged.fresh:
                say(f"{source.key}: read already, by the build that was stopped")
            works += [staged] if source.kind == "books" else []
            dialogues += [(staged, source.key)] if source.kind == "dialogues" else []
        for held_out in (True, False):
            for staged in works:
                deal_works(staged.stream, staged.accounts, data.split, seen, streams, held_out)
        for staged, key in dialogues:
            deal_dialogues(staged.stream, staged.accounts, data.split, seen, streams)
            _check_any_left(staged.accounts, key)
    return [account for staged in (*works, *(one for one, _ in dialogues)) for account in staged.accounts]


def _read_books(books: config_data.Books, clean: config_data.Clean, say: Say, rows: RowStream) -> list[SourceAccount]:
    notes: list[str] = []
    works = read_books(books, notes.append, mojibake_allowed=clean.mojibake)
    accounts = stage_works(counted(works, "data.books: works"), clean, "data.books", rows)
    for note in notes:
        say(f"data: {note}")
        for account in accounts:
            if note.startswith(f"{account.source}: "):
                account.notes.append(note.removeprefix(f"{account.source}: "))
    return accounts


def _read_texts(texts: config_data.Texts, clean: config_data.Clean, key: str, rows: RowStream) -> list[SourceAccount]:
    counts = RowCounts()
    works = counted(read_texts(texts, key, counts), f"{key}: texts")
    return _with_counts(stage_works(works, clean, key, rows), counts)


def _read_dialogues(
    source: config_data.Dialogues, clean: config_data.Clean, key: str, rows: RowStream
) -> list[SourceAccount]:
    counts = RowCounts()
    read = in_order(read_dialogues(source, key, counts, rows.file.parent), key, clean.mojibake)
    dialogues = counted(read, f"{key}: conversations")
    return _with_counts(stage_dialogues(dialogues, clean, rows), counts)


def _with_counts(accounts: list[SourceAccount], counts: RowCounts) -> list[SourceAccount]:
    """Book what reading the rows counted; the rows of a source are counted together, on its first file."""
    for account in accounts:
        account.notes += [note for file, note in counts.notes.items() if file == account.source]
    if accounts:
        accounts[0].rows, accounts[0].rows_dropped = counts.rows_in, counts.dropped
        accounts[0].turns["sessions cut"] += counts.sessions_cut
        accounts[0].turns[SERVICE] += counts.turns_dropped
        accounts[0].turns = +accounts[0].turns
    return accounts


def _check_any_left(accounts: list[SourceAccount], key: str) -> None:
    """Refuse a source of which normalisation leaves nothing."""
    whole = total(accounts, "dialogues")
    if not whole.units:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in whole.dropped.items())
        raise UserError(
            f"{key}: none of its {whole.dialogues_in:,} dialogues is left ({reasons}); "
            f"say who asks and who answers with {key}.roles, or take the source away"
        )
