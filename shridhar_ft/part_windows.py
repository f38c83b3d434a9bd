"""The windows that a part trains and is measured on, and the receipt of every token in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from shridhar_ft.data.split import SPLITS
from shridhar_ft.data.windows import Layout, load_windows, save_windows
from shridhar_ft.engines import Engine
from shridhar_ft.errors import UserError
from shridhar_ft.part import TrainingPart
from shridhar_ft.starting import Receipts


@dataclass(frozen=True)
class PartWindows:
    """Packed windows of one part, on disk."""

    train: Dataset
    validation: Dataset
    ledger: dict[str, Any]
    """Where every token of the train documents went."""
    packed: bool
    """Whether documents share a train window."""


def make_windows(
    part: TrainingPart, engine: Engine, receipts: Receipts, state: PartialState, tell: Callable[[str], None]
) -> PartWindows:
    """Make the windows, or take those on disk if they are this part's; write the ledger's receipt.

    Args:
        part: What is trained.
        engine: Which refuses packed windows where documents would read one another.
        receipts: The part's.
        state: Processes; the first one makes the windows.
        tell: Told how the tokens fell.

    Raises:
        CheckFailed: Tokens are unaccounted for.
        UserError: Nothing is left to train on, or the engine cannot keep documents apart.
    """
    with state.main_process_first():
        plain = Layout(part.layout.window, part.layout.overlong, opening=part.layout.opening)
        for split, layout in zip(SPLITS[:2], (part.layout, plain), strict=True):
            save_windows(
                part.folder / "windows" / split, part.documents(split), layout, part.why_masked, part.made_from
            )
    train, ledger = load_windows(part.folder / "windows" / "train")
    validation, _ = load_windows(part.folder / "windows" / "validation")
    gone = ledger["truncated"] + ledger["dropped"]
    tell(
        f"{part.name}: {ledger['in']:,} tokens in {ledger['windows']:,} windows of {part.layout.window:,}, "
        f"{ledger['filled']:.1%} full: "
        f"{ledger['trained']:,} trained, {ledger['masked']:,} masked, {gone:,} lost"
        + (f" ({gone / ledger['in']:.1%})" if gone else "")
        + (f", {ledger['replayed']:,} of them in short pieces once more" if ledger["replayed"] else "")
    )
    lost = {"in": "trained + masked + truncated + dropped"}
    balanced = ledger["in"] == sum(ledger[key] for key in ("trained", "masked", "truncated", "dropped"))
    receipts.write("ledger", lost, {key: ledger[key] for key in ledger if key != "fingerprint"}, balanced)
    if not len(train):
        raise UserError(f"{part.name}: nothing is left to read; take carry.data away, or shorten the stage before")
    packed = any(len(lengths) > 1 for lengths in train["lengths"])
    engine.check_packed(packed, part.name)
    return PartWindows(train, validation, ledger, packed)
