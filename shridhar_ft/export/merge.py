"""Merges a run's weights, writes them in every form that is wanted, reads each back, and certifies them all.

base + adapter  →  merged, by peft, in memory (left out where that is too small)
                →  written tensor by tensor, in the export's type  →  reloaded
                                                                   →  GGUF, read by llama.cpp

The RoPE is certified twice: as config.json alone gives it, and as the reloaded model computes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.adapters import load_weights
from shridhar_ft.export.answers import (
    Question,
    device,
    free_memory,
    reloaded_answers,
    too_large,
    trained_answers,
    trained_answers_from_disk,
)
from shridhar_ft.export.certificate import TOLERANCES, compare, holds, places
from shridhar_ft.export.gguf_certificate import cache_for, read_file, unread
from shridhar_ft.export.gguf_convert import write_gguf
from shridhar_ft.export.kernel import kernel_for
from shridhar_ft.export.memory import need_whole, parameters_of
from shridhar_ft.export.merge_stream import Plan, plan_merge
from shridhar_ft.export.room import need_room
from shridhar_ft.export.speaking import speak_like_trained
from shridhar_ft.model.rope import copied
from shridhar_ft.model.rope_receipt import check_written_rope
from shridhar_ft.receipts import write_receipt
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
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
        OutOfMemory: Only peft can merge these, or llama.cpp would have to read them, in more memory than is free.
    """
    claimed = copied(merge.config)
    where = places(len(merge.text), merge.original_context)
    question = Question(merge.text, where, kernel_for(claimed, len(merge.text), device()))
    skipped = unread(merge.gguf)
    if len(skipped) < len(merge.gguf):
        cache_for(claimed, len(merge.text))  # refused here rather than after the merge
    plan = write_model(merge, folder, say)
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
    free_memory()
    # What has no plan is read whole: `_write_whole` has refused what does not fit.
    layered = plan if isinstance(plan, Plan) and too_large(claimed, len(merge.text), say) else None
    answers = (
        trained_answers(merge.weights, merge.config, merge.tokenizer, question)
        if layered is None
        else trained_answers_from_disk(layered, merge.config, question)
    )
    comparisons, others = answers.comparisons, answers.others
    if answers.not_computed:
        say(f"export: not computed, as it wants the whole model in memory: {', '.join(answers.not_computed)}")
    for name, found in others.items():
        say(f"export: {name}, it would answer {found['mean_kl_nats']:.1e} nats a token away from what was trained")
    free_memory()
    reloaded, rope_measured, rope_ok = reloaded_answers(folder / "model", claimed, question, layered is not None)
    comparisons["reloaded"] = compare(answers.trained, reloaded, where)
    free_memory()
    types = {"merged": "float32", "reloaded": merge.dtype}
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
        cache = comparisons[artefact]["cache"]
        types[artefact] = artefact if cache == "f32" or kind != "f32" else f"gguf {cache}"
        if cache != "f32":
            say(f"export: llama.cpp reads {file.name} with keys and values in {cache}: in f32 they do not fit")
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
            "not_computed": answers.not_computed,
            "attention": question.kernel,
            "weights_read": "whole" if layered is None else "from the disk, layer by layer",
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


def write_model(merge: Merge, folder: Path, say: Callable[[str], None]) -> Plan | str:
    """Write merged weights, config, tokenizer and generation settings into `folder/model`.

    Returns:
        The plan by which they were merged tensor by tensor, or why peft merged them in memory.

    Raises:
        UserError: Base and adapter do not belong together.
        DiskFailed: There is no room.
        OutOfMemory: Only peft can merge them, and they do not fit into the memory.
    """
    (folder / "model").mkdir()
    plan = plan_merge(merge.weights, merge.config, merge.tokenizer)
    if isinstance(plan, str):
        _write_whole(merge, folder, say, plan)
    else:
        _write_streamed(merge, folder, say, plan)
    merge.tokenizer.save_pretrained(folder / "model")
    return plan


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
    config = copied(merge.config)
    config.vocab_size = plan.vocab_size
    config.architectures = [plan.architecture]
    config.dtype = getattr(torch, merge.dtype)
    speak_like_trained(config, merge.tokenizer, merge.weights).save_pretrained(folder / "model")
    config.save_pretrained(folder / "model")


def _write_whole(merge: Merge, folder: Path, say: Callable[[str], None], reason: str) -> None:
    """Merge in memory, through peft: what `plan_merge` could not do."""
    import torch

    config = _sized(merge)
    parameters = parameters_of(config)
    need_room(folder, parameters * getattr(torch, merge.dtype).itemsize, parameters, merge.gguf)
    need_whole(config, len(merge.text), device(), reason)
    say(f"export: merging in memory and not tensor by tensor: {reason}")
    model, _, _ = load_weights(merge.weights, config, merge.tokenizer, "sdpa", torch.float32, as_trained=True)
    model = model.to(getattr(torch, merge.dtype))
    model.generation_config = speak_like_trained(model.config, merge.tokenizer, merge.weights)
    model.save_pretrained(folder / "model", max_shard_size=merge.shard_bytes)


def _sized(merge: Merge) -> "PreTrainedConfig":
    """The config with as many rows of the embeddings as the base and the tokenizer want."""
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(merge.weights.base, revision=merge.weights.revision).get_text_config()
    rows = max(stored.vocab_size, len(merge.tokenizer))
    return copied(merge.config, vocab_size=rows)
