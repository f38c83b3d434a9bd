"""The isolation probe: documents that share a window must not see one another, on this machine's own attention.

One token of one packed document is changed; the logits of the others may not move, and those after it in its own
document must, or the probe would prove nothing. A document's logits must also be what they are when it stands
alone: that shows positions to begin at 0 in each. Short documents and long ones go through a kernel in different ways
(model/segments.py), so there are both where the context has room, and a token is changed in one of either kind. Where
layers slide, the last document is longer than their window.
"""

from typing import TYPE_CHECKING, Any

from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.model.interface import kernels_as_in_training
from shridhar_ft.model.segments import SHORT
from shridhar_ft.model.sparse import slides

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig

LENGTHS = (23, 17, 31)  # tokens; odd sizes, so that no kernel's block ends where a document does
LONG = (SHORT + 23, SHORT + 17)
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # difference that is rounding, for logits of size 1
MOST = 64  # logits looked at in one document, spread evenly: of a long one all would fill gigabytes


def probe_isolation(
    model: "nn.Module", vocab_size: int, context: int, rows: int = 1, skips: bool = False, shared: bool = False
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Run the probe on the live model.

    Args:
        model: As it will train: its attention, its dtype (and autocast around the call), its adapter.
        vocab_size: Token ids are drawn below it.
        context: Positions that will be trained; shorter contexts get shorter documents.
        rows: Windows in the batch (the same one again): some kernels keep documents apart in a single row only.
        skips: Positions jump inside each document, as positional skip-wise training has it; what stands after the jump
            must see what stands before it.
        shared: All processes share each row (Ulysses is in place); every one of them has to come here.

    Returns:
        Claimed, measured and whether they agree, as a receipt wants them.
    """
    import torch

    config = getattr(model, "module", model).config  # DeepSpeed's wrapper has a config of its own
    lengths = _lengths(config, context)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    touched = range(1, len(lengths) - 1, 2)  # one document of the short ones, one of the long ones
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    ids = torch.randint(vocab_size, (1, sum(lengths)), generator=generator).repeat(rows, 1).to(device)  # (B, T)
    places = torch.cat([_positions(length, context, skips) for length in lengths]).repeat(rows, 1).to(device)  # (B, T)
    changed = ids.clone()
    for index in touched:
        first = starts[index]
        changed[:, first] = (changed[:, first] + 1) % vocab_size
    shown = [_spread(length) for length in lengths]
    looked_at = torch.cat([where + start for where, start in zip(shown, starts, strict=True)])

    was_training = model.training
    model.eval()
    logits = _shared_logits if shared else _logits
    with torch.no_grad(), kernels_as_in_training():
        before = logits(model, ids, places, lengths, looked_at)
        after = logits(model, changed, places, lengths, looked_at)
        alone = logits(model, ids[:, starts[-1] :], places[:, starts[-1] :], lengths[-1:], shown[-1])
    model.train(was_training)

    moved = (before - after).abs().amax(-1)  # (looked at,)
    of_documents = moved.split([len(where) for where in shown])
    inside = {index: of_documents[index][1:] for index in touched}
    against_alone = float((before[-len(shown[-1]) :] - alone).abs().max())
    leak = max(float(one.max()) for index, one in enumerate(of_documents) if index not in touched)
    effect = min(float(one.max()) for one in inside.values())
    dtype = _dtype(model, device)
    tolerance = TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) * max(1.0, float(before.abs().max()))
    # Where no logit of another document moves by a bit, whatever moves at all has seen the change. That a model looks
    # back little (a few steps old, in bf16) is no fault of its attention.
    seen = tolerance if leak > 0 else 0.0
    ok = leak <= tolerance and against_alone <= tolerance and effect > seen
    claimed = {"documents": lengths, "other_documents_move": 0, "tolerance": tolerance}
    measured = {
        "largest_difference_in_other_documents": leak,
        "largest_difference_in_the_changed_document": effect,
        "largest_difference_packed_against_alone": against_alone,
        "attention": config._attn_implementation,
        "dtype": dtype,
    }
    if skips:
        # Of the short one: a token of 500 moves what comes far behind it by too little to be told from rounding.
        beyond = float(inside[1][shown[1][1:] >= lengths[1] // 2].max())
        measured["largest_difference_beyond_the_skip"] = beyond
        ok = ok and beyond > seen / 10  # a chunk that does not see the other one moves by nothing
    return claimed, measured, ok


def _lengths(config: "PreTrainedConfig", context: int) -> list[int]:
    """Lengths of the documents; the last goes over its sliding window and into a second block of it."""
    lengths = [max(3, min(length, context // 3)) for length in LENGTHS]
    if sum((*lengths, *LONG)) <= context:
        lengths += LONG
    if slides(config):
        window = config.sliding_window
        lengths[-1] = max(lengths[-1], min(window + window // 2 + LENGTHS[2], context - sum(lengths[:-1])))
    return lengths


def _positions(length: int, context: int, skips: bool) -> "torch.Tensor":
    """From 0 on; with skips the second half ends where the context does."""
    import torch

    places = torch.arange(length)
    if skips:
        places[length // 2 :] += max(0, context - length)
    return places


def _spread(length: int) -> "torch.Tensor":
    """Places of a document that are looked at, its last among them."""
    import torch

    return torch.linspace(0, length - 1, min(length, MOST)).round().long()


def _dtype(model: "nn.Module", device: "torch.device") -> str:
    """The type that matrix products run in."""
    import torch

    if torch.is_autocast_enabled(device.type):
        return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _logits(
    model: "nn.Module", ids: "torch.Tensor", places: "torch.Tensor", lengths: list[int], looked_at: "torch.Tensor"
) -> "torch.Tensor":
    """Logits of the last row as training computes them, no mask and no cache; (looked at, V) in float32."""
    given = boundaries([lengths] * len(ids))
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        given[name] = given[name].to(ids.device)
    output = model(
        input_ids=ids, position_ids=places, use_cache=False, logits_to_keep=looked_at.to(ids.device), **given
    )
    return output.logits[-1].float()


def _shared_logits(
    model: "nn.Module", ids: "torch.Tensor", places: "torch.Tensor", lengths: list[int], looked_at: "torch.Tensor"
) -> "torch.Tensor":
    """The same from a row that all processes share, each with its part of the tokens, as Ulysses trains.

    Ulysses works in training only, so the attention layers are put there for the time, without their dropout.
    """
    import torch
    from deepspeed.utils import groups
    from torch import distributed

    group = groups._get_sequence_parallel_group()
    size, rank = distributed.get_world_size(group), distributed.get_rank(group)
    spare = -ids.shape[1] % size  # a piece of padding at the end, as the collator has it
    ids = torch.nn.functional.pad(ids, (0, spare))
    places = torch.cat([places, torch.arange(spare, device=ids.device).repeat(len(ids), 1)], dim=1)
    attentions = [module for module in model.modules() if hasattr(module, "num_key_value_groups")]
    dropouts = [getattr(module, "attention_dropout", 0.0) for module in attentions]
    for module in attentions:
        module.train()
        module.attention_dropout = 0.0
    share = ids.shape[1] // size
    own = slice(rank * share, (rank + 1) * share)
    logits = model(input_ids=ids[:, own], position_ids=places[:, own].contiguous(), use_cache=False).logits
    for module, dropout in zip(attentions, dropouts, strict=True):
        module.eval()
        module.attention_dropout = dropout
    whole = [torch.empty_like(logits) for _ in range(size)]
    distributed.all_gather(whole, logits.contiguous(), group=group)
    return torch.cat(whole, dim=1)[-1][looked_at.to(ids.device)].float()
