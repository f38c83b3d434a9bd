"""Builds a run's data: sources -> clean -> blocks and conversations -> split -> Arrow, with report and receipts.

Books go through memory one work at a time, dialogues one batch at a time: those of a file are cleaned into a
stream on disk first, as the draw of the split needs all their hashes and sizes, and are dealt out from there.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from shridhar_ft import config
from shridhar_ft.data.account import (
    SourceAccount,
    build_report,
    check_none_empty,
    summary,
    total,
    write_ledger,
    write_split,
)
from shridhar_ft.data.blocks import block_limit, cut_blocks
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.conversations import normalise
from shridhar_ft.data.measure import sizes
from shridhar_ft.data.overlap import shared_runs
from shridhar_ft.data.records import Dialogue, Document, Message
from shridhar_ft.data.rows import RowStream, block_row, dialogue_row, read_stream, save_split
from shridhar_ft.data.sources.books import book_files, read_books
from shridhar_ft.data.sources.dialogues import dialogue_files, read_dialogues
from shridhar_ft.data.split import SPLITS, SplitName, assign, content_key
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import Run, file_hash, fingerprint, finish_part, is_current, publishing, write_json

FORMAT = 1  # raise it when the same input gives other rows than before

Say = Callable[[str], None]
Streams = Mapping[SplitName, RowStream]


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
    settings = data.model_dump(mode="json")
    if data.books:
        settings["books"]["paths"] = _contents(book_files(data.books))
    for index, source in enumerate(data.dialogues):
        settings["dialogues"][index]["paths"] = _contents(dialogue_files(source, _key(index)))
    return fingerprint(FORMAT, settings)


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
    with publishing(run.data) as folder:
        sources = _write_splits(recipe.data, folder)
        measured = sizes(folder)
        check_none_empty(sources, measured, split)
        shared = shared_runs(folder)
        report = build_report(sources, measured)
        write_json(folder / "report.json", report)
        write_ledger(folder / "receipts" / "ledger.json", sources, measured)
        write_split(folder / "receipts" / "split.json", sources, measured, shared, split)
        finish_part(folder, made_from, time.perf_counter() - started, splits=report["splits"])
    for line in summary(sources, measured, shared):
        say(line)
    return report


def _contents(files: list[Path]) -> list[tuple[str, str]]:
    return [(file.name, file_hash(file)) for file in files]


def _key(index: int) -> str:
    return f"data.dialogues.{index}"


def _write_splits(data: config.Data, folder: Path) -> list[SourceAccount]:
    """Write all rows into `folder/{train,validation,test}`, and account for them."""
    files = {name: folder / f"{name}.arrow" for name in SPLITS}
    sources: list[SourceAccount] = []
    with ExitStack() as stack:
        streams = {name: stack.enter_context(RowStream(file)) for name, file in files.items()}
        if data.books:
            sources += [_write_work(document, data, streams) for document in read_books(data.books)]
        seen: set[str] = set()
        for index, source in enumerate(data.dialogues):
            accounts = list(_write_dialogues(source, _key(index), data, seen, streams, folder / "staged.arrow"))
            _check_any_left(accounts, _key(index))
            sources += accounts
    for name, file in files.items():
        save_split(file, folder / name)
    return sources


# -------------------------------------------------------------------------------------------------- books


def _write_work(document: Document, data: config.Data, streams: Streams) -> SourceAccount:
    account = SourceAccount("books", document.source)
    ledger = account.ledger
    text = _cleaned(document.text, data.clean, account)
    ledger.characters_in = len(document.text)
    if not text.strip():
        raise UserError(
            f"{document.source}: nothing but contents and front matter is in the file; take it out of "
            f"data.books.paths, or set data.clean.contents=false and data.clean.front_matter=false"
        )
    blocks = cut_blocks(text, block_limit(len(text), data.split))
    account.units = [len(block) for block in blocks]
    ledger.kept = sum(account.units)
    ledger.removed["cuts between blocks"] += len(blocks) - 1
    keys = [content_key(block) for block in blocks]
    names = assign(list(zip(keys, account.units, strict=True)), data.split, group=document.work)
    for number, (name, block) in enumerate(zip(names, blocks, strict=True)):
        streams[name].append(block_row(document.source, document.work, number, block), len(block))
    return account


def _cleaned(text: str, clean: config.Clean, account: SourceAccount) -> str:
    """The cleaned text; what cleaning did is booked."""
    cleaned = clean_text(text, clean, is_book=account.kind == "books")
    account.ledger.changed.update(cleaned.changed)
    for step, by in cleaned.shortened.items():
        account.ledger.shortened(step, by)
    return cleaned.text


# ---------------------------------------------------------------------------------------------- dialogues


def _write_dialogues(
    source: config.Dialogues, key: str, data: config.Data, seen: set[str], streams: Streams, staged: Path
) -> Iterator[SourceAccount]:
    """Write the dialogues of one source, and account for each of its files.

    Args:
        seen: Keys of the conversations written so far; an exact duplicate is dropped, whatever source it is in.
        staged: Where the conversations of one file wait for the draw.
    """
    for file, dialogues in groupby(read_dialogues(source, key), key=attrgetter("source")):
        account = SourceAccount("dialogues", file)
        keys = []
        with RowStream(staged) as stream:
            for dialogue in dialogues:
                messages = _conversation(dialogue, data.clean, account)
                if not messages:
                    continue
                size = sum(len(message.content) for message in messages)
                unit = content_key("\x1e".join(f"{message.role}\x1f{message.content}" for message in messages))
                if unit in seen:
                    account.dropped["duplicate"] += 1
                    account.ledger.removed["duplicate"] += size
                    continue
                seen.add(unit)
                keys.append(unit)
                account.units.append(size)
                stream.append(dialogue_row(file, dialogue.id, messages), size)
        account.ledger.kept = sum(account.units)
        _deal(staged, assign(list(zip(keys, account.units, strict=True)), data.split, group=file), streams)
        yield account


def _conversation(dialogue: Dialogue, clean: config.Clean, account: SourceAccount) -> tuple[Message, ...]:
    """The cleaned and normalised turns, none if the dialogue is dropped; what was done is booked."""
    ledger = account.ledger
    account.dialogues_in += 1
    ledger.characters_in += sum(len(message.content) for message in dialogue.messages)
    turns = [Message(message.role, _cleaned(message.content, clean, account)) for message in dialogue.messages]
    normalised = normalise(turns)
    ledger.removed.update(normalised.removed)
    ledger.added.update(normalised.added)
    account.turns.update(normalised.turns)
    if normalised.dropped:
        account.dropped[normalised.dropped] += 1
    return normalised.messages


def _deal(staged: Path, names: list[SplitName], streams: Streams) -> None:
    """Append staged conversations to their splits' streams, and remove the stage."""
    import pyarrow as pa

    at = 0
    for batch in read_stream(staged):
        drawn = names[at : at + batch.num_rows]
        for name, stream in streams.items():
            stream.append_batch(batch.filter(pa.array([one == name for one in drawn], pa.bool_())))
        at += batch.num_rows
    assert at == len(names), (at, len(names))
    staged.unlink()


def _check_any_left(accounts: list[SourceAccount], key: str) -> None:
    """Refuse a source of which normalisation leaves nothing."""
    whole = total(accounts, "dialogues")
    if not whole.units:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in whole.dropped.items())
        raise UserError(
            f"{key}: none of its {whole.dialogues_in:,} dialogues is left ({reasons}); "
            f"say who asks and who answers with {key}.roles, or take the source away"
        )
