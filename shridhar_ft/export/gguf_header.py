"""The head of a GGUF file, read without llama.cpp: is it whole, what window does it have, what will its cache take.

llama.cpp allots the keys and values of the whole window at once. Where they do not fit it says only that it failed, and
where the system promises memory that it has not, the process is killed. So they are counted first.

The format: github.com/ggml-org/ggml, docs/gguf.md.
"""

import mmap
import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shridhar_ft.errors import UserError
from shridhar_ft.model.sparse import GEMMA3_GLOBAL_EVERY
from shridhar_ft.plan.free_memory import free_bytes

CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of a key's or value's element, by type of the cache."""
QUANTISED = ("q8_0", "q4_0")
"""Of them those that round in blocks, the larger first."""
SPARE = 512 << 20  # bytes left for llama.cpp's own buffers and everybody else
ROUND = 256  # llama.cpp's windows are multiples of it
SHORTEST = 512  # tokens: a shorter window holds no conversation
BATCH = 512  # tokens read at once; sliding layers keep so many beyond their window
_EVERY = {"gemma3": GEMMA3_GLOBAL_EVERY, "olmo2": 4}
"""Every n-th layer sees all where a file has sliding layers and no pattern: llama.cpp's own, by architecture."""
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    30: (1, 2),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
}
"""Elements and bytes of a block, by ggml's number of the type; of any other type the size is not checked."""


@dataclass(frozen=True)
class Header:
    """What the head of a GGUF says."""

    file: Path
    metadata: dict[str, Any]
    """Numbers, texts, and lists of numbers; lists of texts (the vocabulary) are left out."""

    @property
    def window(self) -> int:
        """Tokens that the model was made for; 0 where the file does not say."""
        return int(self._of("context_length", 0))

    @property
    def sliding_window(self) -> int:
        """Tokens that a token of a sliding layer sees, itself included; 0 where no layer slides."""
        return int(self._of("attention.sliding_window", 0))

    @property
    def slides(self) -> list[bool]:
        """Which layers slide, as far as is known: of a pattern that is not, all are taken to see the whole window."""
        layers = int(self._of("block_count", 0))
        every = self._of("attention.sliding_window_pattern", _EVERY.get(str(self.metadata.get("general.architecture"))))
        if not self.sliding_window or not every:
            return [False] * layers
        return list(every) if isinstance(every, list) else [bool((layer + 1) % every) for layer in range(layers)]

    @property
    def heads(self) -> int:
        """Query heads of the widest layer."""
        heads = self._of("attention.head_count", 0)
        return max(heads) if isinstance(heads, list) else int(heads)

    def cache_bytes(
        self, tokens: int, cache: str, values: str | None = None, batch: int = BATCH, whole: bool = False
    ) -> int:
        """Bytes of the keys and values of a window; 0 where the file does not say how large they are.

        Args:
            tokens: Of the window.
            cache: Type of the keys, one of CACHE_BYTES.
            values: Type of the values, where it is another.
            batch: Tokens computed at once, which layers that slide keep beyond their own window.
            whole: Whether layers that slide keep everything, too.
        """
        own = self._of("embedding_length", 0) // self.heads if self.heads else 0
        width = self._of("attention.key_length", own) * CACHE_BYTES[cache]
        width += self._of("attention.value_length", own) * CACHE_BYTES[values or cache]
        of_keys = self._of("attention.head_count_kv", self._of("attention.head_count", 0))
        each = of_keys if isinstance(of_keys, list) else [of_keys] * int(self._of("block_count", 0))
        near = tokens if whole else min(tokens, -(-(self.sliding_window + batch) // ROUND) * ROUND)
        held = sum(count * (near if slides else tokens) for count, slides in zip(each, self.slides, strict=True))
        return int(held * width)

    def longest_that_fits(self, cache: str, free: int, whole: bool = False) -> int:
        """Tokens of the longest window whose keys and values fit into so many bytes, rounded as llama.cpp does."""
        if not self.cache_bytes(ROUND, cache):
            return self.window
        most = self.window or free
        windows = range(ROUND, most + ROUND, ROUND)
        return min(
            most, ROUND * bisect_right(windows, free, key=lambda tokens: self.cache_bytes(tokens, cache, whole=whole))
        )

    def _of(self, key: str, default: Any) -> Any:  # noqa: ANN401 - a number, or one for each layer
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}", default)


def read_header(file: Path) -> Header:
    """Read the head of a GGUF, and see whether the file is as long as it says.

    Raises:
        UserError: It is no GGUF, or is cut off.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
            reader = _Reader(held)
            if held[:4] != b"GGUF" or reader.number("I", 4) not in (2, 3):
                raise ValueError("it does not begin as a GGUF does")
            tensors, keys = reader.number("Q"), reader.number("Q")
            metadata = {reader.text(): reader.value() for _ in range(keys)}
            ends = [reader.tensor_end() for _ in range(tensors)]
            alignment = int(metadata.get("general.alignment", 32))
            begins = -(-reader.place // alignment) * alignment
            if ends and begins + max(ends) > len(held):
                raise ValueError(f"it has {len(held):,} bytes of {begins + max(ends):,}")
    except (ValueError, struct.error, KeyError, OverflowError, MemoryError) as error:
        why = str(error) if type(error) is ValueError else "its head is damaged"
        raise UserError(f"{file}: no whole GGUF ({why}); copy it again, or export it anew") from error
    return Header(file, metadata)


class _Reader:
    """Reads one value after the other."""

    def __init__(self, held: mmap.mmap) -> None:
        self.held, self.place = held, 0

    def number(self, form: str, at: int | None = None) -> Any:  # noqa: ANN401 - a number or a bool
        place = self.place if at is None else at
        self.place = place + struct.calcsize(f"<{form}")
        return struct.unpack_from(f"<{form}", self.held, place)[0]

    def text(self) -> str:
        return self._raw(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int | None = None) -> Any:  # noqa: ANN401 - as the file has it
        kind = self.number("I") if kind is None else kind
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            form = f"<{count}{_NUMBERS[inner]}"
            return list(struct.unpack(form, self._raw(struct.calcsize(form))))
        for _ in range(count):  # a vocabulary: stepped over
            if inner == _STRING:
                self._raw(self.number("Q"))
            else:
                self.value(inner)
        return None

    def tensor_end(self) -> int:
        """Where a tensor ends, counted from where they begin."""
        self.text()
        elements = 1
        for _ in range(self.number("I")):
            elements *= self.number("Q")
        kind, offset = self.number("I"), self.number("Q")
        block, size = _BLOCKS.get(kind, (1, 0))
        return int(offset + elements // block * size)

    def _raw(self, length: int) -> bytes:
        if self.place + length > len(self.held):
            raise ValueError(f"it ends after {len(self.held):,} bytes, inside its head")
        found = self.held[self.place : self.place + length]
        self.place += length
        return found


def check_cache(header: Header, tokens: int, cache: str) -> None:
    """Refuse a window whose keys and values do not fit into the memory that is free.

    Raises:
        UserError: They do not; says which window would, and which type of cache.
    """
    free = free_bytes()
    needed = header.cache_bytes(tokens, cache)
    if needed <= free:
        return
    fits = header.longest_that_fits(cache, max(free - SPARE, 0))
    mends = [f"--context {fits}"] if fits >= SHORTEST else []
    smaller = [kind for kind in QUANTISED if CACHE_BYTES[kind] < CACHE_BYTES[cache]]
    mends += [f"--cache {kind}" for kind in smaller if header.cache_bytes(tokens, kind) <= free][:1]
    mend = f"take {' or '.join(mends)}" if mends else "take a machine with more memory"
    raise UserError(
        f"{header.file}: keys and values of {tokens:,} tokens take {needed / 1e9:,.1f} GB in {cache}, and "
        f"{free / 1e9:,.1f} GB of memory are free; {mend}"
    )


def fitting_window(file: Path, cache: str, whole: bool = False) -> tuple[int, str | None]:
    """The window to talk in where nobody named one: the file's own, or the longest that fits into memory.

    Args:
        file: The GGUF.
        cache: Type of the key/value cache.
        whole: Whether layers that slide keep the whole window.

    Returns:
        Tokens (0 for the file's own), and a sentence where it is shorter than the file's own.

    Raises:
        UserError: The file is damaged, or not even a short window fits.
    """
    header = read_header(file)
    # The weights are mapped: they need no memory of their own, and without it every token would read the disk.
    room = free_bytes() - file.stat().st_size - SPARE
    if header.cache_bytes(header.window, cache, whole=whole) <= room:
        return 0, None
    fits = header.longest_that_fits(cache, max(room, 0), whole)
    if fits < SHORTEST:
        raise UserError(
            f"{file}: it takes {file.stat().st_size / 1e9:,.1f} GB, and with what is free beside it not even a window "
            f"of {SHORTEST} tokens fits; name one with --context to try, or take a smaller kind of GGUF"
        )
    return fits, (
        f"{file.name}: the window is {fits:,} tokens of its {header.window:,}, which is what fits into the memory that "
        f"is free with a cache in {cache}; --context and --cache change it"
    )
