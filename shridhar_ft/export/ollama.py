"""Ollama's Modelfile: the chat template in Go's text/template, stops, window, sampling, system text.

A model whose TEMPLATE is missing or another one babbles. Jinja cannot be translated into Go's templates in general, so
the known ones are written here by hand, and one is taken only if it renders probe conversations as the tokenizer does.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shridhar_ft.errors import UserError
from shridhar_ft.tokenizer import DIALOGUE, END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""Settings of generation_config.json, and Ollama's names for them."""

Messages = Sequence[dict[str, str]]


def _ours(messages: Messages) -> str:
    return DIALOGUE + "".join(f"{m['role']}\n{m['content']}{END}" for m in messages) + "assistant\n"


def _chatml(messages: Messages) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"


# What each renders, beside the same in Go. Ollama gives .Messages with .Role and .Content; it puts the token that
# begins texts in front by itself, where the file says so.
TEMPLATES: dict[str, tuple[Callable[[Messages], str], str, list[str]]] = {
    "shridhar_ft": (
        _ours,
        f"{DIALOGUE}{{{{ range .Messages }}}}{{{{ .Role }}}}\n{{{{ .Content }}}}{END}{{{{ end }}}}assistant\n",
        [END],
    ),
    "chatml": (
        _chatml,
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ["<|im_end|>"],
    ),
}
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Что такое терпение?"}],
    [
        {"role": "user", "content": "Раз"},
        {"role": "assistant", "content": "два"},
        {"role": "user", "content": "три"},
    ],
    [
        {"role": "system", "content": "Отвечай кратко.\nПо-русски."},
        {"role": "user", "content": "Кто ты?"},
        {"role": "assistant", "content": "Собеседник."},
        {"role": "user", "content": "«Ёж» — кр̣ш̣н̣а, {{ .Role }} 12"},
    ],
)
"""What templates are compared on."""


def ollama_template(tokenizer: "PreTrainedTokenizerBase", where: str = "export.ollama") -> tuple[str, list[str]]:
    """The Go template of a tokenizer's chat template, and the texts that end an answer.

    Raises:
        UserError: No template here renders what the tokenizer's does.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{where}: the tokenizer has no chat template, so nobody could talk to the model; leave {where} out"
        )
    rendered = [
        str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        for messages in CONVERSATIONS
    ]
    if "bos_token" in tokenizer.chat_template and tokenizer.bos_token:
        rendered = [text.removeprefix(tokenizer.bos_token) for text in rendered]
    for render, template, stops in TEMPLATES.values():
        # What stands in front where nobody gave a system text: a default one, in some models.
        front = rendered[0].removesuffix(render(CONVERSATIONS[0]))
        wanted = [("" if m[0]["role"] == "system" else front) + render(m) for m in CONVERSATIONS]
        if rendered == wanted and "{{" not in front:
            default = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{front}{{{{ end }}}}' if front else ""
            return default + template, stops
    raise UserError(
        f"{where}: the tokenizer's chat template is none that is known in Ollama's language ({', '.join(TEMPLATES)}); "
        f"leave {where} out"
    )


def check_texts(system: str | None, licence: str) -> None:
    """Refuse texts that would end a Modelfile's quotation too early.

    Raises:
        UserError: One of them would.
    """
    for key, text in (("export.system", system or ""), ("export.licence", licence)):
        if '"""' in text or text.endswith('"'):
            raise UserError(
                f'{key}: a Modelfile cannot hold three quotation marks (""") in a row, nor one at the end of a text; '
                "take them out"
            )


def modelfile(
    gguf: str,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    sampling: dict[str, Any],
    system: str | None,
    licence: str,
) -> str:
    """The Modelfile beside a GGUF.

    Args:
        gguf: Name of the file.
        tokenizer: For its chat template.
        context: Tokens of the window; Ollama's own default is a few thousand, and it cuts what is longer in silence.
        sampling: What generation_config.json says; what it does not say is left to Ollama.
        system: System text, or None.
        licence: The model's.
    """
    template, stops = ollama_template(tokenizer)
    # Where the model's settings name no penalty there is none; Ollama's own default is one.
    sampled = {"repetition_penalty": 1.0} | {k: v for k, v in sampling.items() if k in PARAMETERS and v is not None}
    lines = [
        f"FROM ./{gguf}",
        f'TEMPLATE """{template}"""',
        f"PARAMETER num_ctx {context}",
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        *(f"PARAMETER {PARAMETERS[name]} {value}" for name, value in sampled.items()),
    ]
    check_texts(system, licence)
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines.append(f'LICENSE """{licence}"""')
    return "\n".join(lines) + "\n"
