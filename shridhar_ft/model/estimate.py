"""The sizes of a live model's config, for the formulas of plan/: by formula where the architecture is known there."""

from typing import TYPE_CHECKING

from shridhar_ft.config_training import Tuning
from shridhar_ft.plan.meta import shape_on_meta
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.plan.sizes import Sizes, sizes_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def model_sizes(tuning: Tuning, config: "PreTrainedConfig", trainable: int | None = None) -> Sizes:
    """Count a model's parameters without making it.

    Args:
        tuning: Method, LoRA rank and targets.
        config: The model's.
        trainable: Trained parameters, where they are known; LoRA's are otherwise counted from rank and targets.
    """
    shape = shape_of(config.to_dict()) or shape_on_meta(config)
    return sizes_of(shape, tuning, trainable=trainable)
