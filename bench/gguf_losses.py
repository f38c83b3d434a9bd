"""Does a GGUF keep the model's loss, position by position? transformers in float32 beside llama.cpp on each kind.

    python bench/gguf_losses.py runs/NAME/export/model my/long_text.txt --kinds f16 q8_0 --context 108000 [--cache q8_0]

The text is read in one window, every token is scored by what stands before it, and the mean is given for equal parts of
the window. The model should keep its loss within 2 % in each of them.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

BUCKETS = 16
MOST = 0.02
"""Largest share by which a part's loss may differ."""


def by_transformers(model: Path, ids: np.ndarray) -> np.ndarray:
    """Nats of each token but the first, float32 (T − 1,)."""
    import torch
    from transformers import AutoConfig

    from shridhar_ft.export.kernel import kernel_for
    from shridhar_ft.model.build import load_model
    from shridhar_ft.scoring import log_probs

    config = AutoConfig.from_pretrained(model)
    loaded = load_model(model, config, kernel_for(config, len(ids), torch.device("cpu")), torch.float32)
    tokens = torch.as_tensor(ids, dtype=torch.long)[None]
    positions = torch.arange(len(ids))[None]
    return -log_probs(loaded, tokens, tokens, positions)[0].numpy()


def parts(nats: np.ndarray) -> np.ndarray:
    """Mean of each equal part of the window."""
    return np.array([part.mean() for part in np.array_split(nats, BUCKETS)])


def main() -> None:
    """Score and print a table; status 1 where a part differs by more."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["f16", "q8_0"])
    parser.add_argument("--context", type=int, default=108_000)
    parser.add_argument("--cache", default="f16", help="type of llama.cpp's key/value cache")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from shridhar_ft.export.gguf_convert import write_gguf
    from shridhar_ft.export.gguf_model import GgufModel
    from shridhar_ft.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(given.model)
    text = given.text.read_text(encoding="utf-8")
    ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, dtype=np.int32)[: given.context]
    if len(ids) < given.context:
        parser.error(f"{given.text} has {len(ids):,} tokens, and the window {given.context:,}")
    losses = {"transformers f32": parts(by_transformers(given.model, ids))}
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            file = Path(folder) / f"{kind}.gguf"
            write_gguf(given.model, file, kind, "model")
            losses[f"{kind}, cache {given.cache}"] = parts(GgufModel(file, len(ids), given.cache).nats(ids))
    wanted = losses["transformers f32"]
    print(f"| positions to | {' | '.join(losses)} |\n|{'---|' * (len(losses) + 1)}")
    for number, end in enumerate(np.linspace(0, len(ids), BUCKETS + 1, dtype=int)[1:]):
        cells = (f"{loss[number]:.4f} ({loss[number] / wanted[number] - 1:+.2%})" for loss in losses.values())
        print(f"| {end:,} | {' | '.join(cells)} |")
    worst = {name: float(np.abs(loss / wanted - 1).max()) for name, loss in losses.items()}
    print("\n" + "; ".join(f"{name}: {value:.3%} at most" for name, value in worst.items()))
    if given.out:
        found = {name: loss.tolist() for name, loss in losses.items()}
        given.out.write_text(json.dumps({"context": len(ids), "losses": found, "worst": worst}, indent=1) + "\n")
    raise SystemExit(int(max(worst.values()) > MOST))


if __name__ == "__main__":
    main()
