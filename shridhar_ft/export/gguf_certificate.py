"""The part of the certificate that a real llama.cpp gives: a GGUF's logits beside the model's, and its tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.export.certificate import Places, compare
from shridhar_ft.export.gguf_attention import PLAIN_BATCH, plain
from shridhar_ft.export.gguf_limits import check_written
from shridhar_ft.export.gguf_model import GgufModel, has_llama_cpp
from shridhar_ft.export.gguf_vocab import OTHERS, PROBE, share_of_others
from shridhar_ft.export.memory import cache_type

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SAMPLE = 2048  # tokens of the certificate's text that are written out and read again
REAL = 0.2  # random ids do not come back from their own text; a text's do, special tokens aside
CONVERSATION = [
    {"role": "user", "content": "Что такое терпение? 1234 — кр̣ш̣н̣а"},
    {"role": "assistant", "content": "Ждать,\nне жалуясь."},
    {"role": "user", "content": "Ещё"},
]


def unread(kinds: Sequence[str]) -> list[str]:
    """Those kinds that nothing here can read: all of them where llama-cpp-python is not installed."""
    return [] if has_llama_cpp() else list(kinds)


def cache_for(config: "PreTrainedConfig", tokens: int) -> str:
    """Type of the cache that a text of this length is read with: f32, or f16 where that does not fit.

    Raises:
        OutOfMemory: Neither fits.
    """
    return cache_type(config, tokens, PLAIN_BATCH)


def read_file(
    file: Path,
    text: np.ndarray,
    config: "PreTrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    trained: "torch.Tensor",
    where: Places,
) -> dict[str, Any]:
    """Compare a GGUF with the trained model.

    Args:
        file: The GGUF.
        text: Token ids, as long as the full context.
        config: The model's, with its RoPE.
        tokenizer: The model's own.
        trained: Logits of the trained model at `where`, float32 (P, V).
        where: Positions.

    Returns:
        What `compare` finds, whether llama.cpp cuts texts into the same tokens, whether its RoPE is the config's, and
        the type of its cache.

    Raises:
        OutOfMemory: Keys and values of the text do not fit into the memory.
    """
    import torch

    # float32 keys and values and plain attention: what is compared is the file, and not how a cache rounds.
    # At 108,000 tokens those of a large model are more than a machine's memory, and then 16 bits have to do.
    cache = cache_for(config, len(text))
    model = GgufModel(file, context=len(text), cache=cache, attending=plain(cache))
    logits = torch.from_numpy(model.logits_at(text, where.all))
    found = compare(trained, logits[:, : trained.shape[1]], where)
    found["cache"] = cache
    found["rope"] = check_written(file, config)
    found["tokens"] = compare_tokens(model, tokenizer, text)
    model.close()
    return found


def compare_tokens(model: GgufModel, tokenizer: "PreTrainedTokenizerBase", text: np.ndarray) -> dict[str, Any]:
    """Whether llama.cpp reads texts as the tokenizer does.

    Three of them: a sample of the certificate's text (left out where that is no text but random ids), a hard one, and a
    conversation through the file's own chat template, special tokens and all.
    """
    pairs = {"probe": (tokenizer(PROBE, add_special_tokens=False).input_ids, model.tokenize(PROBE, special=False))}
    sample = tokenizer.decode(text[:SAMPLE].tolist(), skip_special_tokens=True)
    own = tokenizer(sample, add_special_tokens=False, verbose=False).input_ids
    if share_of_others(own, text[:SAMPLE].tolist()) < REAL:
        pairs["sample"] = (own, model.tokenize(sample, special=False))
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=True)
        pairs["chat"] = (rendered["input_ids"], model.render(CONVERSATION))
    return {
        name: {
            "tokens": len(own),
            "by_llama_cpp": len(theirs),
            "share_of_others": round(share_of_others(own, theirs), 4),
            "ok": share_of_others(own, theirs) <= (OTHERS if name != "chat" else 0),
        }
        for name, (own, theirs) in pairs.items()
    }
