"""Which base an adapter belongs to: written beside its tensors, and checked whenever it is loaded.

peft records a path alone. The same path may hold another model tomorrow, and an adapter on another base answers
nonsense without a word.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shridhar_ft.errors import UserError
from shridhar_ft.model.build import safetensors_hash
from shridhar_ft.model.quantized import Quantization
from shridhar_ft.runfolder import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from shridhar_ft.weights import Weights

FILE = "base.json"


def copies(names: Collection[str]) -> set[str]:
    """Names in an adapter's file of what nobody needs: peft may store a module that is trained whole three times.

    `….original_module.weight` is the base's, and `….modules_to_save.weight` is `….weight` once more.
    """
    return {
        name
        for name in names
        for extra in (".original_module", ".modules_to_save")
        if extra in name and name.replace(extra, "") in names
    }


@dataclass(frozen=True)
class AdapterBase:
    """What an adapter was trained on."""

    base: str
    """Folder or Hub id."""
    revision: str | None
    """Commit on the Hub."""
    hash: str
    """`weights_hash` of the base as stored, before any adapter."""
    dtype: str
    """Type of the base's stored weights."""
    quantization: Quantization | None
    """How its linear layers were stored while the adapter was trained."""
    after: tuple[str, ...]
    """`safetensors_hash` of the adapters that were merged into the base before this one was attached."""
    vocab_size: int
    """Rows of the embeddings, added ones included."""
    rope: dict[str, Any]
    """`rope_parameters` that it was trained with."""
    context: int
    """Positions that it was trained for, in tokens."""

    @classmethod
    def of(
        cls,
        weights: "Weights",
        base_hash: str,
        beneath: Sequence[str],
        quantization: Quantization | None,
        config: "PreTrainedConfig",
    ) -> "Self":
        """What is known when an adapter is written.

        Args:
            weights: The base, its adapters aside.
            base_hash: Its `weights_hash` as stored.
            beneath: Folders of the adapters that were merged into it before.
            quantization: How its layers are stored now.
            config: The live base's, with its RoPE and its vocabulary.
        """
        from transformers import AutoConfig

        stored = AutoConfig.from_pretrained(weights.base, revision=weights.revision)
        dtype = stored.dtype or stored.get_text_config().dtype  # of a base that sees images, the outer one has it
        return cls(
            base=weights.base,
            revision=weights.revision,
            hash=base_hash,
            dtype=str(dtype or "unknown").removeprefix("torch."),
            quantization=quantization,
            after=tuple(safetensors_hash(Path(folder)) for folder in beneath),
            vocab_size=config.vocab_size,
            rope=dict(config.rope_parameters),
            context=config.max_position_embeddings,
        )

    def write(self, folder: Path) -> None:
        """Write base.json into the adapter's folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> "AdapterBase | None":
        """What base.json says; None for an adapter that another program wrote.

        Raises:
            UserError: The file is damaged.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        try:
            found = read_json(file)
            how = found.pop("quantization")
            return cls(**{**found, "after": tuple(found["after"])}, quantization=Quantization(**how) if how else None)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: it cannot be read; restore it, or train the adapter anew") from error

    def check(self, folder: str | Path, base_hash: str, after: tuple[str, ...]) -> None:
        """Refuse another base than the adapter's own.

        Args:
            folder: The adapter's, for the sentence.
            base_hash: `weights_hash` of the base at hand.
            after: `safetensors_hash` of the adapters merged into it so far.

        Raises:
            UserError: It is another one, or other adapters lie beneath.
        """
        if base_hash != self.hash:
            at = f" at revision {self.revision}" if self.revision else ""
            raise UserError(
                f"{folder}: this adapter was trained on another base ({self.base}{at}, hash {self.hash[:12]}, and the "
                f"one at hand has {base_hash[:12]}); give the base that it was trained on"
            )
        if after != self.after:
            raise UserError(
                f"{folder}: this adapter was trained on a base with {len(self.after)} adapters merged into it, and "
                f"{'other ones are' if len(after) == len(self.after) else f'{len(after)} are'} merged now; merge those "
                "that it was trained on, in their order"
            )

    def put_rope(self, config: "PreTrainedConfig") -> "PreTrainedConfig":
        """Give a base's config, before the model is built, the RoPE that the adapter was trained with; in place."""
        config.rope_parameters, config.max_position_embeddings = dict(self.rope), self.context
        return config

    def check_rope(self, folder: str | Path, config: "PreTrainedConfig") -> None:
        """Refuse to answer with another RoPE than the adapter was trained with.

        Raises:
            UserError: The config's differs.
        """
        if dict(config.rope_parameters) != self.rope:
            raise UserError(
                f"{folder}: this adapter was trained with the RoPE {self.rope}, and the model has "
                f"{dict(config.rope_parameters)}; use the config that it was trained with"
            )
