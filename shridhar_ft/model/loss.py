"""Cross-entropy of a linear head without the whole logits, its gradients made in the same pass; and a head with it.

    linear_cross_entropy   chunk of tokens → logits → softmax → gradient of the logits in the same buffer
                           → gradients of hidden states and weight; the backward pass only multiplies by a number
    add_loss_head          model(..., labels=…, fused_lm_head=True) gives .loss and .log_probs instead of logits

TRL's fused head recomputes the logits in the backward pass: four matrix products instead of three, which is right where
a Triton kernel fuses the rest, and the slowest part of a step where there is none. It stays on CUDA; CPU and MPS get
this one.
"""

import functools
import types
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from shridhar_ft.plan.memory import LOGITS_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

IGNORED = -100  # what torch's cross-entropy leaves out
BLOCK_NUMBERS = 1 << 20
"""Numbers that are worked on at once between two matrix products, 4 MiB of fp32: they stay in the cache."""
OWN_DEVICES = ("cpu", "mps")
MARK = "_gives_loss"


# ------------------------------------------------------------------------------------------------ the function


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    denominator: float | torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of softcap(scale · (hidden @ weight.T + bias)), divided by `denominator`.

    Matrix products run in the dtype of `hidden`, under autocast in autocast's (in fp32 on a CPU that has no kernel for
    it); softmax, sums and the gradient of the weight are fp32. In fp32 it agrees with the plain loss to 1e-6 of it
    and 1e-5 of the largest gradient; in bf16 it errs as that one does (1.5 times as much in gradients of bf16 weights,
    which are rounded twice). With gradients it is meant for one backward pass: that hands its buffers on.

    Args:
        hidden: Hidden states, (N, D).
        weight: Weight of the head, (V, D).
        labels: int64 (N,), each the token that its row predicts; rows with −100 are left out and cost nothing.
        denominator: What the sum is divided by, e.g. the labels of the whole optimizer step over all ranks.
        bias: Bias of the head, (V,).
        scale: What the logits are multiplied by, before `softcap`.
        softcap: c in c · tanh(logits / c) (Gemma 2, arXiv 2408.00118).

    Returns:
        The loss, a fp32 scalar; and the log-probability of each label, fp32 (N,), detached, 0 where the label is −100.
    """
    learns = torch.is_grad_enabled()
    wanted = tuple(learns and part is not None and part.requires_grad for part in (hidden, weight, bias))
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, float(denominator), scale, softcap, wanted)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        denominator: float,
        scale: float,
        softcap: float | None,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        dtype = _arithmetic(hidden.dtype, device)
        exact = torch.promote_types(dtype, torch.float32)
        with torch.autocast(device, enabled=False):
            log_probs = torch.zeros(len(labels), dtype=exact, device=hidden.device)
            for_hidden, for_weight, for_bias = gradients = (
                torch.zeros_like(hidden) if wanted[0] else None,
                torch.zeros(weight.shape, dtype=exact, device=weight.device) if wanted[1] else None,
                torch.zeros(len(weight), dtype=exact, device=weight.device) if wanted[2] else None,
            )
            cast = weight.to(dtype)  # once: a cast a chunk would read all of it again
            tokens = max(1, LOGITS_BYTES // (len(weight) * cast.element_size()))
            valid = (labels != IGNORED).nonzero()[:, 0]
            buffer = hidden.new_empty((min(tokens, len(valid)), len(weight)), dtype=dtype)
            for rows in valid.split(tokens):
                inputs = hidden[rows].to(dtype)  # (n, D)
                logits = torch.mm(inputs, cast.t(), out=buffer[: len(rows)])  # (n, V)
                log_probs[rows] = _softmax(
                    logits, labels[rows], bias, scale, softcap, 1 / denominator if any(wanted) else None
                )
                # From here on the buffer holds the gradient of the logits.
                if for_hidden is not None:
                    for_hidden[rows] = torch.mm(logits, cast).to(hidden.dtype)
                if for_weight is not None:
                    _add_product(for_weight, logits.t(), inputs)
                if for_bias is not None:
                    for_bias += logits.sum(0, dtype=exact)
            ctx.gradients = [
                None if found is None else found.to(of.dtype)
                for found, of in zip(gradients, (hidden, weight, bias), strict=True)
            ]
            loss = -log_probs.sum() / denominator
        ctx.mark_non_differentiable(log_probs)
        return loss, log_probs

    @staticmethod
    def backward(ctx: Any, from_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        # Kept on ctx and not saved by autograd: a hook that offloads saved activations has no business with them. Let
        # go of here, they become the parameters' .grad without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("linear_cross_entropy: its gradients were handed on by an earlier backward pass")
        factor = float(from_loss)
        if factor != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(factor)
        return *gradients, None, None, None, None, None


def _arithmetic(dtype: torch.dtype, device: str) -> torch.dtype:
    """Dtype of the matrix products: the tensors' own, or autocast's; fp32 where the CPU has no kernel for that one.

    Without such instructions torch multiplies bf16 in a plain loop, in some layouts a hundred times slower than fp32.
    """
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return torch.float32 if dtype in _slow_here(device) else dtype


@functools.cache
def _slow_here(device: str) -> frozenset[torch.dtype]:
    """Dtypes that no kernel of this machine's oneDNN multiplies."""
    if device != "cpu":
        return frozenset()
    known = torch.backends.mkldnn.is_available()
    found = {
        torch.bfloat16: known and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: known and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, fast in found.items() if not fast)


def _softmax(
    logits: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    weight: float | None,
) -> torch.Tensor:
    """Log-probabilities of the labels, (n,); `logits` become the gradient of −weight · their sum, unless it is None.

    A block of rows at a time: what six passes read and write is then in the cache, and a second buffer as wide as the
    vocabulary, which a dtype other than fp32 needs, is a few rows.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    at_once = max(1, BLOCK_NUMBERS // logits.shape[1])
    found = []
    for block, of in zip(logits.split(at_once), labels.split(at_once), strict=True):
        label = of[:, None]
        z = block.to(exact)  # (rows, V); the block itself where it is exact already
        if bias is not None:
            z += bias
        if scale != 1:
            z *= scale
        bent = None
        if softcap is not None:
            bent = z.div_(softcap).tanh_().clone()
            z *= softcap
        chosen = z.gather(1, label)
        largest = z.amax(1, keepdim=True)
        total = z.sub_(largest).exp_().sum(1, keepdim=True)
        found.append((chosen - largest - total.log())[:, 0])
        if weight is None:
            continue
        z *= weight / total
        z.scatter_add_(1, label, torch.full_like(chosen, -weight))
        if bent is not None:
            z *= bent.square_().neg_().add_(1)  # the slope of tanh
        if scale != 1:
            z *= scale
        if z is not block:
            block.copy_(z)
    return torch.cat(found)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right for a fp32 total, (V, n) @ (n, D); in bf16 a chunk's product is rounded, as a layer's is.

    CPU and MPS have no product of bf16 matrices that leaves fp32, so it goes through a block that stays in the cache.
    """
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    at_once = max(1, BLOCK_NUMBERS // total.shape[1])
    for part, of in zip(total.split(at_once), left.split(at_once), strict=True):
        part += torch.mm(of, right)


# ---------------------------------------------------------------------------------------------------- the head


@dataclass
class LossOutput(ModelOutput):
    """What a model with the loss head returns; the names are those of TRL's FusedCausalLMOutput."""

    loss: torch.Tensor | None = None
    """Summed nats / num_items_in_batch, or / the labels of this batch where that is not given; fp32 scalar."""
    log_probs: torch.Tensor | None = None
    """Log-probability of each next token, detached, 0 where its label is −100: fp32 (B, T − 1)."""
    label_mask: torch.Tensor | None = None
    """Where the label is not −100: bool (B, T − 1)."""


def add_loss_head(model: torch.nn.Module) -> None:
    """Let `model(..., labels=…, fused_lm_head=True)` return a loss and log-probabilities instead of logits.

    Without `fused_lm_head` the forward is what it was. A second call changes nothing. SFTTrainer puts TRL's head on
    its model when it is made: call this after it, and this one is taken. Other devices than CPU and MPS get TRL's, and
    so do models with a router (mixture of experts), whose loss has a second part that TRL computes.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft or accelerate. No adapter may lie on
            its head: the loss is computed from the head's weight, past the adapter.
    """
    bare: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if _has_head(bare):  # every window that is scored asks, and accelerate looks packages up
        return
    from accelerate.utils import extract_model_from_parallel

    core: Any = extract_model_from_parallel(model, keep_torch_compile=False)
    inner = core.get_base_model() if hasattr(core, "get_base_model") else core
    if _has_head(inner):
        return
    config = inner.config.get_text_config()
    if next(inner.parameters()).device.type in OWN_DEVICES and not hasattr(config, "output_router_logits"):
        _patch(inner, *_logits_transform(config))
    else:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(inner, outputs=("log_probs", "entropy", "is_top1"))  # all that TRL's compute_loss reads
    setattr(inner.forward.__func__, MARK, True)


def _has_head(model: Any) -> bool:  # noqa: ANN401
    """Whether the head is there, under accelerate's autocast too: a second one over that would run outside of it."""
    forward = model.forward
    while forward is not None and not getattr(forward, MARK, False):
        forward = getattr(forward, "__wrapped__", None)
    return forward is not None


def _patch(model: "PreTrainedModel", scale: float, softcap: float | None) -> None:
    plain = model.forward

    # The class's signature is kept: generate checks its arguments against it.
    @functools.wraps(type(model).forward)
    def forward(
        self: "PreTrainedModel",
        *args: Any,  # noqa: ANN401
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return plain(*args, **kwargs, **{key: value for key, value in given.items() if value is not None})
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state  # (B, T, D)
        if shift_labels is None:  # sequence parallelism shifts them itself, across ranks
            assert labels is not None, "the loss head needs labels"
            # Labels move, not hidden states: cutting off the last of those would copy all of them.
            wanted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
            length = wanted.shape[1] - 1
        else:
            wanted, length = shift_labels, shift_labels.shape[1]
        mask = wanted != IGNORED
        # A batch without a label is a finite zero, with gradients of zero.
        items = torch.as_tensor(mask.sum() if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        head = self.get_output_embeddings()  # looked up each time: peft may have wrapped it since
        bias = getattr(head, "bias", None)
        with _gathered(head.weight, bias):
            loss, log_probs = linear_cross_entropy(
                hidden.flatten(0, 1),
                head.weight,
                wanted.flatten(),
                denominator=items,
                bias=bias,
                scale=scale,
                softcap=softcap,
            )
        return LossOutput(loss=loss, log_probs=log_probs.view(mask.shape)[:, :length], label_mask=mask[:, :length])

    model.forward = types.MethodType(forward, model)


def _logits_transform(config: "PreTrainedConfig") -> tuple[float, float | None]:
    """What a model does to its head's output, read off its config as TRL's add_fused_lm_head does: scale, softcap."""
    softcap = getattr(config, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere, Muse Glimmer, Falcon-H1
        if (scale := getattr(config, name, None)) is not None:
            return float(scale), softcap
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0, softcap
    return float(scaling if config.model_type == "hyperclovax" else 1 / scaling), softcap  # Granite, MiniCPM3 divide


def _gathered(*parameters: torch.nn.Parameter | None) -> AbstractContextManager:
    """Whole parameters where ZeRO-3 has split them: the head is never called, so no hook gathers its weight."""
    split = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]  # none before the engine is made
    if not split:
        return nullcontext()
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    return maybe_gather_lm_head_ctx(*split)
