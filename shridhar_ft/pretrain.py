"""Continued pretraining on books, stage by stage.

    accelerate launch -m shridhar_ft.pretrain RECIPE [key.sub=value …]

A run that was stopped goes on in the right stage at the right step.
"""

from typing import TYPE_CHECKING

from shridhar_ft.config import Recipe
from shridhar_ft.entry import leave, main
from shridhar_ft.runfolder import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pretrain(
    recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase", allowed: frozenset[str] = frozenset()
) -> None:
    """Train the stages in order, each from the very weights that the one before ended with."""
    from shridhar_ft.stages import stage_part
    from shridhar_ft.training import train_part

    for index in range(len(recipe.stages)):
        train_part(recipe, run, stage_part(recipe, run, index, tokenizer), tokenizer, allowed)


if __name__ == "__main__":
    leave(main("pretrain", "Train the stages of a recipe on its books, in order.", pretrain))
