"""A real llama.cpp that answers over HTTP: the server inside xllamacpp, in a process of its own, asked once.

    python tests/llama_server.py FILE.gguf < questions.json

Questions are a list of [path, body]; answers are printed one a line.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

Question = tuple[str, dict[str, Any]]


def ask(file: Path, questions: list[Question]) -> list[dict[str, Any]]:
    """Answers of a server with this file; the test is skipped where xllamacpp is not installed."""
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, whose server reads the file")
    given = json.dumps([list(question) for question in questions])
    done = subprocess.run(
        [sys.executable, __file__, str(file)], input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def tokenize(text: str, add_special: bool = False) -> Question:
    """Ask for the tokens of a text, special ones read as such."""
    return "/tokenize", {"content": text, "add_special": add_special, "parse_special": True}


def render(messages: list[dict[str, str]]) -> Question:
    """Ask for a conversation by the file's own chat template."""
    return "/apply-template", {"messages": messages}


def serve_once(file: str) -> None:
    """Answer what stands in the input."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel, settings.port, settings.warmup = 512, 1, 0, False
    settings.cpuparams.n_threads = 1
    settings.use_jinja = True
    server = xllamacpp.Server(settings)
    for path, body in json.load(sys.stdin):
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            print(json.dumps(json.load(answer)), flush=True)


if __name__ == "__main__":
    serve_once(sys.argv[1])
