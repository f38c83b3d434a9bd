"""Two engines that go on with a text: transformers on a model folder, llama.cpp on a GGUF; both keep what they read.

    engine = open_engine(path)
    engine.generate(engine.tokens(messages), limit=256, greedy=False, got=print)

A conversation is read once: the keys and values of the part that the next prompt shares with the last one stay.
"""

import codecs
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from shridhar_ft.errors import UserError, first_line
from shridhar_ft.export.kernel import kernel_for
from shridhar_ft.model.build import refuse_pickles
from shridhar_ft.model.rope import copied
from shridhar_ft.model.rope_receipt import need_certified_rope, need_rope
from shridhar_ft.model.sparse import slides
from shridhar_ft.progress import hush_libraries
from shridhar_ft.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

READ_AT_ONCE = 2048  # tokens of a prompt in one forward pass: bounds the memory of a long one

Messages = Sequence[dict[str, str]]
Got = Callable[[int], None]


class Engine(Protocol):
    """What a conversation needs of a model."""

    window: int
    """Tokens that fit."""
    slower: str
    """A sentence where the memory that is free leaves only a slower way of computing."""

    def tokens(self, messages: Messages) -> list[int]:
        """A conversation as token ids, ready for the answer."""

    def count(self, text: str) -> int:
        """Tokens of a text."""

    def generate(self, ids: list[int], limit: int, greedy: bool, got: Got) -> int:
        """Go on with a prompt, one token after the other, until the model ends or `limit` is reached.

        Args:
            ids: The prompt.
            limit: Most tokens.
            greedy: Take the likeliest token each time instead of drawing.
            got: Called with each token but the last one that ends the answer.

        Returns:
            Tokens of the prompt that had to be read: those that it does not share with the last one.
        """

    def writer(self, write: Callable[[str], None]) -> Got:
        """A `got` that writes the text as soon as its characters are whole: a Russian letter may be two tokens."""


def open_engine(model: Path, context: int = 0, cache: str = "f16") -> Engine:
    """The engine for a model folder or a GGUF.

    Args:
        model: Either.
        context: Tokens of the window; 0 takes the model's own (a GGUF's keys and values are allotted at once).
        cache: Type of a GGUF's key/value cache.
    """
    return GgufEngine(model, context, cache) if model.suffix == ".gguf" else TransformersEngine(model)


class TransformersEngine:
    """transformers, with the cache of the last prompt."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Model folder with its tokenizer.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM

        hush_libraries()
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        refuse_pickles(folder)
        need_certified_rope(folder)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
            kernel = kernel_for(config, config.max_position_embeddings, torch.device(device))
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, attn_implementation=kernel
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise UserError(
                f"{folder}: no model can be read there ({first_line(error)}); copy its files again, or export it anew"
            ) from error
        self.model: PreTrainedModel = loaded.to(device)
        config = self.model.config.get_text_config()
        self.window = int(config.max_position_embeddings)
        need_rope(self.model, copied(config), self.window)
        # transformers 5.24 renamed it.
        taken = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in taken else "past_key_values"
        self.slower = ""
        self._cache: Any = None
        self._read: list[int] = []

    def tokens(self, messages: Messages) -> list[int]:
        return list(
            self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def generate(self, ids: list[int], limit: int, greedy: bool, got: Got) -> int:
        import torch
        from transformers.generation.streamers import BaseStreamer

        engine = self

        class Streamer(BaseStreamer):
            """Passes tokens on; generate() calls it with the prompt first."""

            prompt_seen = False

            def put(self, value: torch.Tensor) -> None:
                if self.prompt_seen and int(value[0]) not in engine.ends:
                    got(int(value[0]))
                self.prompt_seen = True

            def end(self) -> None:
                pass

        kept = self._keep(ids)
        cache = {self._cache_name: self._cache}
        prompt = torch.as_tensor(ids, device=self.model.device)[None]
        with torch.inference_mode():
            try:
                for begin in range(kept, len(ids) - 1, READ_AT_ONCE):  # the last token is generate()'s own
                    piece = prompt[:, begin : min(begin + READ_AT_ONCE, len(ids) - 1)]
                    self.model(piece, **cache, use_cache=True, logits_to_keep=1)
                whole = self.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    **cache,
                    max_new_tokens=limit,
                    do_sample=not greedy,
                    **({"temperature": None, "top_p": None, "top_k": None} if greedy else {}),
                    streamer=Streamer(),
                )
            except BaseException:
                self._cache, self._read = None, []  # broken off anywhere: what the cache holds is not known
                raise
        self._read = whole[0, :-1].tolist()  # the last token was drawn and never read
        return len(ids) - kept

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return set(ends if isinstance(ends, list) else [ends])

    def _keep(self, ids: list[int]) -> int:
        """Make the cache hold what this prompt shares with the last one, but its last token; returns how many."""
        from transformers import DynamicCache

        same = 0
        for a, b in zip(self._read, ids[:-1], strict=False):
            if a != b:
                break
            same += 1
        sliding = slides(self.model.config.get_text_config())
        if self._cache is None or same == 0 or (sliding and same < len(self._read)):  # a window cannot be cut back
            self._cache, same = DynamicCache(config=self.model.config), 0
        elif same < len(self._read):
            self._cache.crop(same - len(self._read))
        return same

    def writer(self, write: Callable[[str], None]) -> Got:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        backend: Any = self.tokenizer.backend_tokenizer  # type: ignore[attr-defined]

        def got(token: int) -> None:
            if piece := stream.step(backend, token):
                write(piece)

        return got


class GgufEngine:
    """llama.cpp on a GGUF."""

    def __init__(self, file: Path, context: int = 0, cache: str = "f16") -> None:
        """
        Args:
            file: The GGUF.
            context: Tokens of the window; 0 takes the file's own.
            cache: Type of the key/value cache.
        """
        from shridhar_ft.export.gguf_model import GgufModel

        self.model = GgufModel(file, context, cache)
        self.window, self.slower = self.model.window, self.model.attending.why
        written = self.model.metadata()
        # llama.cpp's tools take a file's sampling settings; llama-cpp-python does not look at them.
        self._sampling = {
            ours: float(written[f"general.sampling.{theirs}"])
            for ours, theirs in (("temp", "temp"), ("top_p", "top_p"), ("repeat_penalty", "penalty_repeat"))
            if f"general.sampling.{theirs}" in written
        }

    def tokens(self, messages: Messages) -> list[int]:
        return self.model.render(list(messages))

    def count(self, text: str) -> int:
        return len(self.model.tokenize(text, special=False))

    def generate(self, ids: list[int], limit: int, greedy: bool, got: Got) -> int:
        llama = self.model.llama
        known = llama.input_ids[: llama.n_tokens]
        both = min(len(known), len(ids))
        differing = np.flatnonzero(known[:both] != np.asarray(ids[:both], dtype=known.dtype))
        kept = int(differing[0]) if len(differing) else both
        if not self.model.keeps(min(kept, len(ids) - 1)):  # llama-cpp-python does not ask
            self.model.clear()
            kept = 0
        settings = {"temp": 0.0} if greedy else self._sampling
        for number, token in enumerate(llama.generate(ids, **settings), start=1):
            if self.ends_at(token):
                break
            got(token)
            if number >= limit:
                break
        return len(ids) - kept

    def ends_at(self, token: int) -> bool:
        """Whether this token ends an answer."""
        import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self.model.llama._model.vocab, token))

    def writer(self, write: Callable[[str], None]) -> Got:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def got(token: int) -> None:
            if piece := decoder.decode(self.model.piece(token)):
                write(piece)

        return got


def model_at(what: str, open_run: Callable[[Path], Any]) -> Path:
    """The model that the user means: a GGUF, a model folder, or a run's export.

    Args:
        what: As named.
        open_run: Checks a run folder.

    Raises:
        UserError: None of them, its weights are pickled, or the run has exported nothing yet.
    """
    path = Path(what)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{what}: there is no such file; name a GGUF, a run folder or a folder with config.json")
        return path
    if (path / "config.json").is_file():
        refuse_pickles(path)
        return path
    if (path / "model" / "config.json").is_file():  # an export's own folder
        return path / "model"
    for run in (path, Path("runs") / what):
        if (run / "recipe.yaml").is_file():
            open_run(run)
            if not (run / "export" / "model").is_dir():
                raise UserError(f"{run}: nothing is exported yet; run `shridhar-ft export {run}` first")
            return run / "export" / "model"
    raise UserError(f"{what}: no model there; name a run folder (runs/NAME), a folder with config.json, or a GGUF file")
