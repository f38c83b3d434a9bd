"""The vocabulary of a GGUF: which of llama.cpp's two tokenizers reads a model's texts, and what it has to be told.

Byte-level BPE (Llama 3, Qwen, our own) goes through the converter, which lacks the pre-tokenizer of a vocabulary that
was trained on a user's books. BPE over characters with bytes for the rest (Gemma, Llama 2, YandexGPT: SentencePiece's
kind) is written here: the converter reads scores and types from a tokenizer.model, and transformers saves a
tokenizer.json only.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.errors import UserError, first_line
from shridhar_ft.model.rope import copied
from shridhar_ft.tokenizer import END, O200K_PATTERN

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PROBE = (
    "Привет, мир! «Не всё то золото…» — ёлка, съезд. I've 1234567 things;\n\n\tкр̣ш̣н̣а, а̄тма̄ (ом̇ намо)  "
    "ПриветМир НЭП-2\r\n 🙂 ①"
)
"""Cases, digits, spaces, combining marks: what pre-tokenizers differ in."""
OTHERS = 0.02  # share of a text's tokens that may differ: llama.cpp's patterns are approximations
SAMPLED = 1000  # tokens of a vocabulary whose texts are read for comparison
REFUSALS = (NotImplementedError, ValueError, KeyError, FileNotFoundError, AssertionError)
"""What the converter raises where it does not know a model."""
SPACE = "▁"  # SentencePiece's sign for a space
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

SetVocab = Callable[[Any], None]


def vocabulary(base: type[Any], tokenizer: "PreTrainedTokenizerBase", where: str = "export.gguf") -> dict[str, Any]:
    """Methods for a subclass of the converter's class, with which it writes this tokenizer's vocabulary.

    Args:
        base: The converter's class for the architecture.
        tokenizer: The model's own.
        where: The setting that asked for the file, for the sentence.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    own: dict[str, Any] = {}
    write: SetVocab = base.set_vocab
    parts = _parts(tokenizer, where)
    if _byte_level(parts["pre_tokenizer"]):
        pre = pre_tokenizer(tokenizer, where)
        own["get_vocab_base_pre"] = lambda *_: pre
    else:
        _check_characters(parts, tokenizer, where)

        def write(converter: Any) -> None:  # noqa: ANN401
            _write_characters(converter, parts, tokenizer)

    def set_vocab(converter: Any) -> None:  # noqa: ANN401
        """The vocabulary, whether texts open with a token of their own, and what ends an answer.

        Untold, llama.cpp opens with a token that it makes up, and goes on past `<|end|>` where a base ends otherwise.
        """
        write(converter)
        converter.gguf_writer.add_add_bos_token(_opens_with_bos(tokenizer))
        if (end := tokenizer.get_vocab().get(END)) is not None and end != tokenizer.eos_token_id:
            converter.gguf_writer.add_eot_token_id(end)

    return {**own, "set_vocab": set_vocab}


def check_vocabulary(
    base: type[Any],
    architecture: str,
    config: "PreTrainedConfig",
    tokenizer: "PreTrainedTokenizerBase",
    where: str = "export.gguf",
) -> None:
    """Write the vocabulary alone, and throw it away: what the converter refuses is known before anything is merged.

    Args:
        base: The converter's class for the architecture.
        architecture: Name of the class that config.json will bear.
        config: What is exported.
        tokenizer: Its tokenizer.
        where: The setting that asked for the file, for the sentence.

    Raises:
        UserError: llama.cpp has no such tokenizer, or the converter refuses it.
    """
    import gguf

    hush_converter()
    made = type(base.__name__, (base,), {"model_arch": base.model_arch, **vocabulary(base, tokenizer, where)})
    stored = copied(config)
    stored.vocab_size = max(config.vocab_size, max(tokenizer.get_vocab().values()) + 1)
    stored.architectures = [architecture]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        stored.save_pretrained(folder)
        try:
            made(folder, gguf.LlamaFileType.MOSTLY_F16, folder / "vocabulary.gguf").set_vocab()
        except REFUSALS as error:
            raise UserError(
                f"{where}: llama.cpp's converter refuses this tokenizer ({first_line(error) or type(error).__name__}); "
                f"leave {where} out"
            ) from error


def hush_converter() -> None:
    """Let the converter tell nothing but errors."""
    for name in ("hf-to-gguf", "gguf"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _parts(tokenizer: "PreTrainedTokenizerBase", where: str) -> dict[str, Any]:
    """The tokenizer.json, which has to be a BPE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {"model": {"type": type(tokenizer).__name__}}
    if parts["model"]["type"] != "BPE":
        raise UserError(
            f"{where}: llama.cpp reads byte-pair encodings, and this tokenizer is a {parts['model']['type']}; "
            f"leave {where} out"
        )
    return parts


def _opens_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("а").input_ids[:1] == [tokenizer.bos_token_id]


# ----------------------------------------------------------------------------------------- byte-level BPE


def pre_tokenizer(tokenizer: "PreTrainedTokenizerBase", where: str = "export.gguf") -> str:
    """llama.cpp's name of what cuts a text before a byte-level BPE merges pairs.

    The converter knows tokenizers by a hash over the ids of a test text, which one trained on a user's books never
    has. Its pattern is what matters, and that is looked up here.

    Raises:
        UserError: llama.cpp has none such.
    """
    import conversion.base

    parts = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    try:
        return conversion.base.TextModel.get_vocab_base_pre(None, tokenizer)  # type: ignore[arg-type]
    except NotImplementedError:
        patterns = tuple(_patterns(parts["pre_tokenizer"]))
    if (name := _known_patterns().get(patterns)) is None:
        raise UserError(
            f"{where}: llama.cpp does not know this tokenizer's way of cutting words ({' , '.join(patterns)[:80]} …), "
            f"and would read other tokens; leave {where} out"
        )
    return name


def _known_patterns() -> dict[tuple[str, ...], str]:
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    return {
        # llama.cpp's `gpt-4o` is o200k without its combining marks: Sanskrit in Cyrillic would become 2.4 times as many
        # tokens, none of which the model was trained on. This one is o200k with them.
        (O200K_PATTERN,): "granite-embed-multi-97m",
        (llama3,): "llama-bpe",
        (llama3.replace(r"\p{N}{1,3}", r"\p{N}"),): "qwen2",
        ("gpt2",): "gpt-2",
        ("digits", "gpt2"): "smollm",
    }


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    for key in ("pretokenizers", "normalizers"):
        if key in step:
            return [one for inner in step[key] for one in _steps(inner)]
    return [step]


def _byte_level(step: dict[str, Any] | None) -> bool:
    return any(one["type"] == "ByteLevel" for one in _steps(step))


def _patterns(step: dict[str, Any] | None) -> list[str]:
    """Regular expressions of the steps; `gpt2` for ByteLevel's own, `digits` for single digits, a type otherwise."""
    found = []
    for one in _steps(step):
        if one["type"] == "Split" and one["behavior"] == "Isolated" and not one["invert"]:
            found.append(one["pattern"].get("Regex", ""))
        elif one["type"] == "Digits" and one["individual_digits"]:
            found.append("digits")
        elif one["type"] == "ByteLevel" and not one["add_prefix_space"]:
            found += ["gpt2"] if one["use_regex"] else []
        else:
            found.append(one["type"])
    return found


# ------------------------------------------------------------------------------------- BPE over characters


def _write_characters(converter: Any, parts: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> None:  # noqa: ANN401
    """Tokens, scores and types for llama.cpp's SentencePiece, as many as the embeddings have rows."""
    import gguf

    rows = max(int(converter.hparams["vocab_size"]), max(tokenizer.get_vocab().values()) + 1)
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    scores = [0.0] * rows
    ranks = _ranks(parts)
    for text, row in parts["model"]["vocab"].items():
        tokens[row] = text
        types[row] = gguf.TokenType.BYTE if text in BYTES else gguf.TokenType.NORMAL
        scores[row] = -float(ranks.get(text, 0))
    for added in parts["added_tokens"]:
        if _is_met_as_it_stands(added, ranks):
            row = added["id"]
            tokens[row] = added["content"]
            types[row] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    if tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = gguf.TokenType.UNKNOWN
    writer = converter.gguf_writer
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    gguf.SpecialVocab(converter.dir_model, n_vocab=rows).add_to_gguf(writer)
    writer.add_add_space_prefix(_space_prefix(tokenizer))


def _ranks(parts: dict[str, Any]) -> dict[str, int]:
    """Where each token stands among the results of the merges.

    llama.cpp merges the pair whose result has the best score, a tokenizer.json the pair that stands first in its list,
    which SentencePiece's order of scores has made.
    """
    found: dict[str, int] = {}
    for pair in parts["model"]["merges"]:
        found.setdefault("".join(pair) if isinstance(pair, list) else pair.replace(" ", ""), len(found))
    return found


def _is_met_as_it_stands(added: dict[str, Any], ranks: dict[str, int]) -> bool:
    """Whether a text is searched for this token before anything is merged.

    Gemma's runs of spaces are not: they are written with SentencePiece's sign, and texts have spaces there.
    """
    return added["special"] or SPACE not in added["content"] or added["content"] not in ranks


def _space_prefix(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a space goes before what follows a special token; llama.cpp then puts one before the first word too.

    Between the two stand tokenizers that put it before a text's first word only (transformers' own for Llama): what
    talks to a model opens with a special token.
    """
    special = tokenizer.bos_token or tokenizer.eos_token or ""
    ids = tokenizer(f"{special}а", add_special_tokens=False).input_ids
    return bool(special) and str(tokenizer.convert_ids_to_tokens(ids[1:2])[0]).startswith(SPACE)


def _check_characters(parts: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Refuse what llama.cpp's SentencePiece would read otherwise.

    It merges wherever the result is a token, whatever the list of merges says, and knows no normalizers: so its rule
    is followed here over a hard text and over tokens of the vocabulary itself.
    """
    vocab = parts["model"]["vocab"]
    if not parts["model"].get("byte_fallback") or not all(byte in vocab for byte in BYTES):
        raise UserError(
            f"{where}: llama.cpp needs a token for each byte, which this tokenizer has not; leave {where} out"
        )
    ranks = _ranks(parts)
    met = {added["content"] for added in parts["added_tokens"] if _is_met_as_it_stands(added, ranks)}
    usual = [text.replace(SPACE, " ") for text in vocab if text not in met and text not in BYTES]
    for texts, allowed in ((PROBE.splitlines(), 0.0), (usual[:: max(1, len(usual) // SAMPLED)], OTHERS)):
        own: list[str] = []
        theirs: list[str] = []
        for text in (text for text in texts if text and not any(token in text for token in met)):
            read = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
            prefix = SPACE if read[:1] and read[0].startswith(SPACE) and text[0] not in (" ", SPACE) else ""
            own += read
            theirs += merged_by_score(prefix + text, vocab, ranks)
        if (share := share_of_others(own, theirs)) > allowed:
            raise UserError(
                f"{where}: llama.cpp would read other tokens than this tokenizer ({share:.1%} of a probe's), whose "
                f"merges or normalizers are not SentencePiece's; leave {where} out"
            )


def merged_by_score(text: str, vocab: dict[str, int], ranks: dict[str, int]) -> list[str]:
    """Tokens of a text as llama.cpp's SentencePiece makes them (llm_tokenizer_spm in src/llama-vocab.cpp).

    Args:
        text: Without special tokens.
        vocab: Token → id.
        ranks: Token → where it stands among the results of merges; what no merge makes is made all the same.
    """
    pieces: list[str] = list(text.replace(" ", SPACE))
    after = list(range(1, len(pieces) + 1))
    before = list(range(-1, len(pieces) - 1))

    def pair(left: int, right: int) -> Iterator[tuple[int, int, int, str]]:
        if left >= 0 and right < len(pieces) and (made := pieces[left] + pieces[right]) in vocab:
            yield ranks.get(made, 0), left, right, made

    queue = [one for left in range(len(pieces) - 1) for one in pair(left, left + 1)]
    heapify(queue)
    while queue:
        _, left, right, made = heappop(queue)
        if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != made:
            continue  # one half has gone into another token meanwhile
        pieces[left], pieces[right] = made, ""
        after[left] = after[right]
        if after[right] < len(pieces):
            before[after[right]] = left
        for one in (*pair(before[left], left), *pair(left, after[left])):
            heappush(queue, one)
    return [
        token
        for piece in pieces
        if piece
        for token in ([piece] if piece in vocab else [BYTES[byte] for byte in piece.encode("utf-8")])
    ]


# -------------------------------------------------------------------------------------------------- comparing


def share_of_others(own: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Share of one list's tokens that the other does not have."""
    if list(own) == list(theirs):
        return 0.0
    missing = (Counter(own) - Counter(theirs)).total()
    return max(missing, 1) / max(len(own), 1)  # another order is a difference too
