"""A GGUF file as a `Reader`, read by llama.cpp."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.reader import ANSWERS, closed, ending
from shridhar_ft.export.gguf_model import GgufModel
from shridhar_ft.runfolder import file_hash
from shridhar_ft.speed.gguf import TimedGguf
from shridhar_ft.tokenizer import BOOK


class GgufReader:
    """llama.cpp with one window."""

    def __init__(self, file: Path, name: str, context: int = 0) -> None:
        """
        Args:
            file: The GGUF.
            name: What tables call it.
            context: Tokens of the window, whose keys and values are allotted at once; 0 takes the file's own.
        """
        self.model = GgufModel(file, context)
        self.name, self.made_from, self.window = name, file_hash(file), self.model.window
        known = self.model.tokenize(BOOK, special=True)
        metadata = self.model.metadata()
        begin, end = (metadata.get(f"tokenizer.ggml.{which}_token_id") for which in ("bos", "eos"))
        added = metadata.get("tokenizer.ggml.add_bos_token") == "true" and begin is not None
        if len(known) == 1:
            self.opening = [*([int(str(begin))] if added else []), *known]
        elif begin is not None or end is not None:
            self.opening = [int(str(begin if begin is not None else end))]
        else:
            raise UserError(f"{file}: it has no token that begins or ends a text; export the model anew")
        self.ends = {int(end)} if end is not None else set()
        self._read: list[int] = []

    def encode(self, text: str) -> list[int]:
        return self.model.tokenize(text, special=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.llama.detokenize(list(ids)).decode("utf-8", errors="replace")

    def conversation(self, messages: Sequence[dict[str, str]]) -> list[int] | None:
        if "tokenizer.chat_template" not in self.model.metadata():
            return None
        return self.model.render(list(messages))

    def closing(self) -> list[int]:
        if "tokenizer.chat_template" not in self.model.metadata():
            return []
        return ending([self.model.render(closed(said), ready=False) for said in ANSWERS], self.ends)

    def nats(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert all(len(piece) <= self.window for piece in pieces), "a text beyond the window"
        self._read = []
        return [self.model.nats(np.asarray(piece)) for piece in pieces]

    def read(self, ids: Sequence[int]) -> None:
        assert len(ids) <= self.window, "a prompt beyond the window"
        self.model.clear()
        self._read = [int(token) for token in ids]
        before = np.array(self._read[:-1], dtype=np.int64)  # the last one is read with what follows
        for begin in range(0, len(before), self.model.batch):
            piece = before[begin : begin + self.model.batch]
            self.model.decode(piece, begin, np.zeros(len(piece), dtype=bool))

    def after(self, ids: Sequence[int]) -> np.ndarray:
        assert self._read, "nothing was read"
        found = np.empty(len(ids), dtype=np.float32)
        for index, row in enumerate(self._rows([self._read[-1], *ids[:-1]])):
            top = row.max()
            found[index] = top + np.log(np.exp(row - top).sum()) - row[ids[index]]
        self._cut_back()
        return found

    def go_on(self, limit: int) -> list[int]:
        said: list[int] = []
        token, place = self._read[-1], len(self._read) - 1
        while len(said) < limit:
            token = int(self._rows([token], place)[0].argmax())
            place += 1
            if token in self.ends:
                break
            said.append(token)
        self._cut_back()
        return said

    def _rows(self, ids: Sequence[int], place: int | None = None) -> list[np.ndarray]:
        """Logits after each of these tokens, the first of which stands at `place`."""
        place = len(self._read) - 1 if place is None else place
        rows: list[np.ndarray] = []
        for begin in range(0, len(ids), self.model.batch):
            piece = np.array(ids[begin : begin + self.model.batch], dtype=np.int64)
            self.model.decode(piece, place + begin, np.ones(len(piece), dtype=bool))
            rows += [self.model._logits(offset).copy() for offset in range(len(piece))]
        return rows

    def _cut_back(self) -> None:
        if not self.model.cut_back(len(self._read) - 1):
            self.read(list(self._read))  # recurrent layers, or sliding ones behind a long answer

    def sample(
        self, prompts: Sequence[Sequence[int]], tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[list[int]]:
        draw = np.random.default_rng(seed)
        return [self._sampled(prompt, tokens, temperature, top_p, draw) for prompt in prompts]

    def timed(self) -> TimedGguf:
        self._read = []
        return TimedGguf(self.model)

    def _sampled(
        self, prompt: Sequence[int], tokens: int, temperature: float, top_p: float, draw: np.random.Generator
    ) -> list[int]:
        self.read(prompt)
        said: list[int] = []
        token = self._read[-1]
        for place in range(len(prompt) - 1, len(prompt) - 1 + tokens):
            logits = self._rows([token], place)[0].astype(np.float64) / temperature
            logits[list(self.ends)] = -np.inf
            chances = np.exp(logits - logits.max())
            chances /= chances.sum()
            order = np.argsort(-chances)
            kept = order[: int(np.searchsorted(np.cumsum(chances[order]), top_p)) + 1]
            token = int(draw.choice(kept, p=chances[kept] / chances[kept].sum()))
            said.append(token)
        self._cut_back()
        return said
