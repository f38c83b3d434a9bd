"""A page on this machine to talk to a model: a server of the field answers, gradio's chat page asks; neither is ours.

A GGUF is served by llama-cpp-python's server, a model folder by `transformers serve`; both speak OpenAI's protocol.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_attention import choose_attending
from shridhar_ft.export.gguf_header import read_header
from shridhar_ft.export.gguf_model import AS_THE_FILE_SAYS, CACHES, check_cache_type, window_to_talk_in
from shridhar_ft.model.rope_receipt import need_certified_rope

HOST = "127.0.0.1"
WAIT = 600  # seconds until a server has to answer: a large model takes its time to load


def server_command(model: Path, context: int, cache: str, port: int, say: Callable[[str], None]) -> list[str]:
    """The command that serves a model folder or a GGUF; says where it has to compute the slower way.

    Raises:
        UserError: What it needs is not installed.
    """
    if model.suffix == ".gguf":
        _need("llama_cpp", "uvicorn", "fastapi", extra="llama-cpp")
        header = read_header(model)
        how = choose_attending(header, context or header.window, cache, whole=True)
        if how.why:
            say(f"chat: {how.why}")
        as_file = [part for key, value in AS_THE_FILE_SAYS.items() for part in (f"--{key}", str(value))]
        return [
            *(sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", HOST, "--port", str(port)),
            *("--n_ctx", str(context), "--flash_attn", str(how.flash).lower(), *as_file),
            *("--type_k", str(CACHES[how.keys]), "--type_v", str(CACHES[how.values]), "--n_ubatch", str(how.batch)),
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
        UserError: Another program has the port, or the server ended, or did not answer in time.
    """
    need_free(port)
    address = f"http://{HOST}:{port}/v1"
    with subprocess.Popen(command) as server:
        try:
            _wait(server, f"{address}/models", port)
            yield address
        finally:
            server.terminate()


def need_free(port: int) -> None:
    """Refuse a port that another program listens on.

    Raises:
        UserError: It is taken, or not ours to take.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that just ended blocks nothing
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} cannot be taken ({error.strerror}); take another one with --port: the page has "
                "that port, and the server the next"
            ) from error


def _listens(process: int, port: int) -> bool:
    """Whether this process, or one that it started, has the port."""
    with suppress(psutil.NoSuchProcess):
        ours = psutil.Process(process)
        for one in (ours, *ours.children(recursive=True)):
            with suppress(psutil.Error):
                found = one.net_connections("tcp")
                if any(c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port for c in found):
                    return True
    return False


def _wait(server: "subprocess.Popen[bytes]", address: str, port: int) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if server.poll() is not None:
            raise UserError(f"the server ended with status {server.returncode}; what it printed above says why")
        try:
            with urllib.request.urlopen(address, timeout=5):
                pass
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
            continue
        if _listens(server.pid, port):
            return
        raise UserError(
            f"port {port} of {HOST}: another program answers there, and not the server that was started; take another "
            "one with --port"
        )
    raise UserError(f"the server did not answer at {address} within {WAIT} seconds")


def serve(model: Path, context: int, cache: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a model and the page until Ctrl-C; nothing is started before both ports are known to be free.

    Args:
        model: Model folder or GGUF.
        context: Tokens of a GGUF's window; 0 takes the file's own, or as much of it as fits into memory.
        cache: Type of a GGUF's key/value cache.
        port: The page's; the server takes the next one.
        say: Told where they are.

    Raises:
        UserError: gradio or the server is not installed, a port is taken, or the server does not start.
    """
    if model.suffix == ".gguf":
        check_cache_type(cache)
    _need("gradio", "openai", extra="web")
    for wanted in (port, port + 1):
        need_free(wanted)
    if model.suffix == ".gguf" and not context:
        context = window_to_talk_in(model, cache, say, whole=True)  # its server lets nobody choose
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # what is said here is nobody else's
    import gradio

    with serving(server_command(model, context, cache, port + 1, say), port + 1) as address:
        say(f"chat: {model.name} answers at {address}")
        name = str(model) if model.suffix == ".gguf" else str(model.resolve())
        page = gradio.load_chat(address, model=name, token="none", streaming=True, title=model.name)
        say(f"chat: the page is at http://{HOST}:{port}; Ctrl-C ends both")
        page.launch(server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=False)
