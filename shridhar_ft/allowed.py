"""What a resume may be allowed by name, after `--allow` on the command line.

--allow learning_rate,batch_size   go on from the checkpoint with the new values
--allow restart                    remove the checkpoints and begin the part anew
--allow weights-only               go on without optimizer, schedule or random state that are missing
"""

from collections.abc import Iterable

from shridhar_ft.errors import UserError

ALLOW = "go on from checkpoints of other settings: learning_rate, batch_size, …, or restart, or weights-only"
RESTART, WEIGHTS_ONLY = "restart", "weights-only"
# Settings that the state of a checkpoint still fits when they change; every other one needs a restart.
GO_ON = (
    *("learning_rate", "schedule", "warmup", "betas", "weight_decay", "max_grad_norm", "dropout", "precision"),
    *("batch_size", "gradient_accumulation", "max_epochs", "max_steps", "max_tokens", "plateau", "keep"),
    *("seed", "data", "world_size"),
)


def parse_allowed(given: Iterable[str]) -> frozenset[str]:
    """Names after `--allow`, separated by commas.

    Raises:
        UserError: A name that nothing bears.
    """
    names = frozenset(name.strip() for text in given for name in text.split(",") if name.strip())
    known = (RESTART, WEIGHTS_ONLY, *GO_ON)
    if unknown := sorted(names - set(known)):
        raise UserError(f"--allow: nothing is called {unknown[0]}; known are {', '.join(known)}")
    return names


def allow_option(allowed: frozenset[str]) -> list[str]:
    """The words of a command line that allow these names."""
    return [f"--allow={','.join(sorted(allowed))}"] if allowed else []
