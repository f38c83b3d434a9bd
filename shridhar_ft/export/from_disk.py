"""A model whose weights stay on the disk: each decoder layer's are read for its forward pass, and dropped after it.

For a certificate of a model that is larger than the memory. accelerate's hooks do the work; what they ask for by name
is read, merged and cast to float32 only then.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shridhar_ft.adapters import adapter_state, load_adapter
from shridhar_ft.export.tensors import Stored
from shridhar_ft.model.build import end_names
from shridhar_ft.model.rope import forget_lengths
from shridhar_ft.model.tiled_mlp import layer_without_mlp, tile_layers

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig

Read = Callable[[], "torch.Tensor"]
WRAPPED = (".base_layer.", ".original_module.")  # what peft puts into the names of the base's tensors


class Lazily(Mapping[str, "torch.Tensor"]):
    """Tensors by their names, each made in float32 whenever it is asked for, and kept by nobody here."""

    def __init__(self, makers: Mapping[str, Read]) -> None:
        self.makers = makers

    def __getitem__(self, name: str) -> "torch.Tensor":
        return self.makers[name]().float()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def model_on_disk(
    config: "PreTrainedConfig",
    tensors: Mapping[str, Read],
    device: "torch.device",
    kernel: str,
    adapter: str | None = None,
) -> Any:  # noqa: ANN401 - a model of transformers or peft
    """A causal language model that computes in float32 and holds one layer's weights at a time.

    Args:
        config: The model's, its vocabulary that of the tensors.
        tensors: How to read each weight, by its name in the model; a tied head may be missing.
        device: Where it computes.
        kernel: Attention, by transformers' name.
        adapter: Folder of an adapter that is attached.
    """
    import torch
    from accelerate import init_empty_weights
    from accelerate.hooks import attach_align_device_hook
    from transformers import AutoModelForCausalLM
    from transformers.modeling_layers import GradientCheckpointingLayer

    import shridhar_ft.model.interface  # noqa: F401 - registers its functions

    with init_empty_weights():  # parameters have no memory; buffers, the frequencies of RoPE among them, are computed
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=kernel)
    model.tie_weights()  # which the empty ones have lost
    forget_lengths(model)
    embeddings, head = (f"{name}.weight" for name in end_names(model))
    layers = sorted({type(m).__name__ for m in model.modules() if isinstance(m, GradientCheckpointingLayer)})
    prefix, own = "", {}
    if adapter is not None:
        model = load_adapter(model, adapter, trainable=False)
        prefix, own = "base_model.model.", _of_adapter(model, Path(adapter))
    if layer_without_mlp(model) is None:  # of a long text, an MLP's intermediates are larger than a layer
        tile_layers(model)
    makers: dict[str, Read] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        plain = name.removeprefix(prefix)
        for part in WRAPPED:
            plain = plain.replace(part, ".")
        if plain == head and plain not in tensors:
            plain = embeddings
        if name in own:
            makers[name] = own[name]
        elif plain in tensors:
            makers[name] = tensors[plain]
        else:  # an adapter's that its file has under another name only: tied to it
            assert not parameter.is_meta, f"nothing knows how to read {name}"
            makers[name] = parameter.detach
    attach_align_device_hook(
        model, device, offload=True, weights_map=Lazily(makers), preload_module_classes=layers, skip_keys=None
    )
    return model


def _of_adapter(model: "PeftModel", folder: Path) -> dict[str, Read]:
    """How to read an adapter's tensors from its file, by the names that they have in the live model."""
    import torch

    stored = Stored(folder, "adapter_model.safetensors")
    names = list(model.state_dict())
    # peft alone knows what it calls which tensor in the file: it is asked with numbers in the place of tensors.
    numbered = adapter_state(model, {name: torch.tensor(index) for index, name in enumerate(names)})
    return {names[int(index)]: partial(stored.read, key) for key, index in numbered.items()}
