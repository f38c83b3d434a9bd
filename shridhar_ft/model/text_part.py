"""The text model inside a base that sees images too (Gemma 3 from 4B up): it alone is loaded, trained and saved.

Such a base's config holds the text model's as `text_config`, and its files name every tensor of it with a prefix more.
transformers knows that for the whole base only: under the text config it finds no tensor at all.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Names in the files (regex) → names of the text model. Gemma 3 is stored the first way, what transformers 5 saves anew
# for newer types the second.
TEXT_NAMES = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}


def text_names(source: str | Path, revision: str | None = None) -> dict[str, str] | None:
    """How to rename the tensors in a base's files; None where they are a text model's already.

    Args:
        source: Folder or Hub id.
        revision: Commit on the Hub.

    Raises:
        OSError: There is no config.
    """
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(source, revision=revision)
    return None if stored.get_text_config() is stored else TEXT_NAMES


def as_text_model(model: "PreTrainedModel") -> None:
    """Let a model that was loaded under `text_names` be saved under its own names, with its own config.

    transformers would turn the renaming round at saving, and the folder could not be read again.
    """
    del model._weight_conversions
