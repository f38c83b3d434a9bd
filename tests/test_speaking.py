"""Where an exported model stops and how it samples: as it was trained to, and as its base did."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from shridhar_ft.export.speaking import OURS, speak_like_trained
from shridhar_ft.weights import Weights


def spoken(tokenizer, base: Path, **written: object) -> tuple[GenerationConfig, LlamaConfig]:
    """What is written for a base whose author wrote these settings, as transformers reads it again."""
    if written:
        GenerationConfig(**written).save_pretrained(base)
    config = LlamaConfig(vocab_size=600)
    speak_like_trained(config, tokenizer, Weights(str(base))).save_pretrained(base / "out")
    return GenerationConfig.from_pretrained(base / "out"), config


def sampling(settings: GenerationConfig) -> dict[str, float]:
    names = (*OURS, "top_k", "min_p")
    return {name: value for name in names if (value := getattr(settings, name, None)) is not None}


def test_a_base_that_says_nothing_gets_ours(tokenizer, tmp_path: Path) -> None:
    settings, config = spoken(tokenizer, tmp_path)
    assert settings.do_sample and sampling(settings) == OURS
    assert settings.eos_token_id == [tokenizer.convert_tokens_to_ids("<|end|>")] == [config.eos_token_id]
    assert settings.pad_token_id == config.pad_token_id == tokenizer.pad_token_id


def test_an_instruct_bases_stops_and_sampling_stay(tokenizer, tmp_path: Path) -> None:
    theirs = {"do_sample": True, "top_k": 64, "top_p": 0.95, "eos_token_id": [1, 106], "max_new_tokens": 77}
    settings, config = spoken(tokenizer, tmp_path, **theirs)
    ours = tokenizer.convert_tokens_to_ids("<|end|>")
    assert settings.eos_token_id == [ours, 1, 106] and config.eos_token_id == ours
    assert settings.do_sample and sampling(settings) == {"top_k": 64, "top_p": 0.95}
    assert settings.max_new_tokens == 77


def test_a_tokenizer_of_another_program_ends_as_its_base(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "слово": 2}, unk_token="<unk>"))
    foreign = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    settings, config = spoken(foreign, tmp_path, do_sample=True, temperature=1.0, eos_token_id=[0, 106], pad_token_id=5)
    assert settings.eos_token_id == [0, 106] and config.eos_token_id == 0
    assert settings.temperature == 1.0 and settings.pad_token_id == 5


def test_greedy_alone_is_no_sampling(tokenizer, tmp_path: Path) -> None:
    settings, _ = spoken(tokenizer, tmp_path, do_sample=False, eos_token_id=7, max_new_tokens=2048)
    assert settings.do_sample and sampling(settings) == OURS
    assert settings.eos_token_id[-1] == 7


def test_numbers_copied_from_a_config_are_not_the_authors(llama, tokenizer, tmp_path: Path) -> None:
    llama(eos_token_id=2).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 2
    settings, _ = spoken(tokenizer, tmp_path)
    assert 2 not in settings.eos_token_id or tokenizer.convert_tokens_to_ids("<|end|>") == 2


@pytest.mark.parametrize(
    "text",
    ['{"temperature": 0.6, "eos_token_id": 7}', '{"num_beams": 1, "length_penalty": 0.6, "eos_token_id": 7}', "{"],
    ids=["never said to sample", "cannot be", "damaged"],
)
def test_what_transformers_would_not_write_does_not_stop_an_export(text: str, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    settings, _ = spoken(tokenizer, tmp_path)
    assert settings.do_sample and settings.temperature in (0.6, OURS["temperature"])
    assert text == "{" or 7 in settings.eos_token_id
