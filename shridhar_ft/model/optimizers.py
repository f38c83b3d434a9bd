"""AdamW in the kinds that the levers name: torch's fused one, bitsandbytes' 8-bit ones, and one for bf16 weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from shridhar_ft.config_training import Tuning
from shridhar_ft.plan.levers import Levers

CHUNK = 1 << 19  # numbers worked on at once: what is needed beside them stays small, and in a CPU's cache
EPSILON = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(
    groups: Iterable[dict[str, Any]], tuning: Tuning, levers: Levers, embeddings: Iterable[torch.nn.Parameter] = ()
) -> Optimizer:
    """The optimizer of a part.

    Args:
        groups: Parameter groups as the Trainer makes them (`params`, `weight_decay`).
        tuning: Learning rate, betas, optimizer.
        levers: Those that are on.
        embeddings: Parameters whose moments stay float32 with the 8-bit ones: rows of rare tokens would be rounded to
            nothing beside those of frequent ones (Dettmers et al. 2021, arXiv 2110.02861; transformers does so too).
    """
    groups = list(groups)
    if tuning.optimizer == "adafactor":
        from transformers import Adafactor

        return Adafactor(groups, lr=tuning.learning_rate, scale_parameter=False, relative_step=False)
    settings: dict[str, Any] = {"lr": tuning.learning_rate, "betas": tuning.betas, "eps": EPSILON}
    if "adamw_8bit" in levers or "paged_adamw_8bit" in levers:
        from bitsandbytes.optim import AdamW8bit, GlobalOptimManager, PagedAdamW8bit

        for parameter in embeddings:
            GlobalOptimManager.get_instance().override_config(parameter, "optim_bits", 32)
        return (PagedAdamW8bit if "paged_adamw_8bit" in levers else AdamW8bit)(groups, **settings)
    if "bf16_weights" in levers and tuning.method == "full":
        return Bf16AdamW(groups, **settings)
    return torch.optim.AdamW(groups, **settings, fused=True)


class Bf16AdamW(Optimizer):
    """AdamW on bf16 weights with bf16 moments, computed in float32 and rounded stochastically.

    A bf16 number keeps 8 bits, so an update below a 256th of its weight would be lost to plain rounding, every time;
    rounded up or down with the chance that its distance gives, it arrives on the average (Gupta et al. 2015, arXiv
    1502.02551; Zamirai et al. 2020, arXiv 2010.06192). The second moment is rounded so too: with β₂ = 0.999 it would
    otherwise never fall again. The random bits come from the step's number alone: all ranks round alike, and a resumed
    run as an uninterrupted one.

    6 bytes a parameter beside the gradient's 2, against 12 and 4 of float32. torchao's equal needs a C++ compiler at
    run time and draws its bits from the global generator, which differs between ranks.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = EPSILON,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "no closure is needed"
        scratch: dict[torch.device, _Scratch] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state |= {
                        key: torch.zeros_like(parameter, memory_format=torch.contiguous_format) for key in MOMENTS
                    }
                state["step"] += 1
                device = parameter.device
                if device not in scratch:
                    scratch[device] = _Scratch(device, seed=int(state["step"]))
                self._update(parameter, state, group, scratch[device])

    def _update(
        self, parameter: torch.Tensor, state: dict[str, Any], group: dict[str, Any], scratch: "_Scratch"
    ) -> None:
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        rate, shrink = group["lr"] / (1 - beta1**step), 1 - group["lr"] * group["weight_decay"]
        correction = (1 - beta2**step) ** 0.5
        flat = [parameter.data.view(-1), parameter.grad.reshape(-1), *(state[key].view(-1) for key in MOMENTS)]
        for start in range(0, parameter.numel(), CHUNK):
            weight, gradient, mean, square = (tensor[start : start + CHUNK] for tensor in flat)
            slope, first, second, new = (row[: weight.numel()] for row in scratch.numbers)
            slope.copy_(gradient)
            first.copy_(mean).lerp_(slope, 1 - beta1)
            second.copy_(square).mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
            torch.sqrt(second, out=slope).div_(correction).add_(group["eps"])
            new.copy_(weight).mul_(shrink).addcdiv_(first, slope, value=-rate)
            mean.copy_(first)  # β₁ moves it far enough for plain rounding
            to_square, to_weight = scratch.draw(weight.numel())
            round_into(square, second, to_square)
            round_into(weight, new, to_weight)


class _Scratch:
    """Room for one chunk and its random bits: fresh memory for every operation would cost more than the arithmetic."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.numbers = torch.empty(4, CHUNK, device=device)
        self.draws = torch.empty(CHUNK // 2, dtype=torch.int64, device=device)

    def draw(self, numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice so many random int32 of 16 bits."""
        if self.draws.device.type != "cpu":
            first, second = torch.randint(
                1 << 16, (2, numbers), dtype=torch.int32, device=self.draws.device, generator=self.generator
            )
            return first, second
        # A CPU's generator is slower than the arithmetic, and gives 64 bits as fast as 32.
        self.draws[: (numbers + 1) // 2].random_(-(1 << 63), None, generator=self.generator)
        bits = self.draws.view(torch.int32)[:numbers]
        return bits & 0xFFFF, (bits >> 16) & 0xFFFF


def round_into(target: torch.Tensor, value: torch.Tensor, bits: torch.Tensor) -> None:
    """Round float32 numbers stochastically into bf16 ones; `value` is used up.

    A float32's lower 16 bits are its distance above the bf16 number below it, in 65,536ths of the step to the next:
    added to a random number of 16 bits, they carry over with just that chance.

    Args:
        target: Where the numbers go; of another type than bf16, it is rounded plainly.
        value: float32.
        bits: int32, 0 to 65,535.
    """
    if target.dtype == torch.bfloat16:
        value.view(torch.int32).add_(bits).bitwise_and_(-65536)
    target.copy_(value)
