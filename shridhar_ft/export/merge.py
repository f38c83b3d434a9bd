"""Merges a run's weights, writes them with their tokenizer, reads them back, and certifies the three.

base + adapter  →  merged  →  written, in the export's type  →  reloaded

The RoPE is certified twice: as config.json alone gives it, and as the reloaded model computes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.adapters import Weights, load_weights, merged
from shridhar_ft.export.certificate import TOLERANCES, compare, holds, logits_at, places
from shridhar_ft.model.build import load_model
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope
from shridhar_ft.receipts import write_receipt
from shridhar_ft.tokenizer import END

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Merge:
    """What is exported."""

    weights: Weights
    config: "PreTrainedConfig"
    """With the RoPE of the last stage."""
    tokenizer: "PreTrainedTokenizerBase"
    text: np.ndarray
    """A text as long as the full context (token ids), for the certificate."""
    original_context: int
    """Length that the unscaled RoPE was trained at, in tokens."""
    dtype: str
    """float32, bfloat16 or float16."""


def merge_and_certify(merge: Merge, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write `folder/model` and `folder/certificate.json`.

    Returns:
        The certificate.

    Raises:
        CheckFailed: The artefacts differ by more than rounding, or the reloaded RoPE is not the recipe's.
    """
    import torch

    claimed = type(merge.config)(**merge.config.to_dict())
    where = places(len(merge.text), merge.original_context)
    # SDPA in float32 on every device: FlashAttention takes no float32, and one kernel should judge all artefacts.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _, _ = load_weights(
        merge.weights, merge.config, merge.tokenizer, "sdpa", torch.float32, keep_last=bool(merge.weights.adapters)
    )
    model = model.to(device)
    trained = logits_at(model, merge.text, where.all)
    comparisons = {}
    if merge.weights.adapters:
        say(f"export: merging {len(merge.weights.adapters)} adapter{'s' if len(merge.weights.adapters) > 1 else ''}")
        model = merged(model)
        comparisons["merged"] = compare(trained, logits_at(model, merge.text, where.all), where)
    model = model.to(getattr(torch, merge.dtype))
    _speak_like_trained(model, merge.tokenizer)
    model.save_pretrained(folder / "model", max_shard_size="4GB")
    merge.tokenizer.save_pretrained(folder / "model")
    del model
    rope_claimed, rope_written, rope_ok = check_written_rope(folder / "model", claimed, len(merge.text))
    if not rope_ok:
        differs = "; ".join(rope_written["differs"]) or "the frequencies made from it are others"
        return write_receipt(
            folder / "certificate.json",
            {"rope": rope_claimed},
            {"tokens": len(merge.text), "dtype": merge.dtype, "rope": {"ok": False, "written": rope_written}},
            ok=False,
            mend=f"config.json of the written model does not carry the RoPE that was trained ({differs}); "
            "export again, and let nothing else write there",
        )

    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(folder / "model")
    # In float32 arithmetic, whatever the stored type: what is compared are the weights, not how a kernel rounds.
    reloaded = load_model(folder / "model", stored, "sdpa", torch.float32).to(device)
    comparisons["reloaded"] = compare(trained, logits_at(reloaded, merge.text, where.all), where)
    _, rope_measured, rope_ok = check_rope(reloaded, claimed, len(merge.text))
    types = {"merged": "float32", "reloaded": merge.dtype}
    ok = rope_ok and all(holds(found, types[name]) for name, found in comparisons.items())
    worst = np.max([found["largest_logit_difference"] for found in comparisons.values()])
    say(f"export: certificate over {len(merge.text):,} tokens, largest logit difference {worst:.2e} ({merge.dtype})")
    return write_receipt(
        folder / "certificate.json",
        {
            "artefacts": ["base + adapter" if merge.weights.adapters else "trained", *comparisons],
            "tolerances": {
                name: dict(
                    zip(("largest_difference_in_deviations", "mean_kl_nats"), TOLERANCES[types[name]], strict=True)
                )
                for name in comparisons
            },
            "rope": rope_claimed,
        },
        {
            **comparisons,
            "tokens": len(merge.text),
            "dtype": merge.dtype,
            "rope": {**rope_measured, "written": rope_written, "ok": rope_ok},
        },
        ok,
        mend="the written model does not answer as the trained one; "
        + ("the reloaded RoPE is another" if not rope_ok else "export in a wider type with export.dtype=float32"),
    )


def _speak_like_trained(model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:  # noqa: ANN401
    """Generation settings that fit the training: it ends at `<|end|>`, or where the base itself ends."""
    from transformers import GenerationConfig

    end = tokenizer.convert_tokens_to_ids(END)
    own = tokenizer.eos_token_id
    model.config.eos_token_id = end
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(token for token in (end, own) if token is not None)),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.1,
    )
