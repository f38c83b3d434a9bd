"""Encoded documents: works joined in reading order, and a long text that is cleaned as the books are."""

from pathlib import Path

import numpy as np
import pytest

from shridhar_ft.config import load_recipe
from shridhar_ft.data import build
from shridhar_ft.documents import book_documents, dialogue_documents, long_text
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import run_folder


def test_the_long_text_is_cleaned_as_the_books_are(tokenizer, tmp_path: Path) -> None:
    plain, dirty = tmp_path / "plain.txt", tmp_path / "dirty.txt"
    plain.write_text("Было утро.\nШёл дождь.\n", encoding="utf-8")
    dirty.write_bytes("\ufeff   Было\u00a0ут\u00adро.\r\n  Шёл  дождь.\r\n".encode())
    ids = [long_text(load_recipe("demo", [f"eval.long_text={file}"]), tokenizer) for file in (plain, dirty)]
    assert np.array_equal(*ids)
    assert tokenizer.decode(ids[0]) == "<|spiritual|>Было утро.\nШёл дождь.<|end|>"
    assert len(long_text(load_recipe("demo", ["eval.long_text=[]"]), tokenizer)) == 0


def test_a_long_text_in_another_encoding_is_told(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "koi.txt").write_bytes("Утро".encode("koi8-r"))
    recipe = load_recipe("demo", [f"eval.long_text={tmp_path / 'koi.txt'}"])
    with pytest.raises(UserError, match=r"koi\.txt: byte 0 .* eval\.encoding="):
        long_text(recipe, tokenizer)
    assert len(
        long_text(load_recipe("demo", [f"eval.long_text={tmp_path / 'koi.txt'}", "eval.encoding=koi8-r"]), tokenizer)
    )


def test_books_and_dialogues_come_as_documents(tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("demo", ["name=x"])
    run = run_folder("x")
    build.build(recipe, run, lambda line: None)
    books = list(book_documents(run, tokenizer, "train"))
    assert len(books) == 4
    for book in books:
        text = tokenizer.decode(book.ids)
        assert text.startswith("<|spiritual|>") and text.endswith("<|end|>") and book.learned.all()
    some = next(dialogue_documents(run, tokenizer, "train", 512, assistant_only=True))
    every = next(dialogue_documents(run, tokenizer, "train", 512, assistant_only=False))
    assert 0 < some.learned.sum() < every.learned.sum() == len(every.ids)
