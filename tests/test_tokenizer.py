"""The tokenizer: what goes in comes out, marks stay with their letters, and the loss mask is the assistant's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from shridhar_ft.config import SPECIAL_TOKENS, TrainTokenizer
from shridhar_ft.errors import UserError
from shridhar_ft.tokenizer import (
    O200K_PATTERN,
    brings_tokens,
    encode_book,
    encode_dialogue,
    extend_tokenizer,
    fertility,
    load_tokenizer,
    opening_token,
    pad_id,
    train_tokenizer,
)

TALK = [
    {"role": "system", "content": "Отвечай кратко."},
    {"role": "user", "content": " Что такое покой? "},
    {"role": "assistant", "content": "Когда некуда спешить."},
    {"role": "user", "content": "Спасибо!"},
    {"role": "assistant", "content": "И тебе."},
]


@given(text=st.text(max_size=200))
def test_any_text_comes_back_as_it_was(tokenizer, text: str) -> None:
    text = text.replace("<|", "<")  # literal special tokens are broken by the cleaning before
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text


def test_nothing_is_normalized_away(tokenizer) -> None:
    assert tokenizer.backend_tokenizer.normalizer is None
    for text in ("й", "и\u0306", "ﬁ", "  два  пробела \t\n\n", "e\u0301", " '  s ,"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_combining_marks_stay_with_their_letters() -> None:
    text = "а̄тма̄ кр̣па̄ ш́а̄нти"
    ours = pre_tokenizers.Split(Regex(O200K_PATTERN), behavior="isolated").pre_tokenize_str(text)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert [piece for piece, _ in ours] == ["а̄тма̄", " кр̣па̄", " ш́а̄нти"]
    assert len(gpt2) > 2 * len(ours)


def test_special_tokens_are_one_id_each_and_first(tokenizer) -> None:
    ids = tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, "<|pad|>"])
    assert ids == [0, 1, 2, 3]
    assert tokenizer.eos_token_id == 2
    assert pad_id(tokenizer) == 3
    assert len(tokenizer) == 600


def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused() -> None:
    with pytest.raises(UserError, match=r"vocab_size: 5000 tokens were asked for and this corpus yields \d+"):
        train_tokenizer(["мало слов"] * 3, TrainTokenizer(vocab_size=5000), 64)


def test_a_book_is_wrapped(tokenizer) -> None:
    text = tokenizer.decode(encode_book(tokenizer, "Было утро.\nИ день."))
    assert text == "<|spiritual|>Было утро.\nИ день.<|end|>"


def test_the_mask_is_the_assistants_words_with_their_end(tokenizer) -> None:
    ids, learned = encode_dialogue(tokenizer, TALK)
    assert tokenizer.decode(ids) == (
        "<|dialogue|>system\nОтвечай кратко.<|end|>user\n Что такое покой? <|end|>assistant\n"
        "Когда некуда спешить.<|end|>user\nСпасибо!<|end|>assistant\nИ тебе.<|end|>"
    )
    assert tokenizer.decode(ids[learned]) == "Когда некуда спешить.<|end|>И тебе.<|end|>"
    prompt = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(ids).startswith(prompt)


# No literal special tokens: the cleaning before breaks them.
CONTENT = st.text(max_size=20).map(lambda text: text.replace("<|", "<"))


@given(contents=st.lists(CONTENT, min_size=1, max_size=6))
def test_in_any_conversation_the_mask_is_the_assistants_words_and_their_end(tokenizer, contents: list[str]) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    ids, learned = encode_dialogue(tokenizer, messages)
    said = [content + "<|end|>" for content in contents]
    assert tokenizer.decode(ids[learned]) == "".join(said[1::2])
    roles = [message["role"] + "\n" for message in messages]
    assert tokenizer.decode(ids) == "<|dialogue|>" + "".join(map("".join, zip(roles, said, strict=True)))


def test_the_generation_prompt_is_the_assistants_turn_opened(tokenizer) -> None:
    prompt = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True, tokenize=False)
    assert prompt == "<|dialogue|>system\nОтвечай кратко.<|end|>user\n Что такое покой? <|end|>assistant\n"


def test_the_prompt_has_the_tokens_that_were_trained(tokenizer) -> None:
    # A template whose pieces merge across the border would ask for other tokens than those that were learned.
    ids, learned = encode_dialogue(tokenizer, TALK[:3])
    prompt = tokenizer.apply_chat_template(TALK[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[~learned].tolist() == list(prompt)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.model_max_length == 4096
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded("Тихое утро").input_ids == tokenizer("Тихое утро").input_ids


def test_fertility_counts_characters_per_token(tokenizer) -> None:
    found = fertility(tokenizer, ["Дорога ведёт к роднику.", "Утро."])
    assert found["characters"] == 28
    assert found["characters_per_token"] == round(28 / found["tokens"], 4)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A base's tokenizer of another kind: whitespace words, its own beginning of text, no padding."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "покой": 3, "user": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=["<unk>"]
    ).save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


def test_a_bases_tokenizer_is_extended_and_keeps_its_beginning(foreign: Path) -> None:
    extended = extend_tokenizer(str(foreign), None, 512)
    assert len(extended) == 5 + 4
    assert extended.model_max_length == 512
    assert extended.eos_token == "</s>"
    assert encode_book(extended, "покой").tolist() == [0, extended.convert_tokens_to_ids("<|spiritual|>"), 3, 7]
    ids, learned = encode_dialogue(extended, TALK[1:3])
    assert ids[0] == 0 and ids[1] == extended.convert_tokens_to_ids("<|dialogue|>")
    assert ids[learned][-1] == extended.convert_tokens_to_ids("<|end|>")


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer at"):
        extend_tokenizer(str(tmp_path), None, None)


@pytest.fixture
def byte_level(corpus: list[str], tmp_path: Path) -> Path:
    """A base's byte-level BPE with a beginning of text that it sets itself, padding, and a chat template of its own."""
    from tokenizers import Tokenizer, decoders, models, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<bos>", "<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(corpus[:1], trainer)
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    base = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    base.chat_template = "{{ messages }}"
    base.save_pretrained(tmp_path / "bpe")
    return tmp_path / "bpe"


def test_an_extended_byte_level_base_wraps_masks_and_comes_back_from_disk(byte_level: Path, tmp_path: Path) -> None:
    extended = extend_tokenizer(str(byte_level), None, 512)
    assert len(extended) == 400 + 3, "it has a padding token already"
    assert pad_id(extended) == 2
    extended.save_pretrained(tmp_path / "saved")
    for tokenizer in (extended, load_tokenizer(tmp_path / "saved")):
        assert brings_tokens(tokenizer, 400) and brings_tokens(tokenizer, 512), "spare rows are no knowledge"
        assert tokenizer.model_max_length == 512
        assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [400, 401, 402]
        assert tokenizer.decode(encode_book(tokenizer, "Тихое утро")) == "<bos><|spiritual|>Тихое утро<|end|>"
        assert tokenizer.decode([opening_token(tokenizer)]) == "<bos>"
        ids, learned = encode_dialogue(tokenizer, TALK)
        assert tokenizer.decode(ids).startswith("<bos><|dialogue|>system\nОтвечай")
        assert ids.tolist().count(0) == 1, "one beginning of text, not two"
        assert tokenizer.decode(ids[learned]) == "Когда некуда спешить.<|end|>И тебе.<|end|>"
