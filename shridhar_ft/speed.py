"""Prefill and decode timed apart at a depth of the window, and what bounds them; for transformers and llama.cpp.

    timed = TimedTransformers(model)       # or TimedGguf(GgufModel(file, window))
    timing = time_at(timed, depth=8192, prefill=512, decode=24)

As llama-bench -d does: at a depth, tokens are read and then drawn one at a time. A depth is not read: the first tokens'
keys and values are repeated until it is full, which costs what a true text would and spares the prefill of it.
"""

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from shridhar_ft.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from shridhar_ft.export.gguf_model import GgufModel

SEED_TOKENS = 512
"""Tokens whose keys and values fill a depth; no prefill that is timed is longer."""
GIGABYTE = 1 << 30
WIDE = 2048  # rows and columns of the product that shows what the processor computes


@dataclass(frozen=True)
class Timing:
    """What one measurement took."""

    read: tuple[float, float]
    """Wall and processor seconds of the prefill."""
    drawn: tuple[tuple[float, float], ...]
    """Of each decoded token."""
    bytes_per_token: int
    """Bytes of keys and values that a token of the text takes."""


class Timed(Protocol):
    """A model whose speed is measured."""

    weights: int
    """Bytes of the weights that a decoded token reads."""
    parameters: int | None
    """Weights that a token is multiplied with, where that many numbers of `flops_type` are computed with."""
    device: str
    """Type of the device that computes."""
    vocabulary: int

    def at(self, depth: int) -> int:
        """Empty the window and fill it up to a depth; returns bytes of keys and values a token."""

    def read(self, ids: np.ndarray) -> None:
        """Read tokens after what is there, without logits but the last one's."""

    def draw(self, token: int) -> None:
        """Read one token and make its logits."""


def time_at(timed: Timed, depth: int, prefill: int, decode: int) -> Timing:
    """Time one prefill and some decoded tokens behind a depth.

    Args:
        timed: The model; its window holds depth + prefill + decode.
        depth: Tokens that stand there already.
        prefill: Tokens that are read, SEED_TOKENS at most.
        decode: Tokens that are drawn, one at a time.
    """
    ids = np.random.default_rng(0).integers(0, timed.vocabulary, max(prefill, decode)).astype(np.int64)
    clock = Stopwatch()
    per_token = timed.at(depth)
    with clock.timed() as read:
        timed.read(ids[:prefill])
    drawn = []
    for step in range(decode):
        with clock.timed() as took:
            timed.draw(int(ids[step]))
        drawn.append(took)
    return Timing(_pair(read), tuple(_pair(one) for one in drawn), per_token)


class Stopwatch:
    """Wall and processor time."""

    @contextmanager
    def timed(self) -> Iterator[list[float]]:
        """A list that holds both, in seconds, when the block has ended."""
        took: list[float] = []
        before = time.perf_counter(), time.process_time()
        yield took
        took += [time.perf_counter() - before[0], time.process_time() - before[1]]


def _pair(took: list[float]) -> tuple[float, float]:
    return took[0], took[1]


# --------------------------------------------------------------------------------------------------- what bounds


def memory_rate(device: str = "cpu") -> float:
    """Bytes a second that are read from memory: all cores' sums over a gigabyte each, or a device's own; best of three.

    Decode reads every weight and all keys and values for each token, so it cannot be faster than this allows; only a
    model that fits the processor's cache can.
    """
    if device != "cpu":
        return _device_rate(device)
    parts = [np.ones(GIGABYTE // 8, dtype=np.float64) for _ in range(os.cpu_count() or 1)]
    best = 0.0
    for _ in range(3):
        threads = [threading.Thread(target=part.sum) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, sum(part.nbytes for part in parts) / (time.perf_counter() - started))
    return best


def _device_rate(device: str) -> float:
    import torch

    held = torch.ones(GIGABYTE // 4, device=device)
    return GIGABYTE / min(_took(lambda: held.sum().item()) for _ in range(3))


def compute_rate(device: str, dtype: "torch.dtype") -> float:
    """Operations a second of a large matrix product; best of three. Prefill is such products for the most part."""
    import torch

    one = torch.ones(WIDE, WIDE, device=device, dtype=dtype)
    return 2 * WIDE**3 / min(_took(lambda: (one @ one)[0, 0].item()) for _ in range(3))


def _took(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --------------------------------------------------------------------------------------------------- transformers


@dataclass
class TimedTransformers:
    """A causal model of transformers, in evaluation mode."""

    model: "PreTrainedModel"
    device: str = field(init=False)
    _cache: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.device = self.model.device.type
        self.vocabulary = int(self.model.config.get_text_config().vocab_size)
        held = {id(tensor): tensor for tensor in self.model.parameters()}.values()
        embedding = self.model.get_input_embeddings().weight
        tied = self.model.get_output_embeddings().weight is embedding
        read = [tensor for tensor in held if tied or tensor is not embedding]
        self.weights = sum(tensor.numel() * tensor.element_size() for tensor in read)
        self.parameters: int | None = sum(tensor.numel() for tensor in read)
        # transformers 5.24 renamed it.
        taken = inspect.signature(self.model.forward).parameters
        self._name = "cache" if "cache" in taken else "past_key_values"
        self._seed = self._read_seed()

    def _read_seed(self) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
        """Keys and values of the first tokens, by layer; it warms up, too."""
        import torch

        ids = np.random.default_rng(1).integers(0, self.vocabulary, SEED_TOKENS)
        self._empty()
        self.read(ids)
        held = []
        for layer in self._cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor) or keys.dim() != 4:
                raise UserError(
                    f"speed: the layers of {self.model.config.model_type} keep something else than keys and values, so "
                    "a depth cannot be filled"
                )
            held.append((keys, values))
        return held

    def _empty(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self.model.config)

    def at(self, depth: int) -> int:
        import torch

        self._empty()
        each = 0
        for index, pair in enumerate(self._seed):
            each += sum(one.numel() * one.element_size() // one.shape[2] for one in pair)
            if depth:
                place = torch.arange(depth, device=self.model.device) % pair[0].shape[2]
                self._cache.update(pair[0][:, :, place], pair[1][:, :, place], index)
        return each

    def read(self, ids: np.ndarray) -> None:
        self._forward(ids)

    def draw(self, token: int) -> None:
        self._forward(np.array([token]))

    def _forward(self, ids: np.ndarray) -> None:
        import torch

        rows = torch.as_tensor(ids, dtype=torch.long, device=self.model.device)[None]
        with torch.inference_mode():
            logits = self.model(rows, **{self._name: self._cache}, use_cache=True, logits_to_keep=1).logits
            logits[0, -1, 0].item()  # waits for the device


# ------------------------------------------------------------------------------------------------------ llama.cpp


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
    import ctypes

    import llama_cpp

    size = int(llama_cpp.llama_state_seq_get_size(model.llama.ctx, 0))
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(model.llama.ctx, buffer, size, 0) == size
    return np.frombuffer(buffer, dtype=np.uint8)


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
    import ctypes

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
