"""What an adapter makes of one tensor of its base: LoRA, rsLoRA, DoRA, whole modules; read tensor by tensor.

The formulas are peft's (tuners/lora/layer.py, dora.py), applied to one weight at a time in float32.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.adapter_base import AdapterBase, copies
from shridhar_ft.errors import CheckFailed, UserError
from shridhar_ft.export.tensors import Stored
from shridhar_ft.model.quantized import rounded
from shridhar_ft.runfolder import read_object

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
FEATURES = (
    *("use_qalora", "use_bdlora", "lora_bias", "target_parameters", "trainable_token_indices", "layer_replication"),
    *("monteclora_config", "kasa_config", "velora_config", "alora_invocation_tokens", "fan_in_fan_out"),
)
"""Settings of peft's LoRA under which a weight is made otherwise than here."""


class Adapter:
    """An adapter folder, of peft's LoRA kind."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: No adapter, or its files cannot be read.
        """
        config = folder / "adapter_config.json"
        if not config.is_file():
            raise UserError(
                f"{folder}: no adapter there (adapter_config.json is missing); name a folder that holds one"
            )
        self.folder = folder
        self.settings: dict[str, Any] = read_object(config, "peft_type", mend="copy the adapter again")
        self.own = AdapterBase.read(folder)
        self.tensors = Stored(folder, "adapter_model.safetensors")
        self.used: set[str] = set()

    def other_features(self) -> list[str]:
        """What it has that cannot be merged tensor by tensor here; peft itself has to merge it whole."""
        found = [key for key in FEATURES if self.settings.get(key)]
        if self.settings.get("peft_type") != "LORA":
            found.append(f"peft_type {self.settings.get('peft_type')}")
        if self.settings.get("bias", "none") != "none":
            found.append(f"bias: {self.settings['bias']}")
        return found

    def whole(self, name: str) -> "torch.Tensor | None":
        """The tensor that replaces this one (modules_to_save), or None."""
        return self._read(f"{PREFIX}{name}")

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of the tensor that replaces this one, or None."""
        key = f"{PREFIX}{name}"
        return self.tensors.shape(key) if key in self.tensors.files else None

    def beneath(self, weight: "torch.Tensor", linear: bool) -> "torch.Tensor":
        """A tensor of the base as this adapter found it: rounded, where it was trained on a quantised one."""
        if linear and self.own is not None and self.own.quantization is not None:
            return rounded(weight, self.own.quantization)
        return weight

    def apply(self, name: str, weight: "torch.Tensor", linear: bool) -> "torch.Tensor":
        """A tensor of the base with this adapter's update.

        Args:
            name: As the model has it, e.g. `model.layers.0.self_attn.q_proj.weight`.
            weight: With the adapters before this one merged, as stored or float32.
            linear: Whether a quantised base rounds it: the weight of a linear layer other than the head.

        Returns:
            float32 where anything changed.

        Raises:
            CheckFailed: The update does not fit, or is not finite.
        """
        import torch

        weight = self.beneath(weight, linear)
        if (whole := self.whole(name)) is not None:
            if whole.shape != weight.shape:
                raise CheckFailed(self._misfit(name, whole, weight))
            return self._finite(name, whole.float())
        module = name.removesuffix(".weight")
        key = f"{PREFIX}{module}"
        if (down := self._read(f"{key}.lora_embedding_A")) is not None:
            up = self._needed(f"{key}.lora_embedding_B")
            update = (up.float() @ down.float()).T * self._scaling(module)
        elif (down := self._read(f"{key}.lora_A.weight")) is not None:
            update = self._needed(f"{key}.lora_B.weight").float() @ down.float() * self._scaling(module)
        else:
            return weight
        if update.shape != weight.shape:
            raise CheckFailed(self._misfit(name, update, weight))
        weight = weight.float() + update
        if (magnitude := self._read(f"{key}.lora_magnitude_vector")) is not None:
            weight *= (magnitude.float() / torch.linalg.norm(weight, dim=1)).view(-1, 1)
        return self._finite(name, weight)

    def check_all_used(self) -> None:
        """Refuse where tensors of the adapter met no tensor of the base.

        Raises:
            CheckFailed: Some are left over.
        """
        if left := sorted(set(self.tensors.files) - self.used - copies(self.tensors.files)):
            raise CheckFailed(
                f"{self.folder}: {len(left)} tensors of the adapter fit nothing in the base, first {left[0]}; it "
                "belongs to another base"
            )

    def _scaling(self, module: str) -> float:
        from peft.utils.other import get_pattern_key

        ranks, alphas = self.settings.get("rank_pattern") or {}, self.settings.get("alpha_pattern") or {}
        rank = ranks.get(get_pattern_key(list(ranks), module), self.settings["r"])
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.settings["lora_alpha"])
        return alpha / (rank**0.5 if self.settings.get("use_rslora") else rank)

    def _read(self, key: str) -> "torch.Tensor | None":
        if key not in self.tensors.files:
            return None
        self.used.add(key)
        return self.tensors.read(key)

    def _needed(self, key: str) -> "torch.Tensor":
        if (found := self._read(key)) is None:
            raise CheckFailed(f"{self.folder}: the tensor {key} is missing; the adapter is damaged")
        return found

    def _misfit(self, name: str, found: "torch.Tensor", weight: "torch.Tensor") -> str:
        return (
            f"{self.folder}: its update of {name} has the shape {list(found.shape)} and the base {list(weight.shape)}; "
            "it belongs to another base"
        )

    def _finite(self, name: str, weight: "torch.Tensor") -> "torch.Tensor":
        import torch

        if not torch.isfinite(weight).all():
            raise CheckFailed(f"{self.folder}: {name} is not finite with its update; the adapter is broken")
        return weight
