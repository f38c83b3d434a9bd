"""The part of the certificate that a real llama.cpp gives: a GGUF's logits beside the model's, and its tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.export.certificate import Places, compare
from shridhar_ft.export.gguf_model import GgufModel, has_llama_cpp

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PROBE = (
    "Привет, мир! «Не всё то золото…» — ёлка, съезд. I've 1234567 things;\n\n\tкр̣ш̣н̣а, а̄тма̄ (ом̇ намо)  "
    "ПриветМир НЭП-2\r\n 🙂 ①"
)
"""Cases, digits, spaces, combining marks: what pre-tokenizers differ in."""
SAMPLE = 2048  # tokens of the certificate's text that are written out and read again


def unread(kinds: Sequence[str]) -> list[str]:
    """Those kinds that nothing here can read: all of them where llama-cpp-python is not installed."""
    return [] if has_llama_cpp() else list(kinds)


def read_file(
    file: Path,
    text: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    trained: "torch.Tensor",
    where: Places,
) -> dict[str, Any]:
    """Compare a GGUF with the trained model.

    Args:
        file: The GGUF.
        text: Token ids, as long as the full context.
        tokenizer: The model's own.
        trained: Logits of the trained model at `where`, float32 (P, V).
        where: Positions.

    Returns:
        What `compare` finds, and whether llama.cpp cuts texts into the same tokens.
    """
    import torch

    # float32 keys and values: what is compared is the file, and not how a cache rounds.
    model = GgufModel(file, context=len(text), cache="f32")
    logits = torch.from_numpy(model.logits_at(text, where.all))
    found = compare(trained, logits[:, : trained.shape[1]], where)
    found["tokens"] = compare_tokens(model, tokenizer, text)
    model.close()
    return found


def compare_tokens(model: GgufModel, tokenizer: "PreTrainedTokenizerBase", text: np.ndarray) -> dict[str, Any]:
    """Whether llama.cpp reads texts as the tokenizer does: a sample of the certificate's text, and a hard one."""
    sample = tokenizer.decode(text[:SAMPLE].tolist(), skip_special_tokens=True)
    found = {}
    for name, written in (("sample", sample), ("probe", PROBE)):
        own = tokenizer(written, add_special_tokens=False, verbose=False).input_ids
        theirs = model.tokenize(written, special=False)
        same = next(
            (i for i, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b), min(len(own), len(theirs))
        )
        found[name] = {"tokens": len(own), "by_llama_cpp": len(theirs), "same_until": same, "ok": own == theirs}
    return found
