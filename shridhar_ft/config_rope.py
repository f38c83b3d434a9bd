"""The `rope` section of a stage: which rotary position embedding it trains with."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shridhar_ft.config_data import Section

Scaling = Literal["none", "linear", "dynamic", "yarn", "longrope", "llama3", "theta"]
Divisors = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]

# Which types read which field; given to another one it would change nothing, so it is refused.
READ_BY: dict[str, tuple[str, ...]] = {
    "factor": ("linear", "dynamic", "yarn", "longrope", "llama3", "theta"),
    "theta": ("linear", "dynamic", "yarn", "longrope", "llama3", "theta"),
    "original_context": ("linear", "dynamic", "yarn", "longrope", "llama3", "theta"),
    "attention_factor": ("yarn", "longrope"),
    "beta_fast": ("yarn",),
    "beta_slow": ("yarn",),
    "low_freq_factor": ("llama3",),
    "high_freq_factor": ("llama3",),
    "short_factor": ("longrope",),
    "long_factor": ("longrope",),
}


class Rope(Section):
    """Rotary position embedding of one stage (shridhar_ft/model/rope_formulas.py has formulas and papers).

    A base that is scaled by the same type keeps its own values of what is not given here.
    """

    type: Scaling = "none"
    """none keeps the model's own; theta raises the base; the others scale the frequencies, over the base given too."""
    factor: float | None = Field(None, ge=1)
    """Ratio of new to original length (default: context / original_context)."""
    theta: float | None = Field(None, gt=1)
    """RoPE base; given with another type, both apply (default: the model's; type theta: by the NTK rule)."""
    original_context: int | None = Field(None, ge=8)
    """Length that the frequencies were trained at, in tokens (default: first stage, or the base's own)."""
    attention_factor: float | None = Field(None, gt=0)
    """yarn, longrope: number that cos and sin are multiplied by, so logits by its square (default: by the formula)."""
    beta_fast: float | None = Field(None, gt=0)
    """yarn: pairs that turn more often than this over the original context keep their frequency (rotations; 32)."""
    beta_slow: float | None = Field(None, gt=0)
    """yarn: pairs that turn less often than this are interpolated by the whole factor (rotations; default 1)."""
    low_freq_factor: float | None = Field(None, gt=0)
    """llama3: pairs that turn less often than this over the original context are interpolated (rotations; 1)."""
    high_freq_factor: float | None = Field(None, gt=0)
    """llama3: pairs that turn more often than this keep their frequency (rotations; default 4)."""
    short_factor: Divisors | None = None
    """longrope: divisor of each pair's frequency, up to the original context; one a pair (default: 1 for all)."""
    long_factor: Divisors | None = None
    """longrope: the same beyond the original context (default: YaRN's, where LongRoPE's search begins)."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for name, types in READ_BY.items():
            if getattr(self, name) is None or self.type in types:
                continue
            if self.type == "none":
                raise ValueError(f"type none keeps the model's RoPE: take {name} away, or name a type")
            raise ValueError(f"{name} has no effect with type {self.type}, only with {', '.join(types)}; take it away")
        if self.type == "theta" and self.factor and self.theta:
            raise ValueError("with theta given, factor has no effect; keep one of them")
        if self.factor and self.long_factor and self.attention_factor:
            raise ValueError("with long_factor and attention_factor given, factor has no effect; take it away")
        for low, high in (("beta_slow", "beta_fast"), ("low_freq_factor", "high_freq_factor")):
            lower, higher = getattr(self, low), getattr(self, high)
            if lower is not None and higher is not None and lower >= higher:
                raise ValueError(f"{low}: {lower:g} is not less than {high} of {higher:g}")
        return self
