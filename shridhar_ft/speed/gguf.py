"""A GGUF in llama.cpp as its speed is measured."""

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from shridhar_ft.errors import UserError
from shridhar_ft.speed.timing import SEED_TOKENS

if TYPE_CHECKING:
    from shridhar_ft.export.gguf_model import GgufModel


class TimedGguf:
    """A GGUF in llama.cpp."""

    device = "cpu"
    parameters: int | None = None  # it multiplies in eight bits or fewer, whose rate is not known here

    def __init__(self, model: "GgufModel") -> None:
        self.model = model
        self.vocabulary, self.weights = model.vocab_size, model.file.stat().st_size
        self._place = 0
        model.clear()
        ids = np.random.default_rng(1).integers(0, self.vocabulary, SEED_TOKENS)
        self.read(ids)
        self._seed = _state(model)

    def at(self, depth: int) -> int:
        self.model.clear()
        self._place = depth
        if not depth:
            return len(self._seed) // SEED_TOKENS
        return fill(self.model, self._seed, depth)

    def read(self, ids: np.ndarray) -> None:
        none = np.zeros(len(ids), dtype=bool)
        for begin in range(0, len(ids), self.model.batch):
            piece = slice(begin, begin + self.model.batch)
            self.model.decode(ids[piece], self._place, none[piece])
            self._place += len(ids[piece])

    def draw(self, token: int) -> None:
        self.model.decode(np.array([token]), self._place, np.ones(1, dtype=bool))
        self._place += 1


def _state(model: "GgufModel") -> np.ndarray:
    """The keys and values that are held, in llama.cpp's own format: uint8 (bytes,)."""
    import llama_cpp

    size = int(llama_cpp.llama_state_seq_get_size(model.llama.ctx, 0))
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(model.llama.ctx, buffer, size, 0) == size
    return np.frombuffer(bytes(buffer), dtype=np.uint8)


def fill(model: "GgufModel", state: np.ndarray, depth: int) -> int:
    """Repeat the cells of a state until a depth is full; returns bytes a token.

    The format is llama.cpp's own: magic and sequence, then a cache, and of sliding layers another one
    (llama_kv_cache_iswa::state_write), which holds the end of the depth alone.

    Args:
        model: Its window is empty.
        state: From `_state`, of SEED_TOKENS.
        depth: Tokens.

    Raises:
        UserError: A cache is laid out otherwise.
    """
    import llama_cpp

    pieces, at = [state[:8]], 8
    for begin in (0, max(0, depth - (model.sliding_window or depth))):
        if at < len(state):
            filled, at = _repeated(state, at, begin, depth)
            pieces += filled
    if at != len(state):
        raise UserError(f"{model.file}: llama.cpp keeps its cache otherwise than known here; no depth can be filled")
    whole = np.concatenate(pieces)
    pointer = whole.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    assert llama_cpp.llama_state_seq_set_data(model.llama.ctx, pointer, len(whole), 0) == len(whole)
    return len(whole) // depth


def _repeated(state: np.ndarray, at: int, begin: int, end: int) -> tuple[list[np.ndarray], int]:
    """One cache with its cells repeated, and where it ended; a place beyond the state where it is of no such kind.

    Its format (llama_kv_cache::state_write): streams, cells; position, number of sequences and sequence of each cell;
    whether values are transposed, layers; then type, row size and rows of the keys of each layer, and of the values;
    of transposed ones type, size and number of their numbers, and each number of all cells.

    Args:
        state: Bytes.
        at: Where the cache begins.
        begin: Position of the first cell that is made.
        end: Position after the last.
    """
    unknown = [state[:0]], len(state) + 1
    streams, held = (int(number) for number in state[at : at + 8].view(np.uint32))
    if streams != 1 or not 0 < held <= SEED_TOKENS:
        return unknown
    cells = np.zeros((end - begin, 3), dtype=np.int32)
    cells[:, 0], cells[:, 1] = np.arange(begin, end), 1
    pieces = [state[at : at + 4], np.array([len(cells)], np.uint32).view(np.uint8), cells.reshape(-1).view(np.uint8)]
    at += 8 + held * 12
    transposed, layers = (int(number) for number in state[at : at + 8].view(np.uint32))
    pieces.append(state[at : at + 8])
    at += 8
    for part in range(2 * layers):
        size, count = state[at + 4 : at + 12].view(np.uint32)  # a row's size is 64 bits wide, and small
        across = transposed and part >= layers
        rows = (count, held, size) if across else (1, held, size)
        taken = int(np.prod(rows, dtype=np.int64))
        kept = np.take(state[at + 12 : at + 12 + taken].reshape(rows), np.arange(len(cells)) % held, axis=1)
        pieces += [state[at : at + 12], kept.reshape(-1)]
        at += 12 + taken
    return pieces, at
