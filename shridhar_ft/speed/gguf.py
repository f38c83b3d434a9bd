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

    The format is llama.cpp's own (llama_kv_cache::state_write): magic, sequence, streams, cells; position, number
    of sequences and sequence of each cell; then type, row size and rows of the keys of each layer, and of the values.

    Args:
        model: Its window is empty.
        state: From `_state`, of SEED_TOKENS.
        depth: Tokens.

    Raises:
        UserError: The cache is laid out otherwise, e.g. in two, for layers that slide.
    """
    import llama_cpp

    other = UserError(f"{model.file}: llama.cpp keeps its cache otherwise than of plain layers; no depth can be filled")
    head = state[:16].view(np.uint32)
    if head[2] != 1 or head[3] != SEED_TOKENS:
        raise other
    cells = np.zeros((depth, 3), dtype=np.int32)
    cells[:, 0], cells[:, 1] = np.arange(depth), 1
    pieces = [state[:12], np.array([depth], np.uint32).view(np.uint8), cells.reshape(-1).view(np.uint8)]
    at = 16 + SEED_TOKENS * 12
    transposed, layers = state[at : at + 8].view(np.uint32)
    if transposed:
        raise other
    pieces.append(state[at : at + 8])
    at += 8
    for _ in range(2 * int(layers)):
        row = int(state[at + 4 : at + 12].view(np.uint64)[0])
        rows = state[at + 12 : at + 12 + row * SEED_TOKENS].reshape(SEED_TOKENS, row)
        pieces += [state[at : at + 12], np.resize(rows, (depth, row)).reshape(-1)]
        at += 12 + row * SEED_TOKENS
    if at != len(state):
        raise other
    whole = np.concatenate(pieces)
    pointer = whole.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    assert llama_cpp.llama_state_seq_set_data(model.llama.ctx, pointer, len(whole), 0) == len(whole)
    return len(whole) // depth
