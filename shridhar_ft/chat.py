"""Talks to a model in the terminal, streaming, and says how fast it was and how full the window is."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shridhar_ft.data.clean import special_tokens
from shridhar_ft.data.sources.books import read_book
from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_model import window_to_talk_in
from shridhar_ft.export.run import open_run
from shridhar_ft.generation import Engine, model_at, open_engine
from shridhar_ft.progress import print_error, say

HELP = """\
/load FILE  put a text or a book into the context, in front of what you say next
/new        begin anew, with nothing in the window
/window     how full the window is
/quit       leave (or Ctrl-D); Ctrl-C stops an answer"""


def find_model(what: str) -> Path:
    """The model that the user means: a GGUF, a model folder, or a run's export.

    Raises:
        UserError: None of them, or the run has exported nothing yet.
    """
    return model_at(what, open_run)


class Chat:
    """A conversation with a model: history, window, speed."""

    def __init__(
        self,
        model: Path,
        system: str | None = None,
        max_new_tokens: int = 256,
        greedy: bool = False,
        context: int = 0,
        cache: str = "f16",
        told: Callable[[str], None] = say,
    ) -> None:
        """
        Args:
            model: Model folder with its tokenizer, or a GGUF.
            system: System text of the conversation.
            max_new_tokens: Longest answer (tokens).
            greedy: Take the likeliest token each time instead of drawing.
            context: Tokens of a GGUF's window; 0 takes the file's own, or as much of it as fits into memory.
            cache: Type of a GGUF's key/value cache.
            told: Told where a window is shorter than the file's own.
        """
        if model.suffix == ".gguf":
            context = context or window_to_talk_in(model, cache, told)
        self.engine: Engine = open_engine(model, context, cache)
        self.window = self.engine.window
        if self.engine.slower:
            told(f"chat: {self.engine.slower}")
        self.max_new_tokens, self.greedy = max_new_tokens, greedy
        self._system = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._system)
        self.loaded = ""
        """Text that stands in front of what is said next."""

    def forget(self) -> None:
        """Begin anew."""
        self.messages, self.loaded = list(self._system), ""

    def load(self, file: Path) -> dict[str, Any]:
        """Put a text or a book in front of what is said next.

        Args:
            file: Any format that `data.books` takes.

        Returns:
            Its characters and tokens, and the share of the window that is used with it.

        Raises:
            UserError: It cannot be read, or does not fit.
        """
        if not file.exists():
            raise UserError(f"{file}: there is no such file; name a text or a book")
        text = read_book(file, "auto", "/load").text
        held = f"{self.loaded}{text}\n\n"
        tokens = self.engine.count(text)
        used = len(self.engine.tokens([*self.messages, {"role": "user", "content": special_tokens(held)}]))
        if used >= self.window:
            raise UserError(
                f"{file}: {tokens:,} tokens, which makes {used:,}, and the window has {self.window:,}; "
                "load a shorter text, or begin anew with /new"
            )
        self.loaded = held
        return {"characters": len(text), "tokens": tokens, "window_used": round(used / self.window, 4)}

    def used(self) -> int:
        """Tokens that the conversation takes now."""
        waiting = [{"role": "user", "content": special_tokens(self.loaded)}] if self.loaded else []
        return len(self.engine.tokens([*self.messages, *waiting])) if self.messages or waiting else 0

    def say(self, text: str, write: Callable[[str], None]) -> dict[str, Any]:
        """Say something and stream the answer.

        Args:
            text: What the user says; special tokens in it are taken apart, so that nobody speaks out of turn.
            write: Gets each piece of the answer as it comes.

        Returns:
            The answer; tokens of the prompt, of its part that was read now, and of the answer; tokens a second of
            reading (prefill) and of answering (decode); and the share of the window that is used.

        Raises:
            UserError: The conversation leaves no room for an answer.
        """
        asked = [*self.messages, {"role": "user", "content": special_tokens(self.loaded + text)}]
        prompt = self.engine.tokens(asked)
        room = self.window - len(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt):,} tokens and the window {self.window:,}; begin anew with /new"
            )
        pieces: list[str] = []
        times: list[float] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            write(piece)

        decode = self.engine.writer(show)

        def got(token: int) -> None:
            times.append(time.monotonic())
            decode(token)

        started = time.monotonic()
        stopped = False
        try:
            read = self.engine.generate(prompt, min(self.max_new_tokens, room), self.greedy, got)
        except KeyboardInterrupt:
            if not times:  # nothing was said yet: what was asked is taken back
                raise
            read, stopped = len(prompt), True
        answer = "".join(pieces).strip()
        self.messages, self.loaded = [*asked, {"role": "assistant", "content": answer}], ""
        first = (times[0] if times else time.monotonic()) - started
        return {
            "answer": answer,
            "stopped": stopped,
            "prompt_tokens": len(prompt),
            "read_tokens": read,
            "answer_tokens": len(times) + 1,  # with the one that ended it
            "seconds_to_first_token": round(first, 3),
            "prefill_tokens_per_second": round(read / max(first, 1e-9), 1),
            "tokens_per_second": round((len(times) - 1) / (times[-1] - times[0]), 1) if len(times) > 1 else None,
            "window": self.window,
            "window_used": round((len(prompt) + len(times) + 1) / self.window, 4),
        }


def figures_line(figures: dict[str, Any]) -> str:
    """Speed and window of an answer, for a person."""
    speed = figures["tokens_per_second"]
    return (
        f"read {figures['read_tokens']:,} tokens at {figures['prefill_tokens_per_second']:,.0f}/s, "
        f"said {figures['answer_tokens']:,} at {'–' if speed is None else f'{speed:,.1f}'}/s, "
        f"window {figures['window_used']:.1%} full"
    )


def talk(chat: Chat) -> None:
    """Read lines from the terminal (or a pipe) and answer them; `/help` tells what else a line can be."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - editing and history in input(), letter by letter in any alphabet

        print(f"A window of {chat.window:,} tokens.\n{HELP}", file=sys.stderr)
    while True:
        try:
            line = input("» " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                _command(chat, line)
            elif line:
                figures = chat.say(line, lambda piece: print(piece, end="", flush=True))
                print(flush=True)
                print(f"[{figures_line(figures)}]", file=sys.stderr)
        except UserError as error:
            print_error(str(error))
        except KeyboardInterrupt:
            print(file=sys.stderr)
            print_error("stopped before anything was said")


def _command(chat: Chat, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/new":
        chat.forget()
    elif command == "/load":
        if not rest.strip():
            raise UserError("/load FILE: name a file")
        found = chat.load(Path(rest.strip()).expanduser())
        print(
            f"[{found['characters']:,} characters, {found['tokens']:,} tokens; window {found['window_used']:.1%} full]",
            file=sys.stderr,
        )
    elif command == "/window":
        used = chat.used()
        print(f"[{used:,} of {chat.window:,} tokens, {used / chat.window:.1%}]", file=sys.stderr)
    else:
        print(HELP, file=sys.stderr)
