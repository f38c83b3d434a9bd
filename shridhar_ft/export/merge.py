"""Merges a run's weights, writes them in every form that is wanted, reads each back, and certifies them all.

base + adapter  →  merged, by peft, in memory
                →  written tensor by tensor, in the export's type  →  reloaded
                                                                   →  GGUF, read by llama.cpp

The RoPE is certified twice: as config.json alone gives it, and as the reloaded model computes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.adapters import load_weights, merged
from shridhar_ft.export.certificate import TOLERANCES, Places, compare, holds, logits_at, places
from shridhar_ft.export.gguf_certificate import read_file, unread
from shridhar_ft.export.gguf_convert import write_gguf
from shridhar_ft.export.merge_stream import Plan, plan_merge
from shridhar_ft.export.other_merges import other_merges
from shridhar_ft.export.room import need_room
from shridhar_ft.model.build import load_model
from shridhar_ft.model.rope_receipt import check_rope, check_written_rope
from shridhar_ft.receipts import write_receipt
from shridhar_ft.tokenizer import END
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SHARD_BYTES = 4_000_000_000


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
    name: str = "model"
    """Names the GGUF files."""
    gguf: tuple[str, ...] = ()
    """Kinds of GGUF that are wanted."""
    shard_bytes: int = SHARD_BYTES


def merge_and_certify(merge: Merge, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write `folder/model`, `folder/*.gguf` and `folder/certificate.json`.

    Returns:
        The certificate.

    Raises:
        UserError: Base and adapter do not belong together.
        CheckFailed: The artefacts differ by more than rounding, or the reloaded RoPE is not the recipe's.
        DiskFailed: There is no room for them.
    """
    claimed = type(merge.config)(**merge.config.to_dict())
    where = places(len(merge.text), merge.original_context)
    write_model(merge, folder, say)
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
    trained, comparisons, others = _trained_logits(merge, where)
    for name, found in others.items():
        say(f"export: {name}, it would answer {found['mean_kl_nats']:.1e} nats a token away from what was trained")
    reloaded, rope_measured, rope_ok = _reloaded_logits(folder / "model", claimed, merge, where)
    comparisons["reloaded"] = compare(trained, reloaded, where)
    types = {"merged": "float32", "reloaded": merge.dtype}
    skipped = unread(merge.gguf)
    files = {kind: folder / f"{merge.name}-{kind}.gguf" for kind in merge.gguf}
    for kind, file in files.items():
        say(f"export: writing {file.name}")
        write_gguf(folder / "model", file, kind, merge.name)
        if kind in skipped:
            continue
        artefact = (
            f"gguf {kind}"  # beside the written weights that it was made from: their own rounding is judged above
        )
        comparisons[artefact] = read_file(file, merge.text, claimed, merge.tokenizer, reloaded, where)
        types[artefact] = artefact
    if skipped:
        say(f"export: nothing has read {', '.join(skipped)}; {skipped[0]} and the others want shridhar_ft[llama-cpp]")
    failed = [name for name, found in comparisons.items() if not holds(found, types[name])]
    worst = {name: found["largest_logit_difference"] for name, found in comparisons.items()}
    told = ", ".join(f"{name} {value:.2e}" for name, value in worst.items())
    say(f"export: certificate over {len(merge.text):,} tokens, largest difference of a logit: {told} ({merge.dtype})")
    return write_receipt(
        folder / "certificate.json",
        {
            "artefacts": ["base + adapter" if merge.weights.adapters else "trained", *comparisons],
            "not_read": skipped,
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
            **({"other_merges": others} if others else {}),
            "tokens": len(merge.text),
            "dtype": merge.dtype,
            "rope": {**rope_measured, "written": rope_written, "ok": rope_ok},
        },
        rope_ok and not failed,
        mend="the written model does not answer as the trained one: " + _mend(rope_ok, failed),
    )


def _mend(rope_ok: bool, failed: list[str]) -> str:
    if not rope_ok:
        return "the reloaded RoPE is another"
    if not failed:
        return ""
    if [name for name in failed if not name.startswith("gguf")]:
        return f"{failed[0]} differs; export in a wider type with export.dtype=float32"
    return f"{failed[0]} differs; take a wider kind in export.gguf (f16, or q8_0), or leave it out"


# ---------------------------------------------------------------------------------------------------- writing


def write_model(merge: Merge, folder: Path, say: Callable[[str], None]) -> None:
    """Write merged weights, config, tokenizer and generation settings into `folder/model`.

    Raises:
        UserError: Base and adapter do not belong together.
        DiskFailed: There is no room.
    """
    (folder / "model").mkdir()
    plan = plan_merge(merge.weights, merge.config, merge.tokenizer)
    if isinstance(plan, str):
        _write_whole(merge, folder, say, plan)
    else:
        _write_streamed(merge, folder, say, plan)
    merge.tokenizer.save_pretrained(folder / "model")


def _write_streamed(merge: Merge, folder: Path, say: Callable[[str], None], plan: Plan) -> None:
    import torch

    need_room(folder, plan.bytes(merge.dtype), plan.bytes("float16") // 2, merge.gguf)
    for adapter in plan.unknown_base:
        say(f"export: {adapter} does not say by hash which base it was trained on; its config names the base")
    if plan.ignored:
        say(f"export: {len(plan.ignored)} tensors of the base are of no use to the model, first {plan.ignored[0]}")
    if plan.adapters:
        say(f"export: merging {len(plan.adapters)} adapter{'s' if len(plan.adapters) > 1 else ''}, tensor by tensor")
    plan.write(folder / "model", merge.dtype, merge.shard_bytes)
    config = type(merge.config)(**merge.config.to_dict())
    config.vocab_size = plan.vocab_size
    config.architectures = [plan.architecture]
    config.dtype = getattr(torch, merge.dtype)
    _speak_like_trained(config, merge.tokenizer).save_pretrained(folder / "model")
    config.save_pretrained(folder / "model")


def _write_whole(merge: Merge, folder: Path, say: Callable[[str], None], reason: str) -> None:
    """Merge in memory, through peft: what `plan_merge` could not do."""
    import torch

    say(f"export: merging in memory and not tensor by tensor: {reason}")
    config = type(merge.config)(**merge.config.to_dict())
    model, _, _ = load_weights(merge.weights, config, merge.tokenizer, "sdpa", torch.float32, as_trained=True)
    model = model.to(getattr(torch, merge.dtype))
    need_room(folder, model.num_parameters() * model.dtype.itemsize, model.num_parameters(), merge.gguf)
    model.generation_config = _speak_like_trained(model.config, merge.tokenizer)
    model.save_pretrained(folder / "model", max_shard_size=merge.shard_bytes)


def _speak_like_trained(config: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:  # noqa: ANN401
    """Generation settings that fit the training: it ends at `<|end|>`, or where the base itself ends."""
    from transformers import GenerationConfig

    end = tokenizer.convert_tokens_to_ids(END)
    own = tokenizer.eos_token_id
    if end is None or end == tokenizer.unk_token_id:  # an adapter whose tokenizer is not of ours
        end = own
    config.eos_token_id = end
    config.pad_token_id = tokenizer.pad_token_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys(token for token in (end, own) if token is not None)),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.1,
    )


# ---------------------------------------------------------------------------------------------------- reading


def _trained_logits(
    merge: Merge, where: Places
) -> tuple["torch.Tensor", dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Logits of what was trained; how those of peft's merge differ from them; and those of merges not made."""
    import torch

    # SDPA in float32 on every device: FlashAttention takes no float32, and one kernel should judge all artefacts.
    config = type(merge.config)(**merge.config.to_dict())
    keep = bool(merge.weights.adapters)
    model, _, _ = load_weights(
        merge.weights, config, merge.tokenizer, "sdpa", torch.float32, keep_last=keep, as_trained=True
    )
    model = model.to(_device())
    trained = logits_at(model, merge.text, where.all)
    if not keep:
        return trained, {}, {}
    whole = merged(model)
    found = {"merged": compare(trained, logits_at(whole, merge.text, where.all), where)}
    others = other_merges(merge.weights, merge.config, merge.tokenizer, merge.text, trained, whole, where)
    return trained, found, others


def _reloaded_logits(
    folder: Path, claimed: "PreTrainedConfig", merge: Merge, where: Places
) -> tuple["torch.Tensor", dict[str, Any], bool]:
    """Logits of the written model, and whether it computes with the RoPE that was claimed."""
    import torch
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(folder)
    # In float32 arithmetic, whatever the stored type: what is compared are the weights, not how a kernel rounds.
    model = load_model(folder, stored, "sdpa", torch.float32).to(_device())
    logits = logits_at(model, merge.text, where.all)
    _, measured, ok = check_rope(model, claimed, len(merge.text))
    return logits, measured, ok


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
