"""Books and texts on their way into the splits: read and cleaned whole, then cut, drawn, and freed of repeats."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from shridhar_ft import config_data
from shridhar_ft.data.account import EXAMPLES, SourceAccount
from shridhar_ft.data.blocks import block_limit, chapter_titles, cut_blocks
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.duplicates import DuplicateFinder
from shridhar_ft.data.records import Document
from shridhar_ft.data.rows import RowStream, block_row, read_stream, work_row
from shridhar_ft.data.split import SPLITS, SplitName, allowance, assign, content_key
from shridhar_ft.errors import UserError

SHOWN_WORKS = 200  # the report's examples are from the first works: finding them costs more than cleaning a short text


def stage_works(
    documents: Iterable[Document], clean: config_data.Clean, key: str, rows: RowStream
) -> list[SourceAccount]:
    """Clean works and append each one whole.

    Args:
        documents: Works as they were read, those of one file one after another.
        clean: Which steps are on.
        key: Recipe key of their source, e.g. `data.books`.
        rows: Where they go.

    Returns:
        The account of each file.

    Raises:
        UserError: Nothing of a work is left.
    """
    accounts: dict[str, SourceAccount] = {}
    for number, document in enumerate(documents):
        account = accounts.setdefault(document.source, SourceAccount("books", document.source))
        account.ledger.characters_in += len(document.text)
        cleaned = clean_text(document.text, clean, is_book=True, examples=EXAMPLES if number < SHOWN_WORKS else 0)
        account.take(cleaned, document.work)
        if not cleaned.text.strip():
            raise UserError(
                f"{document.source}: nothing but contents and front matter is in the file; take it out of "
                f"{key}.paths, or set data.clean.contents=false and data.clean.front_matter=false"
            )
        titles = [clean_text(title, clean, is_book=True).text for title in document.chapters]
        rows.append(work_row(document, cleaned.text, titles), len(cleaned.text))
    return list(accounts.values())


def deal_works(
    stream: Path,
    accounts: Sequence[SourceAccount],
    split: config_data.Split,
    seen: DuplicateFinder,
    streams: Mapping[SplitName, RowStream],
    held_out: bool,
) -> None:
    """Cut staged works into blocks, draw each block's split, take out what stood before, and append the rows.

    The draw comes before the repeats go: a block is drawn by what its own work holds, so that nothing moves when
    another work is added. And held-out blocks of all works go before those of train: of a passage that stands in both,
    train loses its copy, whichever work comes first.

    Args:
        stream: What `stage_works` filled.
        accounts: What it returned; they are completed.
        split: Shares and seed.
        seen: Passages that were dealt before; these ones are added.
        streams: Where the rows go.
        held_out: Whether the blocks of validation and test are dealt now, or those of train.
    """
    by_source = {account.source: account for account in accounts}
    for document in _works(stream):
        account = by_source[document.source]
        blocks = cut_blocks(document.text, block_limit(len(document.text), split), document.chapters)
        sizes = [len(block) for block in blocks]
        names = assign(list(zip(map(content_key, blocks), sizes, strict=True)), split, group=document.work)
        if held_out:
            account.ledger.removed["cuts between blocks"] += len(blocks) - 1
            account.allowances.append(allowance(sizes))
        titles = list(chapter_titles(blocks, document.chapters))
        numbers = [number for number, name in enumerate(names) if (name != SPLITS[0]) is held_out]
        kept, repeats = seen.without_repeats([blocks[number] for number in numbers])
        account.take_repeats(repeats, document.work)
        for number, block in zip(numbers, kept, strict=True):
            name, title = names[number], titles[number]
            if block:
                account.pieces += 1
                account.units.append(len(block))
                account.ledger.kept += len(block)
                streams[name].append(block_row(document, number, block, title), len(block))


def _works(stream: Path) -> Iterator[Document]:
    for batch in read_stream(stream):
        for row in batch.to_pylist():
            chapters = tuple(filter(None, row["chapter"].split("\n")))
            yield Document(row["source"], row["work"], row["work"], row["text"], row["title"], row["author"], chapters)
