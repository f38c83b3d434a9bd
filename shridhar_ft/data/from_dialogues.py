"""Dialogues on their way into the splits: read, cleaned and normalised, then freed of repeats and drawn."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from shridhar_ft import config_data
from shridhar_ft.data.account import SourceAccount
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.conversations import normalise
from shridhar_ft.data.duplicates import DuplicateFinder
from shridhar_ft.data.records import Dialogue, Message
from shridhar_ft.data.rows import RowStream, dialogue_row, read_stream
from shridhar_ft.data.sources.plain_text import check_in_order
from shridhar_ft.data.split import SplitName, allowance, assign, content_key

SAMPLE = 200_000  # characters of a source that are looked at for wrong decoding


def in_order(dialogues: Iterable[Dialogue], key: str, mojibake_allowed: bool) -> Iterator[Dialogue]:
    """Pass dialogues on, and refuse the source if what is said in the first ones was decoded wrongly.

    Args:
        dialogues: As they are read.
        key: Recipe key of the source.
        mojibake_allowed: Let it pass, because cleaning repairs it.

    Raises:
        UserError: It was; none of it is quoted.
    """
    sample: list[str] = []
    size = 0
    for dialogue in dialogues:
        if size < SAMPLE:
            sample += [message.content for message in dialogue.messages]
            size += sum(len(message.content) for message in dialogue.messages)
            if size >= SAMPLE:
                check_in_order("\n".join(sample), key, mojibake_allowed)
        yield dialogue
    if size < SAMPLE:
        check_in_order("\n".join(sample), key, mojibake_allowed)


def stage_dialogues(dialogues: Iterable[Dialogue], clean: config_data.Clean, rows: RowStream) -> list[SourceAccount]:
    """Clean and normalise dialogues and append those of which something is left.

    Args:
        dialogues: As they were read, those of one file one after another.
        clean: Which steps are on.
        rows: Where they go.

    Returns:
        The account of each file.
    """
    accounts: dict[str, SourceAccount] = {}
    ids: Counter[str] = Counter()
    for name, of_file in groupby(dialogues, key=attrgetter("source")):
        file = name
        while file in accounts:  # another folder's file of the same name
            file += "'"
        account = accounts[file] = SourceAccount("dialogues", file)
        for dialogue in of_file:
            if messages := _conversation(dialogue, clean, account):
                ids[dialogue.id] += 1
                id_ = dialogue.id if ids[dialogue.id] == 1 else f"{dialogue.id}~{ids[dialogue.id]}"
                rows.append(dialogue_row(file, id_, messages), sum(len(m.content) for m in messages))
    return list(accounts.values())


def _conversation(dialogue: Dialogue, clean: config_data.Clean, account: SourceAccount) -> tuple[Message, ...]:
    """The cleaned and normalised turns, none if the dialogue is dropped; what was done is booked."""
    ledger = account.ledger
    account.dialogues_in += 1
    turns = []
    for message in dialogue.messages:
        ledger.characters_in += len(message.content)
        cleaned = clean_text(message.content, clean, is_book=False)
        account.take(cleaned)
        turns.append(Message(message.role, cleaned.text))
    normalised = normalise(turns)
    ledger.removed.update(normalised.removed)
    ledger.added.update(normalised.added)
    account.turns.update(normalised.turns)
    if normalised.dropped:
        account.dropped[normalised.dropped] += 1
    return normalised.messages


def deal_dialogues(
    stream: Path,
    accounts: Sequence[SourceAccount],
    split: config_data.Split,
    seen: DuplicateFinder,
    streams: Mapping[SplitName, RowStream],
) -> None:
    """Drop staged conversations that stood before, draw the others' splits, and append them.

    Args:
        stream: What `stage_dialogues` filled.
        accounts: What it returned; they are completed.
        split: Shares and seed.
        seen: Conversations of the sources before; these ones' are added.
        streams: Where the rows go.
    """
    by_source = {account.source: account for account in accounts}
    units: dict[str, list[tuple[str, int]]] = {account.source: [] for account in accounts}
    stays: list[bool] = []
    for batch in read_stream(stream):
        for source, turns in zip(batch["source"].to_pylist(), batch["messages"].to_pylist(), strict=True):
            messages = [Message(turn["role"], turn["content"]) for turn in turns]
            size = sum(len(message.content) for message in messages)
            account = by_source[source]
            reason = seen.of_conversation(messages)
            stays.append(reason is None)
            if reason:
                account.dropped[reason] += 1
                account.ledger.removed[reason] += size
            else:
                key = content_key("\x1e".join(f"{message.role}\x1f{message.content}" for message in messages))
                units[source].append((key, size))
    names: list[SplitName] = []
    for source, account in by_source.items():  # in the order of the stream
        account.units = [size for _, size in units[source]]
        account.ledger.kept = sum(account.units)
        account.pieces = len(account.units)
        account.allowances = [allowance(account.units)]
        names += assign(units[source], split, group=source)
    _append(stream, stays, names, streams)


def _append(
    stream: Path, stays: Sequence[bool], names: Sequence[SplitName], streams: Mapping[SplitName, RowStream]
) -> None:
    """Append the staged conversations that stay to their splits' streams."""
    import pyarrow as pa

    drawn = iter(names)
    places = [next(drawn) if stay else None for stay in stays]
    at = 0
    for batch in read_stream(stream):
        here = places[at : at + batch.num_rows]
        for name, rows in streams.items():
            rows.append_batch(batch.filter(pa.array([place == name for place in here], pa.bool_())))
        at += batch.num_rows
    assert at == len(places) and next(drawn, None) is None, (at, len(places))
