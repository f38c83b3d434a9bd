"""What a part's weights are worth before it and after it, measured by all ranks, and the gate between stages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shridhar_ft.scoring import (
    Loss,
    TextReading,
    loss_on_windows,
    position_edges,
    read_text,
    standard_error,
    text_change,
)

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset
    from torch import nn

# A change of the loss by less than two standard errors is not told from none. What harms one place badly makes its own
# error large, so there is a most that passes whatever the error says: over the window, and over its last quarter.
GATE_ERRORS = 2.0
GATE_MOST = 0.02  # nats a token
GATE_MOST_FAR = 0.1


def shared_loss(model: "nn.Module", windows: "Dataset", window: int, most: int | None, state: "PartialState") -> Loss:
    """Loss on packed windows, whole and by position, every rank reading its share.

    Args:
        model: A causal language model.
        windows: Rows of `data/windows.py`.
        window: Tokens of a window; positions are given in equal parts of it.
        most: Measure at most so many, spread evenly; None measures all.
        state: Ranks and device.
    """
    edges = position_edges(window)
    own = loss_on_windows(model, windows, most, edges, state.process_index, state.num_processes)
    return Loss(edges, _added(own.sums, state))


def shared_text(
    model: "nn.Module", text: np.ndarray, context: int, most: int, opening: int | None, state: "PartialState"
) -> dict[str, Any]:
    """`scoring.measure_text` with the windows shared by the ranks."""
    own = read_text(model, text, context, most, opening, state.process_index, state.num_processes)
    return TextReading(context, _added(own.whole, state), _added(own.short, state)).report()


def _added(values: np.ndarray, state: "PartialState") -> np.ndarray:
    """The sum over all ranks."""
    if state.num_processes == 1:
        return values
    import torch
    from accelerate.utils import reduce

    return reduce(torch.from_numpy(values).to(state.device), reduction="sum").cpu().numpy()


def measure(
    model: "nn.Module",
    validation: "Dataset",
    window: int,
    most: int | None,
    text: np.ndarray,
    contexts: Sequence[int],
    windows_of_text: int,
    opening: int | None,
    state: "PartialState",
) -> dict[str, Any]:
    """Losses in nats a token: on the validation split, and on the long text at every length that it fills.

    Args:
        model: A causal language model.
        validation: Packed windows; may be empty.
        window: Tokens of such a window.
        most: Measure at most so many of them, spread evenly; None measures all.
        text: Token ids of the long text, (T,); may be empty.
        contexts: Lengths at which the long text is measured, in tokens.
        windows_of_text: Windows measured at each length, spread evenly.
        opening: Token that opens each of them (tokenizer.opening_token).
        state: Ranks and device.

    Returns:
        `validation` and `long_text_<context>`, each with `loss` and more about it; nothing for what is empty.
    """
    found: dict[str, Any] = {}
    if len(validation):
        loss = shared_loss(model, validation, window, most, state)
        found["validation"] = {"loss": loss.mean, "tokens": loss.tokens, "by_position": loss.by_position()}
    for context in dict.fromkeys(contexts):
        if 1 < context <= len(text):
            found[f"long_text_{context}"] = shared_text(model, text, context, windows_of_text, opening, state)
    return found


def losses(measured: dict[str, Any]) -> dict[str, float | None]:
    """The losses alone, validation first (None where there is no validation split)."""
    return {"validation": None, **{name: found["loss"] for name, found in measured.items()}}


def said(measured: dict[str, Any]) -> str:
    """Losses and context gains in a line."""
    parts = [f"{name} loss {value:.4f}" for name, value in losses(measured).items() if value is not None]
    for name, found in measured.items():
        if gain := found.get("context_gain"):
            error = f" ± {gain['standard_error']:.4f}" if gain["standard_error"] is not None else ""
            parts.append(f"context gain {gain['gain']:+.4f}{error} on {name}")
    return ", ".join(parts)


def gate(
    before: dict[str, Any], after: dict[str, Any], context: int, mode: Literal["stop", "tell"]
) -> tuple[dict[str, Any], dict[str, Any], bool] | None:
    """Judge whether a stage left the loss at its own length no worse than it found it.

    Args:
        before: From `measure`, with the stage's RoPE, before its first step.
        after: The same after its last.
        context: The stage's length in tokens.
        mode: Whether a worse loss stops the run.

    Returns:
        Claimed, measured and whether they agree, as a receipt wants them; None where nothing was measured. `positions`
        is how far into a window the text reached: a validation split may have no document as long as the window.
    """
    name = f"long_text_{context}" if f"long_text_{context}" in after else "validation"
    if name not in after:
        return None
    old, new = before[name], after[name]
    if name == "validation":
        pairs = zip(old["by_position"], new["by_position"], strict=True)
        differences = [late["loss"] - early["loss"] for early, late in pairs if late["tokens"]]
        change, error = new["loss"] - old["loss"], standard_error(np.array(differences))
    else:
        change, error = text_change(old, new)
    far = _far_loss(new) - _far_loss(old)
    # Written so that a loss that is no number fails.
    not_worse = bool(change <= min(GATE_ERRORS * (error or 0.0), GATE_MOST) and far <= GATE_MOST_FAR)
    return (
        {
            "measured_on": name,
            "loss_after": f"above loss_before by {GATE_ERRORS:g} standard errors at most, and by {GATE_MOST:g} nats",
            "loss_in_the_last_quarter": f"above the one before by {GATE_MOST_FAR:g} nats at most",
            "gate": mode,
        },
        {
            "loss_before": old["loss"],
            "loss_after": new["loss"],
            "change": change,
            "standard_error": error,
            "change_in_the_last_quarter": far,
            "positions": max((part["to"] for part in new["by_position"] if part["tokens"]), default=0),
            "worse": not not_worse,
        },
        not_worse or mode == "tell",
    )


def _far_loss(found: dict[str, Any]) -> float:
    """Loss in the last quarter of the positions that were read, in nats a token; 0 where none was."""
    read = [part for part in found["by_position"] if part["tokens"]]
    last = read[-max(1, len(read) // 4) :]
    tokens = sum(part["tokens"] for part in last)
    return sum(part["loss"] * part["tokens"] for part in last) / tokens if tokens else 0.0
