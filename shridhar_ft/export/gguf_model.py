"""A GGUF file read by a real llama.cpp (llama-cpp-python): logits and losses batch by batch, tokens, timing.

Logits are asked for where they are wanted and read before the next batch: at 108,000 tokens and a vocabulary of
50,000 all of them would be 21.6 GB.
"""

import ctypes
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from shridhar_ft.cores import cores
from shridhar_ft.errors import UserError
from shridhar_ft.export.gguf_attention import Attending, choose_attending
from shridhar_ft.export.gguf_header import BATCH, check_cache, fitting_window, read_header

CACHES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
"""Types of the key/value cache, by ggml's numbers."""
AS_THE_FILE_SAYS = {"yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0}
"""llama-cpp-python's own defaults for these would replace what stands in the file."""
_SILENT: list[Any] = []


def check_cache_type(cache: str) -> None:
    """Refuse a type of key/value cache that there is not.

    Raises:
        UserError: It is none of CACHES.
    """
    if cache not in CACHES:
        raise UserError(f"--cache {cache}: no key/value cache has that type; take one of {', '.join(CACHES)}")


def window_to_talk_in(file: Path, cache: str, told: Callable[[str], None], whole: bool = False) -> int:
    """The window of a GGUF where nobody named one: 0 for the file's own, or as much of it as fits into memory.

    Args:
        file: The GGUF.
        cache: Type of the key/value cache.
        told: Told where it is shorter than the file's own.
        whole: Whether layers that slide keep the whole window.

    Raises:
        UserError: No such cache, a damaged file, or no room for any window.
    """
    check_cache_type(cache)
    window, why = fitting_window(file, cache, whole)
    if why is not None:
        told(f"chat: {why}")
    return window


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


def silence() -> None:
    """Let llama.cpp print nothing: it writes hundreds of lines past Python's own streams."""
    import llama_cpp

    if not _SILENT:
        _SILENT.append(llama_cpp.llama_log_callback(lambda *_: None))  # kept, or it would be freed under llama.cpp
        llama_cpp.llama_log_set(_SILENT[0], ctypes.c_void_p(0))


class GgufModel:
    """A GGUF file and a context to read in."""

    def __init__(
        self,
        file: Path,
        context: int = 0,
        cache: str = "f16",
        threads: int | None = None,
        attending: Attending | None = None,
    ) -> None:
        """
        Args:
            file: The GGUF.
            context: Tokens of the window; 0 takes the file's own.
            cache: Type of the key/value cache, one of CACHES.
            threads: For prefill and decode; None takes the cores that this process may use.
            attending: How; None takes what is fastest of what fits. In blocks it rounds to 16 bits whatever the
                cache's type (3e-4 in a logit, where plain attention in float32 has 5e-7).

        Raises:
            UserError: llama-cpp-python is missing, the file is damaged or unknown to llama.cpp, or the window does not
                fit into memory.
        """
        check_cache_type(cache)
        if not has_llama_cpp():
            raise UserError(f"{file}: reading it needs llama.cpp; run `pip install 'shridhar_ft[llama-cpp]'`")
        header = read_header(file)
        wanted = context or header.window
        check_cache(header, wanted, cache)
        self.attending = attending or choose_attending(header, wanted, cache)
        import llama_cpp

        silence()
        threads = threads or cores()
        try:
            self.llama: Any = llama_cpp.Llama(
                model_path=str(file),
                n_ctx=context,
                n_batch=BATCH,
                n_ubatch=self.attending.batch,
                n_threads=threads,
                n_threads_batch=threads,
                type_k=CACHES[self.attending.keys],
                type_v=CACHES[self.attending.values],
                flash_attn=self.attending.flash,
                swa_full=False,  # sliding layers keep their window and a batch, not all: see `keeps`
                verbose=False,
                **AS_THE_FILE_SAYS,
            )
        except ValueError as error:
            if "llama_context" in str(error):  # the model was read, and what it computes in was not made
                raise UserError(
                    f"{file}: llama.cpp could not allot a window of {wanted:,} tokens with a cache in {cache}; take a "
                    "shorter one with --context N, or --cache q8_0"
                ) from error
            raise UserError(
                f"{file}: llama.cpp cannot read this file, which is whole: it may be of a newer kind than the "
                "llama.cpp that is installed; update llama-cpp-python, or export it anew"
            ) from error
        self.file = file
        self.window = int(self.llama.n_ctx())
        self.vocab_size = int(self.llama.n_vocab())
        self.batch = BATCH
        """Tokens that are given at once."""
        self.sliding_window = header.sliding_window

    def close(self) -> None:
        """Free its memory now."""
        self.llama.close()

    # ---------------------------------------------------------------------------------------------- reading

    def rows(self, ids: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Read a text from an empty window and give the logits at some positions, batch by batch.

        Args:
            ids: Token ids, (T,).
            wanted: Positions, ascending.

        Yields:
            Position and its logits, float32 (V,): a view that the next batch overwrites.
        """
        self.clear()
        asked = np.zeros(len(ids), dtype=bool)
        asked[wanted] = True
        for begin in range(0, len(ids), self.batch):
            here = asked[begin : begin + self.batch]
            self.decode(ids[begin : begin + self.batch], begin, here)
            for offset in np.flatnonzero(here):
                yield begin + int(offset), self._logits(int(offset))

    def logits_at(self, ids: np.ndarray, where: list[int]) -> np.ndarray:
        """Logits of a text at these positions only, float32 (P, V), in the order of `where`."""
        found = {position: row.copy() for position, row in self.rows(ids, np.array(sorted(set(where))))}
        return np.stack([found[position] for position in where])

    def nats(self, ids: np.ndarray) -> np.ndarray:
        """Negative log-likelihood of each token but the first given those before it, float32 (T − 1,)."""
        found = np.empty(len(ids) - 1, dtype=np.float32)
        for position, row in self.rows(ids, np.arange(len(ids) - 1)):
            top = row.max()
            found[position] = top + np.log(np.exp(row - top).sum()) - row[ids[position + 1]]
        return found

    def clear(self) -> None:
        """Empty the window."""
        self.llama._ctx.kv_cache_clear()
        self.llama.reset()

    def keeps(self, length: int) -> bool:
        """Whether what was read can be cut back to so many tokens and gone on from.

        Sliding layers have let go of what no token to come would see. llama.cpp cuts back all the same, and would
        answer from what is left.
        """
        import llama_cpp

        if not self.sliding_window or not length:
            return True
        first = llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(self.llama.ctx), 0)
        return 0 <= first <= max(0, length - self.sliding_window)

    def cut_back(self, length: int) -> bool:
        """Forget all but the first tokens; False where that cannot be done: then nothing has changed."""
        return self.keeps(length) and bool(self.llama._ctx.kv_cache_seq_rm(0, length, -1))

    def decode(self, ids: np.ndarray, begin: int, logits: np.ndarray) -> None:
        """Read tokens at the positions from `begin` on; `logits` says at which of them logits are made (bool)."""
        import llama_cpp

        batch = self.llama._batch.batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = int(token)
            batch.pos[index] = begin + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = bool(logits[index])
        status = llama_cpp.llama_decode(self.llama.ctx, batch)
        if status != 0:
            raise UserError(
                f"llama.cpp could not read {len(ids)} tokens at position {begin:,} (status {status}); the window has "
                f"{self.window:,}"
            )

    def _logits(self, offset: int) -> np.ndarray:
        import llama_cpp

        pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, offset)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))

    # --------------------------------------------------------------------------------------------- text

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids of a text; special tokens are read as such where `special`, and as plain text otherwise."""
        return self.llama.tokenize(text.encode("utf-8"), add_bos=False, special=special)

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none of a special one. They need not be whole characters."""
        import llama_cpp

        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self.llama._model.vocab, token, buffer, len(buffer), 0, False)
        assert length >= 0, "no token of a vocabulary is longer than 256 bytes"
        return buffer.raw[:length]

    def render(self, messages: list[dict[str, str]], ready: bool = True) -> list[int]:
        """Token ids of a conversation by the file's own chat template.

        Args:
            messages: The conversation.
            ready: Whether an answer is to follow.

        Raises:
            UserError: The file has no chat template.
        """
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        written = self.metadata()
        if "tokenizer.chat_template" not in written:
            raise UserError(f"{self.file}: it has no chat template, so nobody can talk to it; export the model anew")
        begin, end = (self._special(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
        formatter = Jinja2ChatFormatter(
            written["tokenizer.chat_template"], eos_token=end, bos_token=begin, add_generation_prompt=ready
        )
        return self.tokenize(formatter(messages=messages).prompt, special=True)

    def _special(self, key: str) -> str:
        token = self.metadata().get(key)
        return "" if token is None else self.llama._model.token_get_text(int(token))

    def metadata(self) -> dict[str, str]:
        """The file's metadata, as llama.cpp reads them."""
        return dict(self.llama.metadata)
