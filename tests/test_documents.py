"""Encoded documents: what each packing makes of the books, and a long text that is cleaned as the books are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft import documents
from shridhar_ft.config import load_recipe
from shridhar_ft.data import build
from shridhar_ft.data.load import Block, Work, load_split, works
from shridhar_ft.data.records import Document
from shridhar_ft.data.rows import RowStream, block_row, save_split
from shridhar_ft.data.windows import Encoded, Layout, pack_windows
from shridhar_ft.documents import book_documents, dialogue_documents, encode_books, encode_works, long_text
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import Run, finish_part, run_folder
from shridhar_ft.tokenizer import encode_book


def work(name: str, author: str, *blocks: tuple[int, str, str]) -> Work:
    return Work(name, author, [Block(*block) for block in blocks])


SHELF = [
    work("Утро", "А", (0, "I", "Было утро."), (1, "I", "Шёл дождь."), (2, "II", "Он встал.")),
    work("Письма", "", (0, "", "Друг мой."), (2, "", "Прощай.")),
    work("Вечер", "А", (1, "", "Стемнело."), (2, "X", "Зажгли огонь."), (4, "X", "Уснули.")),
    work("Записки", "", (5, "Конец", "Всё.")),
]


def texts(tokenizer, packing: str, shelf: list[Work] = SHELF) -> list[str]:
    return [tokenizer.decode(ids) for ids in encode_works(iter(shelf), tokenizer, packing)]


def wrapped(*pieces: str) -> str:
    return "".join(f"<|spiritual|>{piece}<|end|>" for piece in pieces)


def test_split_joins_each_work_over_what_is_missing(tokenizer) -> None:
    assert texts(tokenizer, "split") == [
        wrapped("Было утро.\nШёл дождь.\nОн встал."),
        wrapped("Друг мой.\nПрощай."),
        wrapped("Стемнело.\nЗажгли огонь.\nУснули."),
        wrapped("Всё."),
    ]


def test_documents_are_chapters_and_a_gap_ends_one(tokenizer) -> None:
    assert texts(tokenizer, "documents") == [
        *(wrapped("Было утро.\nШёл дождь."), wrapped("Он встал.")),
        *(wrapped("Друг мой."), wrapped("Прощай.")),
        *(wrapped("Стемнело."), wrapped("Зажгли огонь."), wrapped("Уснули.")),
        wrapped("Всё."),
    ]


def test_works_of_an_author_follow_one_another_and_those_of_none_are_one_shelf(tokenizer) -> None:
    assert texts(tokenizer, "works") == [
        wrapped("Было утро.\nШёл дождь.\nОн встал.", "Стемнело.\nЗажгли огонь.", "Уснули."),
        wrapped("Друг мой.", "Прощай.", "Всё."),
    ]
    assert texts(tokenizer, "works", []) == texts(tokenizer, "documents", []) == []


BLOCKS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["", "I", "II"]), st.text("абв \n", min_size=1, max_size=20)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["", "А", "Б"]), BLOCKS), max_size=6), st.integers(8, 60))
def test_every_packing_keeps_every_token_once_and_in_order(tokenizer, shelf, context) -> None:
    made = []
    for index, (author, blocks) in enumerate(shelf):
        numbers = np.cumsum([step for step, _, _ in blocks]).tolist()
        made.append(work(str(index), author, *((n, c, t) for n, (_, c, t) in zip(numbers, blocks, strict=True))))
    expected = {
        "split": [block.text for one in made for block in one.blocks],
        "documents": [block.text for one in made for block in one.blocks],
        "works": [
            b.text
            for author in dict.fromkeys(w.author for w in made)
            for w in made
            if w.author == author
            for b in w.blocks
        ],
    }
    for packing, wanted in expected.items():
        found = list(encode_works(iter(made), tokenizer, packing))
        bare = "".join(tokenizer.decode(ids) for ids in found)
        for sign in ("<|spiritual|>", "<|end|>", "\n"):
            bare = bare.replace(sign, "")
        assert bare == "".join(wanted).replace("\n", "")
        table, ledger = pack_windows([Encoded(ids, np.ones(len(ids), bool)) for ids in found], Layout(context), "x")
        assert ledger.balanced and ledger.came_in == sum(map(len, found))
        rows = table.column("input_ids").to_pylist()
        assert all(len(row) <= context for row in rows)
        assert sorted(t for row in rows for t in row) == sorted(t for ids in found for t in ids.tolist())


def test_books_encoded_together_are_what_they_are_alone(tokenizer, corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    several = [*corpus, "", "Всё.", " \n"]
    monkeypatch.setattr(documents, "BATCH_CHARACTERS", len(corpus[0]) + len(corpus[1]))
    together = list(encode_books(tokenizer, iter(several)))
    assert len(together) == len(several)
    for ids, text in zip(together, several, strict=True):
        assert ids.dtype == np.int32 and np.array_equal(ids, encode_book(tokenizer, text))


def test_works_come_back_from_disk_with_author_chapters_and_gaps(tokenizer, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.data.mkdir()
    with RowStream(run.data / "stream") as rows:
        for one in SHELF:
            document = Document("x.txt", one.name, one.name, "", one.name, one.author)
            for block in one.blocks:
                rows.append(block_row(document, block.number, block.text, block.chapter), len(block.text))
    save_split(run.data / "stream", run.data / "train")
    finish_part(run.data, "test", 0.0)
    assert list(works(load_split(run, "train"))) == SHELF
    for packing in ("documents", "works", "split"):
        found = [tokenizer.decode(document.ids) for document in book_documents(run, tokenizer, "train", packing)]
        assert found == texts(tokenizer, packing)


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
