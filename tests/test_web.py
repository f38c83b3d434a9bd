"""`chat --web`: refused before anything starts where it could not work, and tried in a real browser."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shridhar_ft import web
from shridhar_ft.cli import run_command
from shridhar_ft.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    """A port that is free, and so is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((web.HOST, 0))
            port = first.getsockname()[1]
            try:
                second.bind((web.HOST, port + 1))
            except OSError:
                continue
            return int(port)


@pytest.fixture
def model(llama, tokenizer, tmp_path: Path) -> Path:
    """A tiny model folder that can be talked to."""
    made = llama(max_position_embeddings=512)
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    made.generation_config.pad_token_id = tokenizer.pad_token_id
    made.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_wrong_cache_is_told_first(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert run_command(["chat", str(tmp_path / "x.gguf"), "--web", "--cache", "foo"]) == 2
    assert "--cache foo: no key/value cache has that type; take one of f32, f16" in capsys.readouterr().err


@pytest.mark.parametrize("which", [0, 1], ids=["the page's", "the server's"])
def test_a_port_that_is_taken_is_told_before_anything_starts(model: Path, which: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(web, "_need", lambda *_, **__: None)  # the ports are looked at before gradio is imported
    monkeypatch.setattr(web.subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    port = free_port()
    with socket.socket() as taken:
        taken.bind((web.HOST, port + which))
        taken.listen()
        assert run_command(["chat", str(model), "--web", "--port", str(port)]) == 2
    assert f"port {port + which} of 127.0.0.1 cannot be taken" in capsys.readouterr().err


class Answers(http.server.BaseHTTPRequestHandler):
    """Somebody else's server, which answers whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_another_programs_server_is_not_taken_for_ours() -> None:
    port = free_port()
    with http.server.ThreadingHTTPServer((web.HOST, port), Answers) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            with pytest.raises(UserError, match=f"port {port} of .*another program answers"):
                web._wait(child, f"http://{web.HOST}:{port}/v1/models", port)
            child.communicate(b"\n")
        other.shutdown()


def test_a_server_of_ours_is_known_and_ends_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text("{}")
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", web.HOST, "--directory", str(tmp_path)]
    with web.serving(command, port) as address:
        assert address == f"http://{web.HOST}:{port}/v1"
    web.need_free(port)
    with pytest.raises(UserError, match="ended with status 3"), web.serving([sys.executable, "-c", "exit(3)"], port):
        pass


# -------------------------------------------------------------------------------------------- in a browser


class Browser:
    """A headless Chromium that is spoken to through a pair of pipes (the DevTools protocol, JSON ended by a zero)."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # The command's own descriptors are 3 and 4; a shell of its own puts them there.
        shell = f'exec "$0" "$@" 3</dev/fd/{theirs_in} 4>/dev/fd/{theirs_out}'
        flags = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "remote-debugging-pipe")
        command = ["bash", "-c", shell, CHROMIUM, *(f"--{flag}" for flag in flags), f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._count, self._left, self.errors = 0, b"", []
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.ask("Runtime.enable")
        self.ask("Page.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer."""
        self._count += 1
        asked: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            while b"\0" not in self._left:
                self._left += os.read(self._from, 1 << 16)
            line, _, self._left = self._left.partition(b"\0")
            told = json.loads(line)
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(told["params"]["exceptionDetails"])
            if told.get("id") == self._count:
                assert "error" not in told, told
                return dict(told["result"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str, seconds: float = 120) -> Any:
        """The same, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.2)
        return value

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


@contextmanager
def browser(folder: Path):
    opened = Browser(folder)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_one_talks_to_a_model_in_the_page(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra web (pip install 'shridhar_ft[web]')")
    pytest.importorskip("uvicorn", reason="needs the extra web (pip install 'shridhar_ft[web]')")
    port = free_port()
    command = [sys.executable, "-m", "shridhar_ft.cli", "chat", str(model), "--web", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as served:
        try:
            end = time.monotonic() + 300
            while "the page is at" not in log.read_text():
                assert served.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            time.sleep(1)
            with browser(tmp_path / "profile") as page:
                page.ask("Page.navigate", url=f"http://{web.HOST}:{port}")
                page.until("!!document.querySelector('textarea')")
                page.run("document.querySelector('textarea').focus()")
                page.ask("Input.insertText", text="Что такое терпение?")
                key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
                page.ask("Input.dispatchKeyEvent", type="keyDown", **key)
                page.ask("Input.dispatchKeyEvent", type="keyUp", **key)
                page.until("[...document.querySelectorAll('.user')].some(e => e.innerText.includes('терпение'))")
                page.until("[...document.querySelectorAll('.bot')].some(e => e.innerText.trim().length > 0)")
                assert page.errors == []
        finally:
            served.terminate()
            served.wait(60)
    for one in (port, port + 1):
        web.need_free(one)  # both ended
