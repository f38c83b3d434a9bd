"""What a task may ask of a model, whatever reads it: log-probabilities, what it says next, a drawn continuation.

nats      of whole texts, many in one pass where the reader can
read      a long prompt once; then `after` scores continuations of it, and `go_on` continues it greedily
sample    draws continuations of prompts of one length
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shridhar_ft.speed.timing import Timed


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
