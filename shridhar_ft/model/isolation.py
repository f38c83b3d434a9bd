"""The isolation probe: documents that share a window must not see one another, on this machine's own attention.

One token of one packed document is changed; the logits of the others may not move, and those after it in its own
document must, or the probe would prove nothing. A document's logits must also be what they are when it stands
alone: that shows positions to begin at 0 in each.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

LENGTHS = (23, 17, 31)  # tokens; odd sizes, so that no kernel's block ends where a document does
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # largest logit difference that is rounding


def probe_isolation(
    model: "nn.Module", vocab_size: int, context: int, rows: int = 1
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Run the probe on the live model.

    Args:
        model: As it will train: its attention, its dtype, its adapter.
        vocab_size: Token ids are drawn below it.
        context: Window length in tokens; shorter windows get shorter documents.
        rows: Windows in the batch (the same one again): some kernels keep documents apart in a single row only.

    Returns:
        Claimed, measured and whether they agree, as a receipt wants them.
    """
    import torch

    lengths = [max(3, min(length, context // 3)) for length in LENGTHS]
    first, second, _ = lengths
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    ids = torch.randint(vocab_size, (1, sum(lengths)), generator=generator).repeat(rows, 1).to(device)  # (B, T)
    places = torch.cat([torch.arange(length) for length in lengths]).repeat(rows, 1).to(device)  # (B, T)
    changed = ids.clone()
    changed[:, first] = (changed[:, first] + 1) % vocab_size  # the first token of the second document

    was_training = model.training
    model.eval()
    with torch.no_grad():
        before = _logits(model, ids, places)
        after = _logits(model, changed, places)
        alone = _logits(model, ids[:, first + second :], places[:, first + second :])
    model.train(was_training)

    moved = (before - after).abs()
    inside, outside = moved[first : first + second], torch.cat([moved[:first], moved[first + second :]])
    against_alone = float((before[first + second :] - alone).abs().max())
    leak, effect = float(outside.max()), float(inside.max())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    tolerance = TOLERANCE.get(dtype, TOLERANCE["bfloat16"])
    ok = leak <= tolerance and against_alone <= tolerance and effect > tolerance
    config = model.config
    return (
        {"documents": lengths, "other_documents_move": 0, "tolerance": tolerance},
        {
            "largest_difference_in_other_documents": leak,
            "largest_difference_in_the_changed_document": effect,
            "largest_difference_packed_against_alone": against_alone,
            "attention": config._attn_implementation,
            "dtype": dtype,
        },
        ok,
    )


def _logits(model: "nn.Module", ids: "torch.Tensor", places: "torch.Tensor") -> "torch.Tensor":
    """Logits of the last row as training computes them: no mask, no cache, positions alone; (T, V) in float32."""
    return model(input_ids=ids, position_ids=places, use_cache=False).logits[-1].float()
