"""Fine-tunes a language model on books and dialogues up to 108,000 tokens, with a receipt for every step.

The library's functions (api.py) are imported on first use, so that the command line starts without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shridhar_ft.api import attach, certify, extend, load, load_adapter, merge, save_adapter

__version__ = "0.1.0"
__all__ = ["attach", "certify", "extend", "load", "load_adapter", "merge", "save_adapter"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in __all__:
        from shridhar_ft import api

        return getattr(api, name)
    raise AttributeError(f"module 'shridhar_ft' has no attribute '{name}'")
