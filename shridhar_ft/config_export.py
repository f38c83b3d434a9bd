"""The export section of a recipe: what is written at the end, and where it goes."""

from typing import Annotated, Literal

from pydantic import Field

from shridhar_ft.config_data import Section

GgufKind = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"]


class Export(Section):
    """What is written at the end."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the exported weights; auto: float32 for a model from config, the base's own otherwise."""
    licence: str = "other"
    """Licence of the exported model for the model card: one of the Hub's ids, or a name of your own."""
    language: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(["ru"])
    """Languages of the model by their ISO 639 codes, for the model card, e.g. [ru, sa]."""
    data_licences: dict[str, str] = Field({})
    """Licences of the data for the model card, by source or kind, e.g. {books: public domain, chats.jsonl: private}."""
    shard_gb: float = Field(4.0, gt=0)
    """Largest safetensors file, in GB (10⁹ bytes); a single tensor may be larger."""
    gguf: list[GgufKind] = Field([])
    """GGUF files for llama.cpp and Ollama; q8_0 is what the long context was measured with."""
    ollama: bool = False
    """Write a Modelfile for the first GGUF (for q8_0 where gguf names none)."""
    system: str | None = None
    """System text that the Modelfile sets."""
    push_to_hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository on the Hub that the export is uploaded to, OWNER/NAME; it is made if need be."""
    private: bool = True
    """Whether a repository that is made for it is private."""

    @property
    def gguf_kinds(self) -> tuple[str, ...]:
        """Kinds of GGUF that are written."""
        return tuple(dict.fromkeys(self.gguf or (["q8_0"] if self.ollama else [])))
