"""Talks to a model in the terminal, streaming, and says how fast it was and how full the window is."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from shridhar_ft.data.clean import special_tokens
from shridhar_ft.errors import UserError
from shridhar_ft.export.run import open_run
from shridhar_ft.progress import hush_libraries, print_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_model(what: str) -> Path:
    """The folder of the model that the user means: a run's export, or a model folder.

    Raises:
        UserError: Neither, or the run has exported nothing yet.
    """
    path = Path(what)
    if (path / "config.json").is_file():
        return path
    for run in (path, Path("runs") / what):
        if (run / "recipe.yaml").is_file():
            open_run(run)
            if not (run / "export" / "model").is_dir():
                raise UserError(f"{run}: nothing is exported yet; run `shridhar-ft export {run}` first")
            return run / "export" / "model"
    raise UserError(f"{what}: no model there; name a run folder (runs/NAME) or a folder with config.json")


class Chat:
    """A conversation with a model: history, window, speed."""

    def __init__(
        self, folder: Path, system: str | None = None, max_new_tokens: int = 256, greedy: bool = False
    ) -> None:
        """
        Args:
            folder: Model folder with its tokenizer.
            system: System text of the conversation.
            max_new_tokens: Longest answer (tokens).
            greedy: Take the likeliest token each time instead of drawing.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        hush_libraries()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).to(device)
        self.window = int(self.model.config.get_text_config().max_position_embeddings)
        self.max_new_tokens, self.greedy = max_new_tokens, greedy
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []

    def say(self, text: str, write: Callable[[str], None]) -> dict[str, Any]:
        """Say something and stream the answer.

        Args:
            text: What the user says; special tokens in it are taken apart, so that nobody speaks out of turn.
            write: Gets each piece of the answer as it comes.

        Returns:
            The answer, tokens of prompt and answer, tokens a second, and the share of the window that is used.

        Raises:
            UserError: The conversation leaves no room for an answer.
        """
        from transformers import TextIteratorStreamer

        asked = [*self.messages, {"role": "user", "content": special_tokens(text)}]
        inputs = self.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        prompt = inputs["input_ids"].shape[1]
        room = self.window - prompt
        if room < 1:
            raise UserError(f"the conversation has {prompt} tokens and the window {self.window}; begin anew with /new")
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(
                    **inputs,
                    max_new_tokens=min(self.max_new_tokens, room),
                    do_sample=not self.greedy,
                    **({"temperature": None, "top_p": None} if self.greedy else {}),
                    streamer=streamer,
                )
            except BaseException as error:
                failed.append(error)
                streamer.end()  # or the reader would wait for ever
                raise

        thread = Thread(target=generate, daemon=True)
        started = time.monotonic()
        thread.start()
        pieces, first = [], 0.0
        for piece in streamer:
            first = first or time.monotonic()
            pieces.append(piece)
            write(piece)
        thread.join()
        if failed:
            raise failed[0]
        answer = "".join(pieces).strip()
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        tokens = len(self.tokenizer(answer, add_special_tokens=False).input_ids) + 1
        seconds = time.monotonic() - started
        return {
            "answer": answer,
            "prompt_tokens": prompt,
            "answer_tokens": tokens,
            "seconds_to_first_token": round((first or time.monotonic()) - started, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "window": self.window,
            "window_used": round((prompt + tokens) / self.window, 4),
        }


def talk(chat: Chat) -> None:
    """Read lines from the terminal (or a pipe) and answer them; `/new` forgets, `/quit` or end of input leaves."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - editing and history in input(), where the platform has it

        print(f"A window of {chat.window:,} tokens. /new begins anew, /quit leaves.", file=sys.stderr)
    system = [message for message in chat.messages if message["role"] == "system"]
    while True:
        try:
            line = input("» " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            chat.messages = list(system)
        elif line:
            try:
                figures = chat.say(line, lambda piece: print(piece, end="", flush=True))
            except UserError as full:
                print_error(str(full))
                continue
            print(flush=True)
            print(
                f"[{figures['tokens_per_second']} tokens/s · window {figures['window_used']:.1%} full]", file=sys.stderr
            )
