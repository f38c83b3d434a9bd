"""Rows of the built data, encoded: what the packing of each training part begins with."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from shridhar_ft.config import Recipe
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.load import Work, conversations, load_split, works
from shridhar_ft.data.long_conversations import cut_conversation
from shridhar_ft.data.sources.books import find_books, read_book
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.split import SplitName
from shridhar_ft.data.windows import Encoded
from shridhar_ft.runfolder import Run
from shridhar_ft.tokenizer import encode_book, encode_dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Packing = Literal["documents", "works", "split"]

BATCH_CHARACTERS = 2_000_000  # encoded at once: enough to share out over the cores, about 150 MB while it lasts


def book_documents(
    run: Run, tokenizer: "PreTrainedTokenizerBase", split: SplitName, packing: Packing = "split"
) -> Iterator[Encoded]:
    """The books of a split as documents, which never see one another in a window.

    Args:
        run: The run whose data are read.
        tokenizer: The run's.
        split: train, validation or test.
        packing: The stage's, see `encode_works`.

    Yields:
        Documents, learned throughout.
    """
    for ids in encode_works(works(load_split(run, split)), tokenizer, packing):
        yield Encoded(ids, np.ones(len(ids), dtype=bool))


def encode_works(
    of_works: Iterable[Work], tokenizer: "PreTrainedTokenizerBase", packing: Packing
) -> Iterator[np.ndarray]:
    """Works as the documents that a packing makes of them.

    documents  one document a chapter
    works      one document an author: all stretches of all works in reading order. Each stretch is wrapped, so that
               the model is told where text is missing; works without an author are one author's. Held in memory
               until the last work is read
    split      one document a work, its blocks joined over whatever another split has between them

    Args:
        of_works: Works in reading order.
        tokenizer: With the special tokens.
        packing: The stage's.

    Yields:
        Token ids (int32) of each document; those of `works` in the order in which their authors come first.
    """
    if packing == "works":
        return _shelves(of_works, tokenizer)
    if packing == "documents":
        return encode_books(tokenizer, chain.from_iterable(work.chapters() for work in of_works))
    return encode_books(tokenizer, (work.text for work in of_works))


def _shelves(of_works: Iterable[Work], tokenizer: "PreTrainedTokenizerBase") -> Iterator[np.ndarray]:
    """The works of each author, one after another."""
    authors: list[str] = []  # of each stretch; it runs ahead of the encoding by a batch

    def stretches() -> Iterator[str]:
        for work in of_works:
            for text in work.stretches():
                authors.append(work.author)
                yield text

    shelves: dict[str, list[np.ndarray]] = {}
    for number, ids in enumerate(encode_books(tokenizer, stretches())):
        shelves.setdefault(authors[number], []).append(ids)
    while shelves:  # one shelf after another goes, so that the tokens are not held twice
        yield np.concatenate(shelves.pop(next(iter(shelves))))


def encode_books(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Iterator[np.ndarray]:
    """`encode_book` of each text, many at once on all cores. A text is never cut: tokens could differ at the cuts."""
    whole = encode_book(tokenizer, "")
    opening, end = whole[:-1], whole[-1:]
    for batch in _batches(texts):
        bodies = tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        ).input_ids
        yield from (np.concatenate([opening, np.array(body, dtype=np.int32), end]) for body in bodies)


def _batches(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    """Texts in lists of about `BATCH_CHARACTERS`."""
    held: list[str] = []
    characters = 0
    for text in texts:
        held.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def dialogue_documents(
    run: Run, tokenizer: "PreTrainedTokenizerBase", split: SplitName, context: int, assistant_only: bool
) -> Iterator[Encoded]:
    """One document a conversation, or several where it is longer than the window.

    Args:
        run: The run whose data are read.
        tokenizer: With the chat template.
        split: train, validation or test.
        context: Window length in tokens.
        assistant_only: Whether loss falls on the assistant's words only.
    """
    for _, messages in conversations(load_split(run, split)):
        for part in cut_conversation(messages, partial(encode_dialogue, tokenizer), context):
            yield part if assistant_only else Encoded(part.ids, np.ones(len(part.ids), dtype=bool), part.whole)


def long_text(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """The texts of `eval.long_text`, cleaned and encoded one after another as books: int32, shape (T,); may be empty.

    Cleaned as the books are: an indent or no-break space that training never saw would count as loss.

    Raises:
        UserError: A file is missing, damaged, or not in `eval.encoding`.
    """
    if not recipe.eval.long_text:
        return np.zeros(0, dtype=np.int32)
    check_encoding(recipe.eval.encoding, "eval")
    clean = recipe.data.clean
    books = (
        read_book(file, recipe.eval.encoding, "eval", mojibake_allowed=clean.mojibake)
        for file in find_books(recipe.eval.long_text, "eval.long_text")
    )
    texts = (clean_text(book.text, clean, is_book=True).text for book in books)
    return np.concatenate([encode_book(tokenizer, text) for text in texts])
