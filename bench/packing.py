"""Measures tokenising and packing of books by strategy, and TRL's packing of the same token lists beside it.

python bench/packing.py my/books/*.txt --tokens 15_000_000 --context 8192

The text is the books again and again, each time with other words spoilt, so that no cache of words makes it easy; every
file's folder stands for its author. One tokenizer of 50,000 tokens is trained on the books as they are. All times are
from start to files on disk; strategies and TRL take turns in every round.
"""

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shridhar_ft import config, config_data
from shridhar_ft.data.blocks import block_limit, chapter_titles, cut_blocks
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.records import Document
from shridhar_ft.data.rows import RowStream, block_row, save_split
from shridhar_ft.data.split import assign, content_key
from shridhar_ft.data.windows import Layout, load_windows, save_windows
from shridhar_ft.documents import Packing, book_documents
from shridhar_ft.progress import hush_libraries
from shridhar_ft.runfolder import Run, begin_peak_rss, finish_part, peak_rss_bytes
from shridhar_ft.tokenizer import encode_book, load_tokenizer, train_tokenizer

STRATEGIES: tuple[Packing, ...] = ("documents", "works", "split")
SPOILT = 0.02  # share of the words


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("books", nargs="+", type=Path, help="text files in UTF-8")
    ask.add_argument("--tokens", type=int, default=15_000_000, help="size of the train split in tokens")
    ask.add_argument("--context", type=int, default=8192, help="window length in tokens")
    ask.add_argument("--rounds", type=int, default=3, help="how often each one is measured")
    ask.add_argument("--tokenizer", type=Path, help="folder of a tokenizer (default: train one)")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    hush_libraries()
    texts = {file: clean_text(file.read_text("utf-8"), config_data.Clean(), is_book=True).text for file in given.books}
    if given.tokenizer:
        tokenizer = load_tokenizer(given.tokenizer)
    else:
        tokenizer = train_tokenizer(list(texts.values()), config.TrainTokenizer(), given.context)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        size = write_train_split(run, texts, tokenizer, given.tokens)
        documents = [document.ids for document in book_documents(run, tokenizer, "train", "documents")]
        rows = []
        for number in range(given.rounds):
            for strategy in STRATEGIES:
                rows.append(measure(strategy, number, lambda s=strategy: ours(run, tokenizer, s, given.context)))
            for strategy in ("bfd", "bfd_split"):
                rows.append(
                    measure(f"trl {strategy}", number, lambda s=strategy: trl(run, documents, s, given.context))
                )
    if given.json:
        print(json.dumps({**size, "rows": rows}, indent=1))
        return
    print(
        f"{size['works']} works, {size['blocks']:,} blocks, {size['characters']:,} characters; tokens of the rows below"
    )
    print(
        f"{'packing':<15}{'tokens':>12}{'encode s':>10}{'pack s':>8}{'windows':>9}{'filled':>9}{'lost':>10}"
        f"{'peak MB':>9}"
    )
    for row in rows:
        encoding = f"{row['encode']:.1f}" if row["encode"] is not None else "—"
        print(
            f"{row['packing']:<15}{row['tokens']:>12,}{encoding:>10}{row['pack']:>8.2f}{row['windows']:>9,}"
            f"{row['filled']:>9.2%}{row['lost']:>10,}{row['peak']:>9,}"
        )


def write_train_split(run: Run, texts: dict[Path, str], tokenizer: Any, tokens: int) -> dict[str, int]:  # noqa: ANN401
    """A train split of about so many tokens, as `data build` leaves it: eight of ten blocks of every work."""
    split = config_data.Split()
    one_round = sum(len(encode_book(tokenizer, text)) for text in texts.values()) * split.train
    size = {"works": 0, "blocks": 0, "characters": 0}
    stream = run.data / "train.arrow"
    run.data.mkdir(parents=True)
    with RowStream(stream) as rows:
        for file, text, share in copies(texts, tokens / one_round):
            work = f"{file.stem}-{size['works']}"
            blocks = cut_blocks(text, block_limit(len(text), split))
            drawn = assign([(content_key(block), len(block)) for block in blocks], split, group=work)
            document = Document(file.name, work, work, text, file.stem, file.parent.name)
            keep = int(len(blocks) * share)
            for number, (block, chapter) in enumerate(zip(blocks[:keep], chapter_titles(blocks), strict=False)):
                if drawn[number] == "train":
                    rows.append(block_row(document, number, block, chapter), len(block))
                    size["blocks"] += 1
                    size["characters"] += len(block)
            size["works"] += 1
    save_split(stream, run.data / "train")
    finish_part(run.data, "bench", 0.0)
    return size


def copies(texts: dict[Path, str], rounds: float) -> Iterator[tuple[Path, str, float]]:
    """The books so many times over, with words spoilt, and which share of the last time is wanted."""
    draw = random.Random(108)
    letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя"

    def spoil(match: re.Match[str]) -> str:
        word = match[0]
        at = draw.randrange(len(word))
        return word[:at] + draw.choice(letters) + word[at + 1 :] if draw.random() < SPOILT else word

    while rounds > 0:
        for file, text in texts.items():
            yield file, re.sub(r"\w+", spoil, text), min(rounds, 1.0)
        rounds -= 1


def measure(packing: str, number: int, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    begin_peak_rss()
    return {"round": number, "packing": packing, **do(), "peak": peak_rss_bytes() // 1_000_000}


def ours(run: Run, tokenizer: Any, strategy: Packing, context: int) -> dict[str, Any]:  # noqa: ANN401
    started = time.perf_counter()
    documents = list(book_documents(run, tokenizer, "train", strategy))
    encoded = time.perf_counter()
    folder = run.root / "windows"
    (folder / "ledger.json").unlink(missing_ok=True)  # else the windows of the round before would do
    save_windows(folder, documents, Layout(context), "not learned", strategy)
    packed = time.perf_counter()
    _, ledger = load_windows(folder)
    return {
        "tokens": ledger["in"],
        "encode": encoded - started,
        "pack": packed - encoded,
        "windows": ledger["windows"],
        "filled": ledger["trained"] and (ledger["trained"] + ledger["masked"]) / (ledger["windows"] * context),
        "lost": ledger["truncated"] + ledger["dropped"],
    }


def trl(run: Run, documents: list[np.ndarray], strategy: str, context: int) -> dict[str, Any]:
    from datasets import Dataset
    from trl import pack_dataset

    started = time.perf_counter()
    packed = pack_dataset(Dataset.from_dict({"input_ids": documents}), context, strategy)
    packed.save_to_disk(run.root / "trl")
    seconds = time.perf_counter() - started
    came = sum(map(len, documents))
    held = sum(map(len, packed.with_format("numpy")["input_ids"]))
    return {
        "tokens": came,
        "encode": None,
        "pack": seconds,
        "windows": len(packed),
        "filled": held / (len(packed) * context),
        "lost": came - held,
    }


if __name__ == "__main__":
    main()
