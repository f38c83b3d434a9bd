"""MLPs and norms over tiles of the sequence: their intermediates exist for one tile only.

Both treat each token by itself, so the forward over tiles is the same arithmetic row by row, and the backward the sum
over tiles (ALST, Bekman et al. 2025, arXiv 2506.13996). Gradients of the weights are summed in float32 and handed to
autograd once, as an untiled module's are: hooks that count on one gradient a backward pass (DDP, accumulation) hold,
and bf16 sums do not drift (a trap that others fell into: axolotl#2865).

Cost of a tiled MLP: without checkpointing the backward pass computes its forward again. With checkpointing nothing, as
it is computed again there anyway, and here in the tiles only (see `_Input` and `_Last`). A tiled norm is computed again
too, and is faster nevertheless: its five passes over the tokens run in the cache.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from shridhar_ft.errors import UserError
from shridhar_ft.model.norms import is_norm
from shridhar_ft.plan.memory import TILE

Forward = Callable[[torch.Tensor], torch.Tensor]


def tile_layers(model: nn.Module, tile: int = TILE) -> int:
    """Make every decoder layer's `mlp`, and every norm, work over tiles; returns the number of layers.

    Args:
        model: A decoder of transformers, adapters attached or not.
        tile: Tokens of a tile.

    Raises:
        UserError: A layer without a plain `mlp`: one of experts looks at all tokens at once.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if (name := layer_without_mlp(model)) is not None:
        raise UserError(f"memory: tiled_mlp works on layers with one plain `mlp`, which {name} has not; take it out")
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.mlp.forward = partial(_tiled, layer.mlp.forward, layer.mlp, _last_layer(layer.mlp), tile)
    width = model.get_input_embeddings().weight.shape[-1]
    for module in model.modules():
        if is_norm(module) and getattr(module, "weight", None) is not None:
            rows = tile * width // module.weight.shape[-1]  # norms of heads see one row a head
            module.forward = partial(_tiled, module.forward, module, None, rows)
    return len(layers)


def layer_without_mlp(model: nn.Module) -> str | None:
    """The class of the first decoder layer whose `mlp` is not there, or looks at all tokens at once (experts)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        mlp = getattr(layer, "mlp", None)
        if mlp is None or any("expert" in name or "router" in name for name, _ in mlp.named_modules()):
            return type(layer).__name__
    return None


def _tiled(
    forward: Forward, module: nn.Module, last: nn.Linear | None, tile: int, hidden: torch.Tensor
) -> torch.Tensor:
    if hidden.shape[:-1].numel() <= tile:
        return forward(hidden)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not torch.is_grad_enabled() or not (hidden.requires_grad or trained):
        return _over_tiles(forward, tile, hidden)
    kept: list[Any] = []
    # Where nothing before it is trained (LoRA on the first MLP alone), the input still needs its place in the graph.
    source = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
    return _Tiles.apply(_Input.apply(source, kept, hidden.requires_grad), forward, last, tile, kept, *trained)


def _over_tiles(forward: Forward, tile: int, hidden: torch.Tensor) -> torch.Tensor:
    out = None
    for place, rows in _tiles(hidden, tile):
        part = forward(rows)
        if out is None:
            out = part.new_empty((1, hidden.shape[:-1].numel(), part.shape[-1]))
        out[:, place] = part
    assert out is not None, "a batch without tokens"
    return out.view(*hidden.shape[:-1], -1)


class _Input(torch.autograd.Function):
    """Saves the module's input before the module is computed.

    In a checkpoint's recomputation torch stops at the last tensor that the first forward saved. That is this one where
    nothing after the MLP saves any (llama: a residual sum), so the MLP's forward is not computed a second time for
    nothing; where a norm follows (gemma 3), the recomputation goes on to it through the tiles.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, kept: list[Any], wanted: bool) -> torch.Tensor:  # noqa: ANN401
        ctx.save_for_backward(hidden)
        ctx.wanted = wanted
        kept.append(ctx)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:  # noqa: ANN401
        return gradient if ctx.wanted else None, None, None


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: torch.Tensor,  # (…, H)
        forward: Forward,
        last: nn.Linear | None,
        tile: int,
        kept: list[Any],
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        ctx.run, ctx.last, ctx.tile, ctx.kept, ctx.trained = forward, last, tile, kept, trained
        device = ctx.device_type = hidden.device.type
        ctx.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        ctx.random = _random_states(hidden.device)  # dropout must fall as it fell
        return _over_tiles(forward, tile, hidden)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        (hidden,) = ctx.kept[0].saved_tensors
        to_input = hidden.new_empty(hidden.shape)  # contiguous, whatever hidden is
        flat = to_input.view(1, -1, hidden.shape[-1])
        sums: list[torch.Tensor | None] = [None] * len(ctx.trained)
        enabled, dtype = ctx.autocast
        with (
            _drawing_from(ctx.random, hidden.device),
            torch.autocast(ctx.device_type, dtype, enabled=enabled),
            torch.enable_grad(),
            _uncomputed(ctx.last),
        ):
            gradients = (part for _, part in _tiles(gradient, ctx.tile))
            for (place, rows), of_out in zip(_tiles(hidden.detach(), ctx.tile), gradients, strict=True):
                into = [rows.requires_grad_(), *ctx.trained]
                flat[:, place], *found = torch.autograd.grad(ctx.run(rows), into, of_out, allow_unused=True)
                for index, part in enumerate(found):
                    if part is None:
                        continue
                    total = sums[index]
                    sums[index] = part.float() if total is None else total.add_(part)
        to_weights = (
            total if total is None else total.to(weight.dtype) for total, weight in zip(sums, ctx.trained, strict=True)
        )
        return to_input, None, None, None, None, *to_weights


def _random_states(device: torch.device) -> list[torch.Tensor]:
    """States of the generators that a layer on this device draws from."""
    if device.type == "cuda":
        return [torch.get_rng_state(), torch.cuda.get_rng_state(device)]
    if device.type == "mps":
        return [torch.get_rng_state(), torch.mps.get_rng_state()]
    return [torch.get_rng_state()]


def _set_random_states(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


@contextmanager
def _drawing_from(states: list[torch.Tensor], device: torch.device) -> Iterator[None]:
    before = _random_states(device)
    _set_random_states(states, device)
    try:
        yield
    finally:
        _set_random_states(before, device)


def _tiles(tensor: torch.Tensor, tile: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """A batch's tokens, rows laid end to end, tile by tile: place and tokens (1, tile, H)."""
    flat = tensor.reshape(1, -1, tensor.shape[-1])
    for start in range(0, flat.shape[1], tile):
        place = slice(start, start + tile)
        yield place, flat[:, place]


# ------------------------------------------------------------------------------- the product that nobody reads


class _Last(torch.autograd.Function):
    """An MLP's last linear layer in the recomputation: its gradients without its product, a ninth of the MLP's work."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        inner: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(inner, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return inner.new_empty(*inner.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        inner, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        to_weight = (rows.T @ inner.flatten(0, -2)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        to_bias = rows.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return gradient @ weight.to(gradient.dtype), to_weight, to_bias


def _last_layer(mlp: nn.Module) -> nn.Linear | None:
    """The linear layer whose output the MLP returns as it is, if there is one (an adapter's layer is none)."""
    last: Any = getattr(mlp, "down_proj", None)
    if type(last) is not nn.Linear or hasattr(mlp.forward, "_torchdynamo_orig_callable"):
        return None
    token = torch.zeros(1, 1, last.out_features, dtype=last.weight.dtype, device=last.weight.device)
    with torch.enable_grad(), _drawing_from(_random_states(token.device), token.device), _uncomputed(last):
        node = mlp(token.requires_grad_()).grad_fn
    return last if type(node).__name__ == "_LastBackward" else None


@contextmanager
def _uncomputed(last: nn.Linear | None) -> Iterator[None]:
    if last is None:
        yield
        return
    own = vars(last).get("forward")  # where its bf16 weight is widened for each product, as `_Last` does too
    last.forward = lambda inner: _Last.apply(inner, last.weight, last.bias)
    try:
        yield
    finally:
        if own is None:
            del last.forward
        else:
            last.forward = own
