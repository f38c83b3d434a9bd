"""The tokenizer: train a byte-level BPE on the corpus, or extend a base's own; wrap documents; measure.

    books      <|spiritual|> text <|end|>
    dialogues  <|dialogue|> role NEWLINE text <|end|> role NEWLINE text <|end|> …

The pre-tokenizing pattern is o200k's: unlike GPT-2's it keeps combining marks with their letters, so Sanskrit in
Cyrillic is not cut to pieces, and llama.cpp knows it. There is no normalizer: what goes in comes out.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.config import SPECIAL_TOKENS, Recipe, TrainTokenizer
from shridhar_ft.data.load import conversations, load_split, works
from shridhar_ft.data.split import SPLITS, SplitName
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.runfolder import Run, begin_peak_rss, fingerprint, finish_part, is_current, publishing, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BOOK, DIALOGUE, END = SPECIAL_TOKENS
PAD = "<|pad|>"
TOKENS_OF_BASE = "tokens_of_base"  # in tokenizer_config.json: how many tokens it had before ours were added

# Source: tiktoken's o200k_base (MIT), tiktoken_ext/openai_public.py.
_WORD_HEAD, _WORD_TAIL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_WORD_HEAD}*{_WORD_TAIL}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_WORD_HEAD}+{_WORD_TAIL}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

OPENS_WITH_BOS = "{{- bos_token -}}"
"""What the chat template of a base begins with that begins every text with such a token."""
# The closing token stands inside the generation block: the assistant has to learn to stop. What is said stays as it is,
# for Ollama's templates cannot trim; the data are trimmed before (data/conversations.py).
CHAT_TEMPLATE = (
    f"{DIALOGUE}"
    "{%- for message in messages -%}"
    "{{ message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ message['content'] + '" + END + "' }}{%- endgeneration -%}"
    "{%- else -%}{{ message['content'] + '" + END + "' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant\n' }}{%- endif -%}"
)


# ------------------------------------------------------------------------------------------ train or extend


def train_tokenizer(texts: Iterable[str], settings: TrainTokenizer, model_max_length: int) -> "PreTrainedTokenizerBase":
    """Train a byte-level BPE.

    Args:
        texts: What it is trained on, streamed once.
        settings: Vocabulary size (tokens, special ones included) and special tokens.
        model_max_length: Context of the model it is for (tokens).

    Returns:
        A fast tokenizer with the chat template set, `<|end|>` as its end and `<|pad|>` as its padding.

    Raises:
        UserError: The corpus yields fewer merges than the vocabulary asks for.
    """
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys([*settings.special_tokens, PAD]))
    bpe = byte_level_bpe(texts, settings.vocab_size, special, settings.min_frequency)
    if (size := bpe.get_vocab_size()) < settings.vocab_size:
        raise UserError(
            f"tokenizer.train.vocab_size: {settings.vocab_size} tokens were asked for and this corpus yields {size}; "
            f"set tokenizer.train.vocab_size={size} or less, or add text"
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in special if token not in (END, PAD)],
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def byte_level_bpe(
    texts: Iterable[str], vocab_size: int, special_tokens: list[str], min_frequency: int = 0
) -> "Tokenizer":
    """Train a byte-level BPE on o200k's pattern.

    Args:
        texts: What its merges are learned from.
        vocab_size: Tokens at most, bytes and special ones among them.
        special_tokens: Tokens that no text becomes.
        min_frequency: How often a pair has to stand in the texts to be merged.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(O200K_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def extend_tokenizer(source: str, revision: str | None, model_max_length: int | None) -> "PreTrainedTokenizerBase":
    """Load a base's tokenizer and add the special tokens and the chat template.

    Its own beginning-of-text token, where it sets one, stays in front of books and dialogues.

    Args:
        source: Folder or Hub id.
        revision: Commit on the Hub.
        model_max_length: Context of the model it is for (tokens); None keeps the base's.

    Raises:
        UserError: There is no such tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except Exception as error:  # of a damaged file the library raises whatever comes, plain Exceptions too
        raise UserError(
            f"tokenizer: no tokenizer at '{source}' ({first_line(error)}); "
            "give a folder that holds one, or a Hub id while the network is there"
        ) from error
    tokenizer.init_kwargs[TOKENS_OF_BASE] = len(tokenizer)  # saved with it
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(SPECIAL_TOKENS)}, replace_extra_special_tokens=False
    )
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    opens_with_bos = tokenizer.bos_token_id is not None and tokenizer("а").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = (OPENS_WITH_BOS if opens_with_bos else "") + CHAT_TEMPLATE
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    return tokenizer


def brings_tokens(tokenizer: "PreTrainedTokenizerBase", rows: int) -> bool:
    """Whether it has tokens that its base knew nothing of, be it in spare rows of the base's embeddings.

    Args:
        tokenizer: The run's.
        rows: Rows of the base's embeddings.
    """
    return len(tokenizer) > min(rows, tokenizer.init_kwargs.get(TOKENS_OF_BASE, rows))


# --------------------------------------------------------------------------------------- wrapping documents


def opening_token(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that this base begins everything with; None where it knows none.

    Some lean on it wherever they read: Gemma 3 270M foretells 600 tokens of Russian at 3.44 nats a token behind its
    `<bos>`, and at 4.41 without it. So windows cut from the middle of a work begin with it too.
    """
    return tokenizer.bos_token_id if (tokenizer.chat_template or "").startswith(OPENS_WITH_BOS) else None


def encode_book(tokenizer: "PreTrainedTokenizerBase", text: str) -> np.ndarray:
    """`<|spiritual|>` text `<|end|>` as token ids (int32, shape (T,))."""
    head = tokenizer.convert_tokens_to_ids([BOOK])
    if (opening := opening_token(tokenizer)) is not None:
        head = [opening, *head]
    body = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return np.array([*head, *body, tokenizer.convert_tokens_to_ids(END)], dtype=np.int32)


def encode_dialogue(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation as the chat template renders it.

    Returns:
        Token ids (int32, shape (T,)) and, per token, whether the assistant says it (bool, shape (T,)); the
        assistant's closing `<|end|>` is included.
    """
    rendered = tokenizer.apply_chat_template(
        list(messages),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},  # a conversation longer than the window is cut, and counted, elsewhere
    )
    return np.array(rendered["input_ids"], dtype=np.int32), np.array(rendered["assistant_masks"], dtype=bool)


# ------------------------------------------------------------------------------------------------- measuring


def fertility(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> dict[str, float | int]:
    """Characters per token on these texts; held-out ones tell what the context length is worth in Russian."""
    characters = tokens = 0
    for text in texts:
        characters += len(text)
        tokens += len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    return {"characters": characters, "tokens": tokens, "characters_per_token": round(characters / max(tokens, 1), 4)}


# --------------------------------------------------------------------------------------- the part of the run


def wanted_fingerprint(recipe: Recipe, run: Run) -> str:
    """What the tokenizer part is made from: its settings, the base, and the data where it is trained on them."""
    data = read_json(run.data / "part.json")["fingerprint"] if recipe.tokenizer.train else None
    return fingerprint(
        recipe.tokenizer.model_dump(), recipe.model.base, recipe.model.revision, recipe.last_context, data
    )


def ensure_tokenizer(recipe: Recipe, run: Run, say: Callable[[str], None]) -> "PreTrainedTokenizerBase":
    """The run's tokenizer: made if it is missing or made from something else; the data must be there."""
    wanted = wanted_fingerprint(recipe, run)
    if is_current(run.tokenizer, wanted):
        say("tokenizer: up to date")
        return load_tokenizer(run.tokenizer)
    started = time.monotonic()
    begin_peak_rss()
    if recipe.tokenizer.train:
        settings = recipe.tokenizer.train
        say(f"tokenizer: training a byte-level BPE of {settings.vocab_size:,} tokens on the train split")
        tokenizer = train_tokenizer(split_texts(run, "train"), settings, recipe.last_context or 0)
    else:
        source = recipe.tokenizer.extend or recipe.model.base
        assert source is not None, "the recipe demands a tokenizer to train or extend"
        say(f"tokenizer: extending that of {source} with {', '.join(SPECIAL_TOKENS)}")
        tokenizer = extend_tokenizer(source, recipe.model.revision, recipe.last_context)
    measured = {split: fertility(tokenizer, split_texts(run, split)) for split in SPLITS[1:]}
    with publishing(run.tokenizer) as folder:
        tokenizer.save_pretrained(folder)
        finish_part(folder, wanted, time.monotonic() - started, vocab_size=len(tokenizer), fertility=measured)
    per_token = measured["validation"]["characters_per_token"]
    say(f"tokenizer: {len(tokenizer):,} tokens; {per_token} characters a token on the validation split")
    return tokenizer


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in this folder, without the network.

    Raises:
        UserError: There is none, or its files are damaged.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of a damaged file the library raises whatever comes, plain Exceptions too
        raise UserError(
            f"{folder}: no tokenizer can be read there ({first_line(error)}); copy its files again"
        ) from error


def split_texts(run: Run, split: SplitName) -> Iterator[str]:
    """Every text of a split: chapter blocks of books, then what is said in dialogues."""
    dataset = load_split(run, split)
    for work in works(dataset):
        yield from (block.text for block in work.blocks)
    for _, messages in conversations(dataset):
        yield from (message["content"] for message in messages)


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The padding id, which every tokenizer of ours has."""
    padding: Any = tokenizer.pad_token_id
    assert isinstance(padding, int), "train_tokenizer and extend_tokenizer both set a padding token"
    return padding
