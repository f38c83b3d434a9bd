"""The model that a part begins with: its RoPE, its levers, and the receipts that it is the one that was handed over."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from shridhar_ft.adapters import adapter_hash, attach, load_weights
from shridhar_ft.config import Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.engines import Engine
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import TOKEN_IDS, base_config, build_model, safetensors_hash, stage_config, weights_hash
from shridhar_ft.model.memory import apply_levers, choose_levers
from shridhar_ft.model.precision import faster_precision
from shridhar_ft.model.quantized import Quantization, set_compute_dtype
from shridhar_ft.model.rope import copied, describe_rope
from shridhar_ft.model.rope_receipt import check_rope
from shridhar_ft.model.text_part import text_names
from shridhar_ft.plan.levers import Levers
from shridhar_ft.receipts import write_receipt
from shridhar_ft.runfolder import read_json, write_json
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Receipts:
    """Writes a part's receipts, from the first rank only: what it measures is the same on all of them."""

    folder: Path
    to_disk: bool

    def write(self, name: str, claimed: dict[str, Any], measured: dict[str, Any], ok: bool, mend: str = "") -> None:
        if self.to_disk:
            write_receipt(self.folder / f"{name}.json", claimed, measured, ok, mend)


@dataclass(frozen=True)
class Origin:
    """Where a part's weights come from."""

    start: Weights | None
    """Weights that it begins with; None: random ones from the config."""
    continues_adapter: bool
    """Whether the last adapter of `start` is trained on, instead of being merged."""
    came_from: dict[str, Any]
    """part.json of the part before; {} for the first."""


@dataclass(frozen=True)
class Means:
    """How a part computes on this machine; chosen once, so that a resume goes on with the same numbers."""

    levers: Levers
    bf16: bool
    """Whether matrix products run in bf16 under autocast."""


@dataclass(frozen=True)
class Started:
    """A model ready to train."""

    model: torch.nn.Module
    base_hash: str
    claimed: "PreTrainedConfig"
    """The config that the recipe asks for, made without the model: what receipts compare with."""


def start_model(
    recipe: Recipe,
    name: str,
    stage_index: int,
    tuning: Tuning,
    context: int,
    window: int,
    origin: Origin,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    receipts: Receipts,
    tell: Callable[[str], None],
) -> tuple[Started, Means]:
    """Build or load the model of a part, put its levers on, and write its RoPE and hand-over receipts.

    Args:
        recipe: The whole recipe.
        name: Of the part, for what is told.
        stage_index: Whose RoPE it has; −1 is the last stage's.
        tuning: The part's.
        context: Positions that it trains, in tokens.
        window: Tokens of a window.
        origin: Where its weights come from.
        tokenizer: The run's.
        folder: The part's; what the machine's means are is kept there.
        receipts: Where they go.
        tell: Told each choice and why.

    Raises:
        CheckFailed: A receipt does not hold.
        UserError: A setting that this machine or model cannot do.
    """
    state = PartialState()
    config, wanted = stage_config(recipe, stage_index, len(tokenizer))
    claimed = copied(config)
    engine = Engine.of_process()
    shared = engine.attention if engine.sequence > 1 else None
    attention = choose_attention(recipe.model, config, state.device, tuning.precision != "fp32", shared)
    tell(f"{name}: {attention.why}")
    start = origin.start
    if start is not None and text_names(start.base, start.revision):
        tell(f"{name}: {start.base} sees images too; its text model alone is trained and written")
    if start is None:
        model: Any = build_model(config, recipe.seed, attention.implementation)
        grown, base_hash = False, weights_hash(model)
    else:
        model, grown, base_hash = load_weights(
            start, config, tokenizer, attention.implementation, torch.float32,
            keep_last=origin.continues_adapter,
            quantization=None if origin.continues_adapter else Quantization.of(tuning),
            device=state.device,
        )  # fmt: skip
    model = model.to(state.device)
    base = model.get_base_model() if origin.continues_adapter else model
    for holder in (base.config, base.generation_config):  # the Trainer would align them itself, with a warning
        for key in TOKEN_IDS:
            setattr(holder, key, getattr(tokenizer, key))
    _check_handover(recipe.seed, origin, model, base_hash, receipts)
    if tuning.method != "full" and not origin.continues_adapter:
        model = attach(model, tuning, grown)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = model.get_nb_trainable_parameters()[1] if tuning.method != "full" else trained  # four bits count as one
    how = f"{tuning.method}, {quantized}" if (quantized := Quantization.of(tuning)) else tuning.method
    tell(f"{name}: {whole / 1e6:,.1f} million parameters, {trained / 1e6:,.1f} million trained ({how})")

    means = _means(tuning, base.config, window, trained, folder, state, lambda said: tell(f"{name}: {said}"))
    set_compute_dtype(model, torch.bfloat16 if means.bf16 else torch.float32)
    apply_levers(model, means.levers, folder / "spilled", means.bf16)
    # Last, so that no lever can have touched it.
    receipts.write(
        "rope",
        *check_rope(base, claimed, context),
        mend="the live RoPE is not the recipe's: load the model with the stage's config, and change nothing after",
    )
    described = describe_rope(base_config(recipe.model), wanted)
    tell(f"{name}: RoPE {described}; checked in the live module at {context:,} tokens")
    return Started(model, base_hash, claimed), means


def _means(
    tuning: Tuning,
    config: "PreTrainedConfig",
    window: int,
    trained: int,
    folder: Path,
    state: PartialState,
    tell: Callable[[str], None],
) -> Means:
    """The means that were chosen when this part began, else a choice, the same on all ranks and kept in the folder."""
    file = folder / "means.json"
    asked = {key: getattr(tuning, key) for key in ("memory", "memory_limit", "precision", "batch_size")} | {
        "device": state.device.type
    }
    chosen: list[Any] = [None]
    if state.is_main_process:
        if file.is_file() and (kept := read_json(file))["asked"] == asked:
            chosen = [kept]
            tell("levers and precision as this part began with")
        else:
            levers = choose_levers(tuning, config, window, state.device, trainable=trained)
            bf16, why = precision(tuning, state.device)
            chosen = [{"asked": asked, "levers": levers.as_dict(), "bf16": bf16}]
            write_json(file, chosen[0])
            for said in (*levers.why, why):
                tell(said)
    broadcast_object_list(chosen)
    return Means(Levers.from_dict(chosen[0]["levers"]), chosen[0]["bf16"])


def precision(tuning: Tuning, device: torch.device) -> tuple[bool, str]:
    """Whether matrix products run in bf16 under autocast, and a sentence on why."""
    if tuning.precision != "auto":
        return tuning.precision == "bf16", f"precision {tuning.precision} (the recipe)"
    bf16, why = faster_precision(device)
    return bf16, f"precision {'bf16' if bf16 else 'fp32'} ({why})"


def _check_handover(seed: int, origin: Origin, model: torch.nn.Module, base_hash: str, receipts: Receipts) -> None:
    """The receipt that a part begins with the very weights that the one before ended with."""
    came, start = origin.came_from, origin.start
    if origin.continues_adapter:
        measured = {"hash": adapter_hash(model), "base_hash": base_hash}
    elif start is not None and start.adapters:  # merged already: what was merged is in the file
        measured = {"hash": safetensors_hash(Path(start.adapters[-1])), "base_hash": base_hash}
    else:
        measured = {"hash": base_hash}
    claimed = {key: came.get(key, measured[key]) for key in measured}
    first = {"seed": seed} if start is None else {"base": start.base}
    receipts.write(
        "handover",
        {"from": came.get("name", "the first weights"), **({} if came else first), **claimed},
        measured,
        measured == claimed,
        mend="the weights are not those that the part before ended with: were its files or the base's changed? Remove "
        "its folder and run the same command again",
    )
