"""A model of transformers as a `Reader`: a model folder, or a part of a run with the adapters that it ended with."""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.adapters import load_weights
from shridhar_ft.config import Model, Recipe
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.reader import ANSWERS, closed, ending
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.build import base_config, base_contents, load_model, model_fingerprint, stage_config
from shridhar_ft.model.rope import copied
from shridhar_ft.model.rope_receipt import need_certified_rope, need_rope
from shridhar_ft.model.sparse import slides
from shridhar_ft.progress import hush_libraries
from shridhar_ft.runfolder import Run, fingerprint, part_of
from shridhar_ft.scoring import nats_of
from shridhar_ft.speed.hf import TimedTransformers
from shridhar_ft.tokenizer import BOOK, encode_book, load_tokenizer
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACK = 4096  # tokens of short pieces that share a forward pass
READ_BYTES = 1 << 30  # activations of one layer's MLP that a prompt may take when it is read in one pass
READ_AT_ONCE = 2048  # tokens otherwise: each later pass has a mask of so many rows


class HfReader:
    """A causal model with its tokenizer, in evaluation mode."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", name: str, made_from: str
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name, self.made_from = name, made_from
        self.window = int(model.config.get_text_config().max_position_embeddings)
        self.opening = opening_of(tokenizer)
        self.ends = _ends(model, tokenizer)
        self._slides = slides(model.config.get_text_config())  # a sliding layer's cache cannot be cut back
        # transformers 5.24 renamed it.
        taken = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in taken else "past_key_values"
        self._cache: Any = None
        self._last = -1

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def conversation(self, messages: Sequence[dict[str, str]]) -> list[int] | None:
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        rendered = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        return list(rendered["input_ids"])

    def closing(self) -> list[int]:
        if not getattr(self.tokenizer, "chat_template", None):
            return []
        rendered = [self.tokenizer.apply_chat_template(closed(said), return_dict=True) for said in ANSWERS]
        return ending([one["input_ids"] for one in rendered], self.ends)

    def nats(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert all(len(piece) <= self.window for piece in pieces), "a text beyond the window"
        found: list[np.ndarray] = []
        for batch in _batches(pieces):
            found += nats_of(self.model, batch)
        return found

    def read(self, ids: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        assert len(ids) <= self.window, "a prompt beyond the window"
        self._cache, self._last = DynamicCache(config=self.model.config), int(ids[-1])
        wide = int(getattr(self.model.config.get_text_config(), "intermediate_size", 0) or 4096)
        at_once = len(ids) if len(ids) * wide * 4 <= READ_BYTES else READ_AT_ONCE
        prompt = torch.as_tensor(list(ids[:-1]), device=self.model.device)[
            None
        ]  # the last one is read with what follows
        with torch.no_grad():
            for begin in range(0, len(ids) - 1, at_once):
                self._forward(prompt[:, begin : begin + at_once], self._cache, keep=1)

    def after(self, ids: Sequence[int]) -> np.ndarray:
        import torch

        wanted = torch.as_tensor(list(ids), device=self.model.device)
        with torch.no_grad():
            cache = self._kept()
            fed = torch.cat([wanted.new_tensor([self._last]), wanted[:-1]])[None]
            logits = self._forward(fed, cache, keep=len(ids)).float()  # (1, n, V): n is an answer's, never a text's
            nats = -logits[0].log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            self._cut_back(len(ids))
        return nats.cpu().numpy()

    def go_on(self, limit: int) -> list[int]:
        import torch

        said: list[int] = []
        token, fed = self._last, 0
        with torch.no_grad():
            cache = self._kept()
            while len(said) < limit:
                logits = self._forward(torch.tensor([[token]], device=self.model.device), cache, keep=1)
                fed += 1
                token = int(logits[0, -1].argmax())
                if token in self.ends:
                    break
                said.append(token)
            self._cut_back(fed)
        return said

    def sample(
        self, prompts: Sequence[Sequence[int]], tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[list[int]]:
        import torch

        ids = torch.as_tensor([list(prompt) for prompt in prompts], device=self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            whole = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=True,
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                repetition_penalty=1.0,
            )
        return [row[ids.shape[1] :].tolist() for row in whole]

    def timed(self) -> TimedTransformers:
        return TimedTransformers(self.model)

    def _forward(self, ids: "torch.Tensor", cache: Any, keep: int) -> "torch.Tensor":  # noqa: ANN401
        output = self.model(ids, **{self._cache_name: cache}, use_cache=True, logits_to_keep=keep)
        return output.logits

    def _kept(self) -> Any:  # noqa: ANN401 - transformers' cache
        """The cache to write into: the own one, which is cut back afterwards, or a copy where that cannot be done."""
        return copy.deepcopy(self._cache) if self._slides else self._cache

    def _cut_back(self, tokens: int) -> None:
        if not self._slides:
            self._cache.crop(-tokens)


def _batches(pieces: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Pieces in their order, in lists of at most `PACK` tokens; a longer one is alone."""
    batches: list[list[np.ndarray]] = []
    held = PACK
    for piece in pieces:
        if held + len(piece) > PACK:
            batches.append([])
            held = 0
        batches[-1].append(np.asarray(piece))
        held += len(piece)
    return batches


def opening_of(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that a text begins with: our own, else the beginning or the end of a text.

    Raises:
        UserError: The tokenizer has none of them, so nothing gives the first token its context.
    """
    if BOOK in tokenizer.get_vocab():
        if tokenizer.chat_template is None:  # a folder without it: what stands before a book is not known
            return [int(tokenizer.get_vocab()[BOOK])]
        return [int(token) for token in encode_book(tokenizer, "")[:-1]]
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    raise UserError("the model's tokenizer has no token that begins or ends a text; set bos_token in its files")


def _ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id]
    return {int(token) for token in listed if token is not None}


# ------------------------------------------------------------------------------------------------------ loading


def open_folder(folder: Path, name: str) -> HfReader:
    """The model and tokenizer of a folder, without the network."""
    import torch

    hush_libraries()
    section = Model(base=str(folder))
    config = base_config(section)
    device, dtype = _place()
    kernel = choose_attention(section, config, device, half=dtype != torch.float32).implementation
    need_certified_rope(folder)
    model = load_model(folder, config, kernel, dtype).to(device)
    need_rope(model, base_config(section), int(config.max_position_embeddings))
    return HfReader(model, load_tokenizer(folder), name, model_fingerprint(folder))


def open_part(recipe: Recipe, run: Run, part_name: str, name: str) -> HfReader:
    """What a part of a run ended with, adapters merged, under the RoPE that it was trained with.

    Args:
        recipe: The run's.
        run: The run.
        part_name: `stages/<stage>` or `sft`.
        name: What tables call it.

    Raises:
        UserError: The part is not finished.
    """
    part = part_of(run.root / part_name)
    if part is None:
        raise UserError(f"{run.root / part_name} is not finished; run `shridhar-ft run {run.root}/recipe.yaml` first")
    stages = [f"stages/{stage.name}" for stage in recipe.stages]
    stage = stages.index(part_name) if part_name in stages else -1
    weights = Weights.from_dict(part["weights"], run.root)
    return _open_weights(recipe, run, weights, stage, name, fingerprint(part["fingerprint"]))


def open_base(recipe: Recipe, run: Run, name: str) -> HfReader:
    """The base of a run as its first part begins with it: under its RoPE, with the rows of the tokenizer's new tokens.

    Args:
        recipe: The run's, with a base.
        run: The run; its tokenizer is made.
        name: What tables call it.
    """
    base = recipe.model.base
    assert base is not None, "random weights are no base"
    stage = 0 if recipe.stages else -1
    return _open_weights(recipe, run, Weights(base, recipe.model.revision), stage, name, base_hash(recipe))


def base_hash(recipe: Recipe) -> str:
    """Fingerprint of the base that a recipe names."""
    return fingerprint(recipe.model.base, recipe.model.revision, base_contents(recipe.model.base))


def _open_weights(recipe: Recipe, run: Run, weights: Weights, stage: int, name: str, made_from: str) -> HfReader:
    """Weights with a run's tokenizer and the config of one of its stages (−1: that of SFT)."""
    import torch

    hush_libraries()
    tokenizer = load_tokenizer(run.tokenizer)
    config, _ = stage_config(recipe, stage, len(tokenizer))
    device, dtype = _place()
    kernel = choose_attention(recipe.model, config, device, half=dtype != torch.float32).implementation
    claimed = copied(config)
    model, _, _ = load_weights(weights, config, tokenizer, kernel, dtype, as_trained=True)
    need_rope(model, claimed, int(claimed.max_position_embeddings))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return HfReader(model.to(device), tokenizer, name, made_from)


def _place() -> tuple["torch.device", "torch.dtype"]:
    """Device and type: float32 but on CUDA, since other processors emulate half precision, or round by kernel."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu"), torch.float32
