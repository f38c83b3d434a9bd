"""Rows of the built data, encoded: what the packing of each training part begins with."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from shridhar_ft.config import Recipe
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.sources.decoding import check_encoding, decode
from shridhar_ft.data.split import SplitName
from shridhar_ft.data.windows import Encoded, cut_conversation
from shridhar_ft.paths import expand
from shridhar_ft.runfolder import Run
from shridhar_ft.tokenizer import encode_book, encode_dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def book_documents(run: Run, tokenizer: "PreTrainedTokenizerBase", split: SplitName) -> Iterator[Encoded]:
    """One document a work: its blocks of this split in reading order, so that long windows have long documents."""
    for _, blocks in works(load_split(run, split)):
        ids = encode_book(tokenizer, "\n".join(blocks))
        yield Encoded(ids, np.ones(len(ids), dtype=bool))


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
            yield part if assistant_only else Encoded(part.ids, np.ones(len(part.ids), dtype=bool), part.cut)


def long_text(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """The texts of `eval.long_text`, cleaned and encoded one after another as books: int32, shape (T,); may be empty.

    Cleaned as the books are: an indent or no-break space that training never saw would count as loss.

    Raises:
        UserError: A file is missing, or not in `eval.encoding`.
    """
    if not recipe.eval.long_text:
        return np.zeros(0, dtype=np.int32)
    files = expand(recipe.eval.long_text, ["*.txt"], "eval.long_text")
    check_encoding(recipe.eval.encoding, "eval")
    texts = [decode(file.read_bytes(), recipe.eval.encoding, str(file), "eval") for file in files]
    return np.concatenate([encode_book(tokenizer, clean_text(t, recipe.data.clean, is_book=True).text) for t in texts])
