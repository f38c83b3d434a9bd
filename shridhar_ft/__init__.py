"""Fine-tunes a language model on books and dialogues up to 108,000 tokens, with a receipt for every step."""

__version__ = "0.1.0"
