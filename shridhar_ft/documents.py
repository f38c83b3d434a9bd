"""Rows of the built data, encoded: what the packing of each training part begins with."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shridhar_ft.config import expand
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.split import SplitName
from shridhar_ft.data.windows import Encoded, cut_conversation
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import Run
from shridhar_ft.tokenizer import encode_book, encode_dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from shridhar_ft.config import Eval


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


def long_text(settings: "Eval", tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """The texts of `eval.long_text`, encoded one after another as books: int32, shape (T,); empty without any."""
    if not settings.long_text:
        return np.zeros(0, dtype=np.int32)
    files = expand(settings.long_text, ["*.txt"], "eval.long_text")
    return np.concatenate([encode_book(tokenizer, _read(file, settings.encoding)) for file in files])


def _read(file: Path, encoding: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: byte {error.start} is not {encoding}; say the file's encoding with eval.encoding=…"
        ) from error
