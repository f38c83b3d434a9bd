"""How an exported model speaks: where it stops, and how it samples, in its config and generation_config.json."""

from typing import TYPE_CHECKING, Any

from shridhar_ft.tokenizer import END
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

OURS = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Settings any of which says that a base's author chose how it samples."""


def speak_like_trained(
    config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", weights: Weights
) -> "GenerationConfig":
    """Generation settings that fit the training: it ends at `<|end|>`, and wherever the base itself ends.

    What the base's own generation_config.json says stays, its sampling among it; ours is for bases that name none. A
    base that only says `do_sample: false` names none: it is no model to talk to yet, and greedy ones repeat themselves.

    Args:
        config: The written model's; its `eos_token_id` and `pad_token_id` are set.
        tokenizer: The run's, or the adapter's.
        weights: What is exported.
    """
    from transformers import GenerationConfig

    end = tokenizer.convert_tokens_to_ids(END)
    own = tokenizer.eos_token_id
    if end is None or end == tokenizer.unk_token_id:  # an adapter whose tokenizer is not of ours
        end = own
    config.eos_token_id = end
    config.pad_token_id = tokenizer.pad_token_id
    found = _of_base(weights)
    stops = found.eos_token_id if found is not None else None
    ends = [end, own, *(stops if isinstance(stops, list) else [stops])]
    for settings in (found, GenerationConfig()):
        if settings is None:
            continue
        settings.eos_token_id = list(dict.fromkeys(token for token in ends if token is not None))
        for name in ("bos_token_id", "pad_token_id"):
            if (token := getattr(tokenizer, name)) is not None:
                setattr(settings, name, token)
        if not settings.do_sample and all(getattr(settings, name, None) is None for name in SAMPLING):
            for name, value in OURS.items():
                if getattr(settings, name, None) is None:
                    setattr(settings, name, value)
        settings.do_sample = True  # a base that names a temperature means to sample, whether it says so or not
        try:
            settings.validate(strict=True)
        except ValueError:  # the base's cannot be written; transformers would refuse them at saving
            continue
        return settings
    raise AssertionError("settings of our own are valid")


def _of_base(weights: Weights) -> "GenerationConfig | None":
    """What the base's author wrote; None where nobody did, or transformers only copied the numbers of config.json.

    Those may be the defaults of a model's class, which belong to another tokenizer: a Llama would stop at token 2.
    """
    from transformers import GenerationConfig

    try:
        found: Any = GenerationConfig.from_pretrained(weights.base, revision=weights.revision)
    except (OSError, ValueError, TypeError):  # none, or none that can be read
        return None
    return None if getattr(found, "_from_model_config", False) else found
