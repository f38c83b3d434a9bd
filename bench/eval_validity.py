"""Whether each measure of eval orders what it should, on real books: effect sizes, intervals and n.

    python bench/eval_validity.py --author AUTHOR/*.txt --others OTHER.txt … [--model FOLDER] [--json FILE]

Without a model: the verifier (the author's held-out books, other authors, copies), the pairs and their floors. With
one: the same weights against random ones of their shape, needles against their absence, true order of sentences against
a shuffled one, perplexity against transformers' own loss.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from shridhar_ft.evaluation.bytes import Settings as BytesSettings
from shridhar_ft.evaluation.bytes import make as make_bytes
from shridhar_ft.evaluation.hf_reader import HfReader, open_folder
from shridhar_ft.evaluation.materials import Materials, Text
from shridhar_ft.evaluation.measures import difference, score, wilson
from shridhar_ft.evaluation.retention import Settings as RetentionSettings
from shridhar_ft.evaluation.retention import make as make_retention
from shridhar_ft.evaluation.ru_pairs import Settings as PairSettings
from shridhar_ft.evaluation.ru_pairs import make as make_pairs
from shridhar_ft.evaluation.style import Judge, cut
from shridhar_ft.evaluation.texts import sentences

SEED = 108
BOOK = 40  # passages that make a book large enough to be left out
DIGITS = 4


def main() -> None:
    """Read the books, measure, print, and write JSON."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--author", nargs="+", type=Path, required=True, help="an author's books")
    ask.add_argument("--others", nargs="+", type=Path, required=True, help="other authors, one a file")
    ask.add_argument("--words", type=int, nargs="+", default=[200], help="words of a passage of the verifier")
    ask.add_argument("--model", type=Path, help="a model folder")
    ask.add_argument("--length", type=int, default=1024, help="tokens of the needles' prompts")
    ask.add_argument("--pairs", type=int, default=20, help="pairs of a paradigm")
    ask.add_argument("--passages", type=int, default=8, help="passages for bits per byte")
    ask.add_argument("--seeds", type=int, default=1, help="questions of each kind and depth")
    ask.add_argument("--json", type=Path, help="where the figures go")
    asked = ask.parse_args()
    texts = materials(asked.author, asked.others)
    found: dict[str, Any] = {}
    for name, measure in (("style", style), ("pairs", floors)):
        started = time.monotonic()
        found[name] = {**measure(texts, asked), "seconds": round(time.monotonic() - started, 1)}
        print(name, json.dumps(found[name], ensure_ascii=False, indent=1), flush=True)
    if asked.model:
        for name, figures in with_model(texts, asked):
            found[name] = figures
            print(name, json.dumps(figures, ensure_ascii=False, indent=1), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def materials(author: list[Path], others: list[Path]) -> Materials:
    """The author's books split as a run splits them: of each, a tenth for calibration and a tenth held out."""
    parts: dict[str, list[Text]] = {"train": [], "calibration": [], "held_out": []}
    for file in sorted(author):
        text = file.read_text(encoding="utf-8")
        for number in range(10):
            part = text[len(text) * number // 10 : len(text) * (number + 1) // 10]
            parts[{3: "calibration", 7: "held_out"}.get(number, "train")].append(Text(file.stem, part))
    return Materials(**parts, others=[Text(file.stem, file.read_text(encoding="utf-8")) for file in others])


def style(texts: Materials, asked: argparse.Namespace) -> dict[str, Any]:
    """The verifier on held-out parts, on books that it never saw, on other authors, and on copies."""
    rows = {}
    for words in asked.words:
        judge = Judge(texts, words, SEED)
        held = [passage for text in texts.held_out for passage in cut(text.text, words)]
        accepted = judge.accepts(held)
        copies = judge.copied(held)
        rows[str(words)] = {
            "held-out parts accepted": rounded(accepted.mean()),
            "95 %": [rounded(end) for end in wilson(float(accepted.mean()), len(held))],
            "n": len(held),
            "whole books unseen": unseen_books(texts, words),
            "unseen authors accepted": rounded(judge.others_accepted),
            "by author": {name: rounded(share) for name, share in judge.by_author.items()},
            "AUC": rounded(judge.auc),
            "runs of 8 words of held-out parts in the training text": rounded(
                sum(pair[0] for pair in copies) / sum(pair[1] for pair in copies)
            ),
        }
    return rows


def unseen_books(texts: Materials, words: int) -> dict[str, Any]:
    """Accepted share of each larger book when neither training nor calibration holds any of it."""
    rows = {}
    for work in sorted({text.work for text in texts.train}):
        rest = {side: [text for text in getattr(texts, side) if text.work != work] for side in ("train", "calibration")}
        passages = [passage for text in texts.train if text.work == work for passage in cut(text.text, words)]
        if len(passages) >= BOOK and len(rest["calibration"]) > 1:
            accepted = Judge(Materials(**rest, others=texts.others), words, SEED).accepts(passages)
            rows[work] = [rounded(accepted.mean()), len(passages)]
    return rows


def floors(texts: Materials, asked: argparse.Namespace) -> dict[str, Any]:
    """How many pairs the held-out books yield, alone and with other authors, and what counting words scores."""
    rows = {}
    for name, further in (("held-out books alone", False), ("with other authors", True)):
        task = make_pairs(PairSettings(each=250, further_prose=further), texts, SEED)
        items = task.items(None)  # type: ignore[arg-type]  # its items hang on no model
        paradigms = sorted({item["paradigm"] for item in items})
        rows[name] = {"n": len(items)} | {
            how: rounded(np.mean([np.mean([i[how] for i in items if i["paradigm"] == p]) for p in paradigms]))
            for how in ("unigram", "bigram")
        }
        rows[name]["by paradigm"] = {p: sum(i["paradigm"] == p for i in items) for p in paradigms}
    return rows


def with_model(texts: Materials, asked: argparse.Namespace) -> Any:  # noqa: ANN401 - names and figures
    """What needs weights: each comparison with its interval."""
    import torch
    from transformers import AutoModelForCausalLM

    trained = open_folder(asked.model, "trained")
    yield "perplexity", agreement(trained, texts)
    task = make_pairs(PairSettings(each=asked.pairs), texts, SEED)
    items = task.items(trained)
    pairs = list(task.measure(trained, items))
    found = {measure.name: score(measure, pairs, SEED) for measure in task.measures(pairs)}
    task.scores(pairs, found, [])
    whole = found["own pairs, sum log-probability"]
    yield "pairs, trained", figures(whole)
    needles = make_retention(RetentionSettings(lengths=[asked.length], depths=3, seeds=asked.seeds), texts, SEED)
    records = [record for item in needles.items(trained) for record in needles.measure(trained, [item])]
    for way in ("exact", "choice"):
        shares = {how: [r[way] for r in records if r["how"] == how] for how in ("facts", "absent", "alone")}
        yield (
            f"needles, {way}",
            {
                how: [rounded(np.mean(hits)), *(rounded(e) for e in wilson(float(np.mean(hits)), len(hits))), len(hits)]
                for how, hits in shares.items()
            },
        )
    nats = {how: np.mean([r["nats"] for r in records if r["how"] == how]) for how in ("facts", "absent")}
    yield "needles, nats of the answer", {how: rounded(value) for how, value in nats.items()}
    del pairs
    bits = make_bytes(BytesSettings(characters=800, passages=asked.passages), texts, SEED)
    passages = bits.items(trained)
    ours = list(bits.measure(trained, passages))
    spoilt = [{**item, "text": shuffled(item["text"])} for item in passages]
    torch.manual_seed(SEED)
    random_model = AutoModelForCausalLM.from_config(trained.model.config, dtype=torch.float32)
    untrained = HfReader(random_model, trained.tokenizer, "random", "")
    (held, *_) = bits.measures(ours)
    for name, theirs in (
        ("words in another order", list(bits.measure(trained, spoilt))),
        ("random weights", list(bits.measure(untrained, passages))),
    ):
        gap = difference(held, ours, theirs, SEED)
        yield f"bits per byte against {name}", {key: rounded(value) for key, value in gap.items()}


def agreement(reader: HfReader, texts: Materials) -> dict[str, float]:
    """Mean loss of a passage by scoring.py and by transformers' own labels."""
    import torch

    ids = [*reader.opening, *reader.encode(texts.held_out[0].text[:1500])]
    with torch.no_grad():
        theirs = float(reader.model(torch.tensor([ids]), labels=torch.tensor([ids]), use_cache=False).loss)
    ours = float(reader.nats([np.array(ids)])[0].mean())
    return {"ours": ours, "transformers": theirs, "difference": ours - theirs}


def shuffled(text: str) -> str:
    """The words of each sentence in another order."""
    draw = random.Random(SEED)
    return " ".join(" ".join(draw.sample(words, len(words))) for words in map(str.split, sentences(text)))


def figures(found: Any) -> dict[str, Any]:  # noqa: ANN401 - a Score
    return {key: rounded(getattr(found, key)) for key in ("value", "low", "high", "n", "floor")} | {
        "floor_of": found.floor_of
    }


def rounded(value: Any) -> Any:  # noqa: ANN401 - a number
    return value if isinstance(value, int) else round(float(value), DIGITS)


if __name__ == "__main__":
    main()
