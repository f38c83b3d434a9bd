"""Gradient checkpointing: each layer keeps its input and attention's output, and computes the rest again.

Attention is what grows with the square of the length, and its output is no larger than the layer's input; so it is
kept, and a step costs a sixth more than without checkpointing at any length. `recompute_attention` gives that up for
memory. What is kept may lie elsewhere (offload.py).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from shridhar_ft.errors import UserError
from shridhar_ft.model.kept_attention import KeptAttention
from shridhar_ft.model.offload import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def checkpoint_layers(model: "PreTrainedModel", recompute_attention: bool, store: Store | None) -> int:
    """Turn on checkpointing of every decoder layer; returns how many there are.

    Args:
        model: Of transformers, without an adapter's wrapper (adapters may sit inside).
        recompute_attention: Compute attention again too.
        store: Where layer inputs and attention outputs wait; None leaves them where they are.

    Raises:
        UserError: A model that transformers cannot checkpoint.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not model.supports_gradient_checkpointing:
        raise UserError(f"memory: transformers cannot checkpoint {type(model).__name__}; take checkpointing out")
    settings: dict[str, Any] = {"use_reentrant": False}
    attention, device = model.config._attn_implementation, next(model.parameters()).device.type
    if not recompute_attention and (contexts := _contexts(attention, device, store)) is not None:
        settings["context_fn"] = contexts
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if store is not None:
        for layer in layers:
            layer._gradient_checkpointing_func = _stored(layer._gradient_checkpointing_func, store)
    model.config.use_cache = False
    return len(layers)


def _contexts(attention: str, device: str, store: Store | None) -> Callable[[], Contexts] | None:
    """What surrounds a layer's first pass and its recomputation, so that attention runs in the first only."""
    if attention.startswith("shridhar") and device in ("cpu", "mps"):

        def ours() -> Contexts:
            kept = KeptAttention() if store is None else KeptAttention(store.pack, store.unpack)
            return kept.first(), kept.again()

        return ours
    if "flex" in attention:  # a compiled region, into which the policy below does not see: computed again
        return None
    from trl.models.selective_activation_checkpointing import _aten_attention_ops, _build_policy_fn

    return partial(create_selective_checkpoint_contexts, _build_policy_fn(_aten_attention_ops()))


def _stored(checkpoint: Callable[..., Any], store: Store) -> Callable[..., Any]:
    def with_input_elsewhere(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        # Only what the checkpoint itself keeps goes through these hooks: inside it, its own stand above them.
        with saved_tensors_hooks(store.pack, store.unpack):
            return checkpoint(function, *args)

    return with_input_elsewhere
