"""A model of transformers as its speed is measured."""

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.errors import UserError
from shridhar_ft.speed.timing import SEED_TOKENS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass
class TimedTransformers:
    """A causal model of transformers, in evaluation mode."""

    model: "PreTrainedModel"
    device: str = field(init=False)
    _cache: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.device = self.model.device.type
        self.vocabulary = int(self.model.config.get_text_config().vocab_size)
        held = {id(tensor): tensor for tensor in self.model.parameters()}.values()
        embedding = self.model.get_input_embeddings().weight
        tied = self.model.get_output_embeddings().weight is embedding
        read = [tensor for tensor in held if tied or tensor is not embedding]
        self.weights = sum(tensor.numel() * tensor.element_size() for tensor in read)
        self.parameters: int | None = sum(tensor.numel() for tensor in read)
        # transformers 5.24 renamed it.
        taken = inspect.signature(self.model.forward).parameters
        self._name = "cache" if "cache" in taken else "past_key_values"
        self._seed = self._read_seed()

    def _read_seed(self) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
        """Keys and values of the first tokens, by layer; it warms up, too."""
        import torch

        ids = np.random.default_rng(1).integers(0, self.vocabulary, SEED_TOKENS)
        self._empty()
        self.read(ids)
        held = []
        for layer in self._cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor) or keys.dim() != 4:
                raise UserError(
                    f"speed: the layers of {self.model.config.model_type} keep something else than keys and values, so "
                    "a depth cannot be filled"
                )
            held.append((keys, values))
        return held

    def _empty(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self.model.config)

    def at(self, depth: int) -> int:
        import torch

        self._empty()
        each = 0
        for index, pair in enumerate(self._seed):
            each += sum(one.numel() * one.element_size() // one.shape[2] for one in pair)
            if depth:
                place = torch.arange(depth, device=self.model.device) % pair[0].shape[2]
                self._cache.update(pair[0][:, :, place], pair[1][:, :, place], index)
        return each

    def read(self, ids: np.ndarray) -> None:
        self._forward(ids)

    def draw(self, token: int) -> None:
        self._forward(np.array([token]))

    def _forward(self, ids: np.ndarray) -> None:
        import torch

        rows = torch.as_tensor(ids, dtype=torch.long, device=self.model.device)[None]
        with torch.inference_mode():
            logits = self.model(rows, **{self._name: self._cache}, use_cache=True, logits_to_keep=1).logits
            logits[0, -1, 0].item()  # waits for the device
