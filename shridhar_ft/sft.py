"""Supervised fine-tuning on dialogues.

    accelerate launch -m shridhar_ft.sft RECIPE [key.sub=value …]

Begins with the weights of the last stage, or with the base where the recipe has no stages.
"""

from typing import TYPE_CHECKING

from shridhar_ft.config import Recipe
from shridhar_ft.entry import leave, main
from shridhar_ft.errors import UserError
from shridhar_ft.runfolder import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sft(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase", allowed: frozenset[str] = frozenset()) -> None:
    """Train on the dialogues."""
    from shridhar_ft.stages import sft_part
    from shridhar_ft.training import train_part

    if recipe.sft is None:
        raise UserError("sft: the recipe has no such section; add `sft: {method: lora}`")
    train_part(recipe, run, sft_part(recipe, run, tokenizer), tokenizer, allowed)


if __name__ == "__main__":
    leave(main("sft", "Train on the dialogues of a recipe.", sft))
