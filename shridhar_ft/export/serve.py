"""The exact commands that serve an export, with the RoPE that each server has to have."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shridhar_ft.model.rope_formulas import kind_of, long_range_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def serve_commands(config: "PreTrainedConfig", dtype: str, context: int, ggufs: Sequence[str]) -> dict[str, str]:
    """Commands by server, to be run in the export's folder.

    The RoPE stands in config.json and in the GGUF, and each server reads it there. vLLM and llama.cpp are given it once
    more, so that a server of an older version refuses, or obeys, instead of answering with another.

    Args:
        config: The exported model's.
        dtype: Type of the weights.
        context: Tokens of the window.
        ggufs: Names of the GGUF files.
    """
    found = {
        "transformers serve": "transformers serve ./model",
        "vLLM": shlex.join(
            [
                *("vllm", "serve", "./model", "--max-model-len", str(context), "--dtype", dtype),
                *("--hf-overrides", json.dumps({"rope_parameters": config.rope_parameters})),
            ]
        ),
    }
    if ggufs:
        found["llama.cpp"] = shlex.join(
            [
                *("llama-server", "-m", ggufs[0], "-c", str(context), "--jinja"),
                *("-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", *_llama_cpp_rope(config)),
            ]
        )
    return found


def _llama_cpp_rope(config: "PreTrainedConfig") -> list[str]:
    parameters = long_range_parameters(config)
    if kind_of(parameters) not in ("linear", "yarn"):
        return []  # what a file carries as factors of frequencies has no argument
    found = ["--rope-scaling", kind_of(parameters), "--rope-scale", f"{parameters['factor']:g}"]
    if kind_of(parameters) == "yarn":
        found += ["--yarn-orig-ctx", str(parameters["original_max_position_embeddings"])]
    return found
