"""Settings and small real things that tests share: a trained tokenizer, tiny models, a small corpus."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from shridhar_ft.cores import cores

# Beside other workers a process gets its share of the cores: two pools of threads that each spin for all of them take
# several times as long. Set before torch is imported; the processes that tests start inherit it.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // int(workers))))

# A loaded machine is no failure of the code under test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """The bundled books, as they stand."""
    from shridhar_ft.shipped import shipped

    return [path.read_text(encoding="utf-8") for path in sorted(shipped("recipes/demo/data/books").glob("*.txt"))]


@pytest.fixture(scope="session")
def tokenizer(corpus: list[str]):
    """A byte-level BPE of 600 tokens trained on the bundled books."""
    from shridhar_ft.config import TrainTokenizer
    from shridhar_ft.tokenizer import train_tokenizer

    return train_tokenizer(corpus, TrainTokenizer(vocab_size=600), model_max_length=4096)


@pytest.fixture
def llama() -> Callable:
    """Makes tiny llamas; keywords go to the config."""
    from transformers import LlamaConfig

    from shridhar_ft.model.build import build_model

    def make(seed: int = 0, attention: str = "sdpa", **changes: object):
        sizes = {
            "vocab_size": 600,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
        }
        return build_model(LlamaConfig(**{**sizes, **changes}), seed, attention)

    return make


@pytest.fixture
def beside_base(llama: Callable, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tiny base of 64 positions in `base`, whose tokenizer has no template and no padding."""
    monkeypatch.chdir(tmp_path)
    llama(vocab_size=600, max_position_embeddings=64).save_pretrained(tmp_path / "base")
    bare = tokenizer.__class__(tokenizer_object=tokenizer._tokenizer, eos_token="<|end|>")
    bare.save_pretrained(tmp_path / "base")
    return tmp_path


@pytest.fixture
def saved_llama(llama: Callable, tmp_path: Path) -> Path:
    """A tiny llama on disk."""
    folder = tmp_path / "base"
    llama().save_pretrained(folder)
    return folder
