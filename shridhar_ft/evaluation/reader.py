"""What a task may ask of a model, whatever reads it: log-probabilities, what it says next, a drawn continuation.

nats      of whole texts, many in one pass where the reader can
read      a long prompt once; then `after` scores continuations of it, and `go_on` continues it greedily
sample    draws continuations of prompts of one length
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shridhar_ft.evaluation.materials import Unmeasured
from shridhar_ft.speed.timing import Timed

ANSWERS = ("Да.", "Нет.")
"""Two answers: what a chat template writes behind both of them alike stands behind any answer."""


def ending(rendered: Sequence[Sequence[int]], ends: set[int]) -> list[int]:
    """The token that ends an answer: the first of `ends` in what stands behind two answers alike.

    The smallest of `ends` would not do: Llama 3.1 lists the end of a text before that of a turn.

    Args:
        rendered: Tokens of two conversations, each with its answer closed.
        ends: Tokens that a model ends with.
    """
    first, second = (list(reversed(ids)) for ids in rendered)
    shared = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, rendered)))
    behind = list(reversed(first[:shared]))
    return next(([token] for token in behind if token in ends), [])


def fitting(reader: "Reader", text: str) -> np.ndarray:
    """The tokens of a text behind the opening, never more than the window holds: int64 (T,).

    Raises:
        Unmeasured: It has more.
    """
    ids = np.array([*reader.opening, *reader.encode(text)])
    if len(ids) > reader.window:
        raise Unmeasured(f"a sentence has {len(ids):,} tokens and the model's window {reader.window:,}")
    return ids


def closed(answer: str) -> list[dict[str, str]]:
    """A conversation of one question that is answered."""
    return [{"role": "user", "content": "Это так?"}, {"role": "assistant", "content": answer}]


class Reader(Protocol):
    """A model that is measured."""

    name: str
    """What tables call it."""
    made_from: str
    """Fingerprint of its weights: records of another model are never taken for its own."""
    window: int
    """Tokens that fit."""
    opening: list[int]
    """Tokens that a text begins with: `<|spiritual|>` where the model knows it, else its beginning of a text."""
    ends: set[int]
    """Tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens in it taken as plain text where the tokenizer can."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""

    def conversation(self, messages: Sequence[dict[str, str]]) -> list[int] | None:
        """A conversation as its chat template renders it, ready for the answer; None where it has no template."""

    def closing(self) -> list[int]:
        """The token that its chat template ends an answer with, where it is one of `ends`; else nothing."""

    def nats(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Negative log-likelihood of each token but the first of each piece, float32 (T − 1,); none sees another."""

    def read(self, ids: Sequence[int]) -> None:
        """Take a prompt in; whatever was read before is forgotten."""

    def after(self, ids: Sequence[int]) -> np.ndarray:
        """Negative log-likelihood of these tokens after what was read, float32 (n,); what was read stays as it is."""

    def go_on(self, limit: int) -> list[int]:
        """The likeliest tokens after what was read, one after the other, without the one that ends them."""

    def sample(
        self, prompts: Sequence[Sequence[int]], tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[list[int]]:
        """Continuations of prompts of one length, drawn; none ends early.

        Args:
            prompts: Token ids, all equally many.
            tokens: Length of each continuation.
            temperature: What the logits are divided by.
            top_p: Only the likeliest tokens that together have this probability are drawn.
            seed: Of the draw.
        """

    def timed(self) -> Timed:
        """The model as its speed is measured; what was read before is forgotten.

        Raises:
            UserError: Its cache is of a kind that cannot be filled.
        """
