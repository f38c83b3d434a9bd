"""Finds near duplicates beside datasketch's MinHashLSH, alternating in one run: found, missed, wrong, seconds.

    pip install datasketch
    python bench/duplicates.py dialogues.jsonl --texts 4000

Texts are made of the file's turns: distinct ones, ones whose answers come from a few templates, and copies of
earlier ones in which words were changed. What is right is known from the sets of five-word runs themselves, compared
one with another; where two are about as alike as the threshold, either answer passes.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasketch import MinHash, MinHashLSH

from shridhar_ft import config_data
from shridhar_ft.data.duplicates import SHINGLE, DuplicateFinder
from shridhar_ft.data.minhash import PERMUTATIONS
from shridhar_ft.data.overlap import window_hashes
from shridhar_ft.data.records import Message
from shridhar_ft.data.words import words_of

THRESHOLD = 0.8
MARGIN = 0.05  # either side of the threshold, an answer is neither right nor wrong


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("file", type=Path, help="JSON Lines of dialogues: messages with text or content")
    ask.add_argument("--texts", type=int, default=4000)
    ask.add_argument("--rounds", type=int, default=3)
    given = ask.parse_args()
    texts = list(made_of(turns(given.file), given.texts))
    sets = [np.unique(window_hashes(words_of([text]).hashes, SHINGLE)) for text in texts]
    words_of([""])  # fills its table
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters")
    for _ in range(given.rounds):
        for name, find in (("shridhar_ft", ours), ("datasketch", theirs)):
            started = time.perf_counter()
            dropped = find(texts)
            seconds = time.perf_counter() - started
            missed, wrong = judged(sets, dropped)
            print(f"{name:<12}{seconds:7.2f} s   dropped {sum(dropped):>5,}   missed {missed:>4}   wrong {wrong:>4}")


def turns(file: Path) -> list[str]:
    """The turns of 40 to 300 characters."""
    with file.open(encoding="utf-8") as lines:
        said = [turn.get("text") or turn["content"] for line in lines for turn in json.loads(line)["messages"]]
    return [turn for turn in said if 40 <= len(turn) <= 300]


def made_of(said: list[str], count: int) -> Iterator[str]:
    draw = random.Random(1)
    made: list[str] = []
    for number in range(count):
        kind = number % 4
        if kind == 3:  # a copy, of which up to a tenth of the words are changed
            words = draw.choice(made).split()
            for _ in range(draw.randrange(len(words) // 10)):
                words[draw.randrange(len(words))] = f"слово{draw.randrange(10**6)}"
            made.append(" ".join(words))
        else:
            pool = said[:60] if kind == 2 else said
            answers = said[:15] if kind else said
            made.append("\n".join(draw.choice(pool) + "\n" + draw.choice(answers) for _ in range(5)))
        yield made[-1]


def ours(texts: list[str]) -> list[bool]:
    finder = DuplicateFinder(config_data.Duplicates(threshold=THRESHOLD))
    return [finder.of_conversation([Message("user", text)]) is not None for text in texts]


def theirs(texts: list[str]) -> list[bool]:
    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    kept: dict[int, MinHash] = {}
    dropped = []
    for number, text in enumerate(texts):
        words = text.lower().split()
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([" ".join(words[i : i + SHINGLE]).encode() for i in range(len(words) - SHINGLE + 1)])
        near = any(sketch.jaccard(kept[other]) >= THRESHOLD for other in index.query(sketch))
        dropped.append(near)
        if not near:
            index.insert(number, sketch)
            kept[number] = sketch
    return dropped


def judged(sets: list[np.ndarray], dropped: list[bool]) -> tuple[int, int]:
    """How many texts were kept though one kept before is clearly alike, and dropped though none clearly is."""
    missed = wrong = 0
    holders: dict[int, list[int]] = {}
    for number, (members, gone) in enumerate(zip(sets, dropped, strict=True)):
        together: dict[int, int] = {}
        for member in members.tolist():
            for other in holders.get(member, ()):
                together[other] = together.get(other, 0) + 1
        best = max((n / (len(members) + len(sets[other]) - n) for other, n in together.items()), default=0.0)
        missed += not gone and best >= THRESHOLD + MARGIN
        wrong += gone and best < THRESHOLD - MARGIN
        if not gone:
            for member in members.tolist():
                holders.setdefault(member, []).append(number)
    return missed, wrong


if __name__ == "__main__":
    main()
