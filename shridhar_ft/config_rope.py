"""The `rope` section of a stage: which rotary position embedding it trains with."""

from typing import Literal, Self

from pydantic import Field, model_validator

from shridhar_ft.config_data import Section


class Rope(Section):
    """Rotary position embedding of one stage (shridhar_ft/model/rope.py has formulas and papers)."""

    type: Literal["none", "linear", "dynamic", "yarn", "longrope", "llama3", "theta"] = "none"
    """none keeps the model's own; theta raises the base; the others scale the frequencies, over the base given too."""
    factor: float | None = Field(None, ge=1)
    """Ratio of new to original length (default: context / original_context)."""
    theta: float | None = Field(None, gt=1)
    """RoPE base; given with another type, both apply (default: the model's; type theta: by the NTK rule)."""
    original_context: int | None = Field(None, ge=8)
    """Length that the frequencies were trained at, in tokens (default: first stage, or the base's own)."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.type == "none" and (self.factor or self.theta):
            raise ValueError("type none keeps the model's RoPE: take factor and theta away, or name a type")
        if self.type == "none" and self.original_context:
            raise ValueError("original_context has no effect with type none; take it away")
        if self.type == "theta" and self.factor and self.theta:
            raise ValueError("with theta given, factor has no effect; keep one of them")
        return self
