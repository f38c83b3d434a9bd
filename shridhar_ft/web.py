"""A page on this machine to talk to a model: a server of the field answers, gradio's chat page asks; neither is ours.

A GGUF is served by llama-cpp-python's server, a model folder by `transformers serve`; both speak OpenAI's protocol.
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_model import AS_THE_FILE_SAYS, CACHES
from shridhar_ft.model.rope_receipt import need_certified_rope

HOST = "127.0.0.1"
WAIT = 600  # seconds until a server has to answer: a large model takes its time to load


def server_command(model: Path, context: int, cache: str, port: int) -> list[str]:
    """The command that serves a model folder or a GGUF.

    Raises:
        UserError: What it needs is not installed.
    """
    if model.suffix == ".gguf":
        _need("llama_cpp", "uvicorn", "fastapi", extra="llama-cpp")
        as_file = [part for key, value in AS_THE_FILE_SAYS.items() for part in (f"--{key}", str(value))]
        return [
            *(sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", HOST, "--port", str(port)),
            *("--n_ctx", str(context), "--flash_attn", "true", *as_file),
            *("--type_k", str(CACHES[cache]), "--type_v", str(CACHES[cache])),
        ]
    _need("uvicorn", "fastapi", extra="web")
    need_certified_rope(model)
    return [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(model.resolve())),
        *("--host", HOST, "--port", str(port)),
    ]


def _need(*modules: str, extra: str) -> None:
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(f"--web needs {missing[0]}; run `pip install 'shridhar_ft[{extra}]'`")


@contextmanager
def serving(command: list[str], port: int) -> Iterator[str]:
    """Run a server until the block ends; gives its address once it answers.

    Raises:
        UserError: It ended, or did not answer in time.
    """
    address = f"http://{HOST}:{port}/v1"
    with subprocess.Popen(command) as server:
        try:
            _wait(server, f"{address}/models")
            yield address
        finally:
            server.terminate()


def _wait(server: "subprocess.Popen[bytes]", address: str) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if server.poll() is not None:
            raise UserError(f"the server ended with status {server.returncode}; what it printed above says why")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise UserError(f"the server did not answer at {address} within {WAIT} seconds")


def serve(model: Path, context: int, cache: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a model and the page until Ctrl-C.

    Args:
        model: Model folder or GGUF.
        context: Tokens of a GGUF's window; 0 takes the file's own.
        cache: Type of a GGUF's key/value cache.
        port: The page's; the server takes the next one.
        say: Told where they are.

    Raises:
        UserError: gradio or the server is not installed, or the server does not start.
    """
    _need("gradio", extra="web")
    import gradio

    with serving(server_command(model, context, cache, port + 1), port + 1) as address:
        say(f"chat: {model.name} answers at {address}")
        name = str(model) if model.suffix == ".gguf" else str(model.resolve())
        page = gradio.load_chat(address, model=name, token="none", streaming=True, title=model.name)
        say(f"chat: the page is at http://{HOST}:{port}; Ctrl-C ends both")
        page.launch(server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=False)
