"""The one chunked per-position log-probability of a text: measures of stages, evaluation and certificate read it.

Logits are never whole: at 108,000 tokens and a vocabulary of 50,000 they alone would be 21.6 GB. The loss head
(model/loss.py) multiplies them chunk by chunk and keeps one number a position.

    log_probs        of a batch, by position
    nats_of          of pieces that share a forward pass
    loss_on_windows  over packed windows: mean, and by position in the piece
    read_text        every token of a long text, read in whole windows, and their ends read with a short context only
    measure_text     what that says: loss, loss by position, context gain, with their errors

Processes share the work by `rank` and `ranks`: each reads every ranks-th window, all make as many forward passes
(sharded weights need that), and what they found adds up exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from shridhar_ft.data.windows import IGNORED
from shridhar_ft.model.boundaries import boundaries

if TYPE_CHECKING:
    import torch
    from torch import nn

BUCKETS = 16
"""Equal parts of the context that losses by position are given for."""
LAST, BEFORE = 1024, 2048
"""The context gain: tokens at a window's end that it is measured on, and those before them that the short read sees."""
BLOCK = 1024
"""Tokens in a row whose mean is one observation of a standard error: neighbouring tokens are not independent."""


def positions(lengths: Sequence[int]) -> np.ndarray:
    """Position ids of the pieces that share a window, each from 0: int64, shape (sum of lengths,)."""
    return np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])


def log_probs(
    model: "nn.Module",
    input_ids: "torch.Tensor",
    labels: "torch.Tensor",
    position_ids: "torch.Tensor",
    **ends: Any,  # noqa: ANN401
) -> "torch.Tensor":
    """Log-probability of each label given what stands before it in its piece.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft or accelerate.
        input_ids: Token ids, (B, T).
        labels: The same ids with −100 where nothing is asked, (B, T).
        position_ids: Positions, from 0 in each piece, (B, T).
        **ends: Where the pieces end, from `model.boundaries.boundaries`; without them, where a position does not grow.

    Returns:
        float32 (B, T − 1): entry t is log p(labels[t + 1] | …), 0 where the label is −100.
    """
    import torch

    from shridhar_ft.model.loss import add_loss_head

    add_loss_head(model)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model(
            input_ids=input_ids, position_ids=position_ids, labels=labels, fused_lm_head=True, use_cache=False, **ends
        )
    model.train(was_training)
    return output.log_probs.float()


def _nats(model: "nn.Module", ids: np.ndarray, labels: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Negative log-likelihood of the labels of one window but the first, float32 (T − 1,), 0 where one is −100."""
    import torch

    device = next(model.parameters()).device
    ends = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value
        for key, value in boundaries([[int(length) for length in lengths]]).items()
    }
    tensors = (
        torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)[None]
        for values in (ids, labels, positions(lengths))
    )
    return -log_probs(model, *tensors, **ends)[0].cpu().numpy()


def nats_of(model: "nn.Module", pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Negative log-likelihood of each token but the first of some pieces that share one forward pass.

    Args:
        model: As in `log_probs`; its attention has to keep packed pieces apart (model/attention.py).
        pieces: Token ids of each, (T,); none sees another.

    Returns:
        float32 (T − 1,) for each piece.
    """
    lengths = [len(piece) for piece in pieces]
    ids = np.concatenate(pieces)
    labels = ids.astype(np.int64)
    starts = np.cumsum([0, *lengths[:-1]])
    labels[starts] = IGNORED
    found = _nats(model, ids, labels, lengths)
    return [found[start : start + length - 1] for start, length in zip(starts, lengths, strict=True)]


# ---------------------------------------------------------------------------------------------- packed windows


@dataclass
class Loss:
    """Sums of negative log-likelihoods and over how many tokens, by position, so that parts add up exactly."""

    edges: tuple[int, ...] = ()
    """Buckets of positions, [edges[i], edges[i + 1]) each (tokens before the label in its piece); () keeps none."""
    sums: np.ndarray = field(default_factory=lambda: np.zeros((1, 2)))
    """Nats and tokens of each bucket, float64 (buckets, 2): what processes have to add up."""

    @classmethod
    def nothing(cls, edges: Sequence[int] = ()) -> Self:
        """The loss over no tokens, with its buckets."""
        return cls(tuple(edges), np.zeros((max(1, len(edges) - 1), 2)))

    def count(self, nats: np.ndarray, places: np.ndarray) -> None:
        """Add tokens: their losses and their positions."""
        bucket = np.zeros(len(nats), dtype=np.int64)
        if self.edges:
            bucket = np.searchsorted(self.edges[1:-1], places, side="right")
        for column, values in enumerate((nats, np.ones(len(nats)))):
            self.sums[:, column] += np.bincount(bucket, weights=values, minlength=len(self.sums))

    def __add__(self, other: "Loss") -> "Loss":
        assert self.edges == other.edges, "losses with different buckets"
        return Loss(self.edges, self.sums + other.sums)

    @property
    def nats(self) -> float:
        return float(self.sums[:, 0].sum())

    @property
    def tokens(self) -> int:
        return int(self.sums[:, 1].sum())

    @property
    def mean(self) -> float:
        return self.nats / self.tokens if self.tokens else float("nan")

    def by_position(self) -> list[dict[str, Any]]:
        """A row for each bucket, ready for JSON.

        Returns:
            `from` and `to` (positions, the second exclusive), `loss` (nats a token; None where nothing fell into the
            bucket) and `tokens`.
        """
        return [
            {"from": begin, "to": end, "loss": float(nats / tokens) if tokens else None, "tokens": int(tokens)}
            for begin, end, (nats, tokens) in zip(self.edges[:-1], self.edges[1:], self.sums, strict=False)
        ]


def position_edges(context: int, buckets: int = BUCKETS) -> tuple[int, ...]:
    """Edges of equal buckets of positions up to `context`; a context shorter than `buckets` gets one a position."""
    return tuple(sorted({context * index // buckets for index in range(buckets + 1)}))


def loss_on_windows(
    model: "nn.Module",
    windows: Any,  # noqa: ANN401
    most: int | None = None,
    edges: Sequence[int] = (),
    rank: int = 0,
    ranks: int = 1,
) -> Loss:
    """Loss over packed windows (rows of `data/windows.py`), one window in memory at a time.

    Args:
        model: As in `log_probs`.
        windows: A sized, indexable collection of rows.
        most: Measure at most so many, spread evenly; None measures all.
        edges: Buckets of the loss by position, from `position_edges`. A token's position is its place in its own piece:
            how much context it has.
        rank: Which of `ranks` processes this is.
        ranks: Processes that share the windows; their losses add up to that of one process.
    """
    total = Loss.nothing(edges)
    for index, counts in _shared(_spread(len(windows), most), rank, ranks):
        row = windows[index]
        labels = np.asarray(row["labels"])[1:]
        nats = _nats(model, row["input_ids"], row["labels"], row["lengths"])
        asked = labels != IGNORED
        if counts:
            total.count(nats[asked], positions(row["lengths"])[1:][asked])
    return total


def _shared(chosen: Sequence[int], rank: int, ranks: int) -> Iterator[tuple[int, bool]]:
    """This process's share of some windows, and whether each counts: to keep step, some read the last one again."""
    for place in range(rank, -(-len(chosen) // ranks) * ranks, ranks):
        yield chosen[min(place, len(chosen) - 1)], place < len(chosen)


# --------------------------------------------------------------------------------------------------- long text


@dataclass(frozen=True)
class TextReading:
    """The loss of every token of a text's windows, in nats; rows that another process reads are zero here."""

    context: int
    """Tokens of a window."""
    whole: np.ndarray
    """Each token but a window's first, all of the window before it being read: float32 (windows, context − 1)."""
    short: np.ndarray
    """The last tokens of each window, read from `gain_sizes` tokens before them on: float32 (windows, last)."""

    def __add__(self, other: "TextReading") -> "TextReading":
        assert self.context == other.context, "readings of different lengths"
        return TextReading(self.context, self.whole + other.whole, self.short + other.short)

    def report(self) -> dict[str, Any]:
        """What `measure_text` returns."""
        loss = Loss.nothing(position_edges(self.context))
        for row in self.whole:
            loss.count(row, np.arange(1, self.context))
        last, before = gain_sizes(self.context)
        ends = self.whole[:, -last:]
        gains = _block_means(self.short - ends, -(-last // 4))
        blocks = _block_means(self.whole, BLOCK)
        return {
            "loss": _mean(self.whole),
            "standard_error": standard_error(blocks),
            "tokens": loss.tokens,
            "windows": len(self.whole),
            "by_position": loss.by_position(),
            "context_gain": {
                "last": last,
                "before": before,
                "loss_short": _mean(self.short),
                "loss_whole": _mean(ends),
                "gain": _mean(self.short - ends),
                "standard_error": standard_error(gains),
                "tokens": ends.size,
            },
            "blocks": [round(float(mean), 5) for mean in blocks],
        }


def measure_text(
    model: "nn.Module", ids: np.ndarray, context: int, most: int | None = None, opening: int | None = None
) -> dict[str, Any]:
    """Loss, loss by position and context gain on a long text that nothing trains on.

    The text is cut into windows that do not overlap: a token at the beginning of a window has little context, as it has
    in training, and the mean over a window is not that of a sliding one. Each window is read once for loss, positions
    and the long side of the gain. The context gain is the mean loss of the last 1,024 tokens of a window given only the
    2,048 before them (from position 0, as a document of its own), minus their loss given all of the window: above 0,
    the far context is of use. Windows under 8,192 tokens take an eighth and a quarter of themselves instead.

    Standard errors are those of batch means (Flegal and Jones 2010, arXiv 0811.1729): means of blocks of neighbouring
    tokens, 1,024 for the loss and a quarter of the last tokens for the gain, are taken as independent observations; the
    gain's are differences of the same tokens read twice.

    Args:
        model: As in `log_probs`.
        ids: Token ids of the text, (T,).
        context: Tokens of a window.
        most: Read at most so many windows, spread evenly; None reads all.
        opening: Token that takes the place of the first one of whatever is read (tokenizer.opening_token).

    Returns:
        Ready for JSON, losses in nats a token: `loss`, `standard_error`, `tokens`, `windows`, `by_position` (as
        `Loss.by_position`), `context_gain` (`gain`, `standard_error`, `loss_short`, `loss_whole`, `tokens`, and the
        sizes `last` and `before`), `blocks` (the block means, for `text_change`). An error is None where there is but
        one block, a loss where the text fills no window.
    """
    return read_text(model, ids, context, most, opening).report()


def read_text(
    model: "nn.Module",
    ids: np.ndarray,
    context: int,
    most: int | None = None,
    opening: int | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> TextReading:
    """Read windows of a long text, whole and by their ends; arguments as in `measure_text` and `loss_on_windows`."""
    windows = evenly(text_windows(ids, context), most)
    last, before = gain_sizes(context)
    reading = TextReading(
        context,
        np.zeros((len(windows), context - 1), dtype=np.float32),
        np.zeros((len(windows), last), dtype=np.float32),
    )
    for index, counts in _shared(range(len(windows)), rank, ranks):
        row = windows[index]
        whole = _nats(model, opened(row["input_ids"], opening), row["labels"], row["lengths"])
        end = row["input_ids"][-(before + last) :]
        labels = np.concatenate([np.full(before, IGNORED), end[before:]])
        short = _nats(model, opened(end, opening), labels, [len(end)])[-last:]
        if counts:
            reading.whole[index], reading.short[index] = whole, short
    return reading


def opened(ids: np.ndarray, opening: int | None) -> np.ndarray:
    """The same tokens behind the one that a base opens texts with, which takes the first one's place."""
    return ids if opening is None else np.concatenate([np.array([opening], dtype=ids.dtype), ids[1:]])


def gain_sizes(context: int) -> tuple[int, int]:
    """Tokens that the context gain is measured on, and tokens before them that the short read sees."""
    last = max(1, min(LAST, context // 8))
    return last, last * BEFORE // LAST


def text_change(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float | None]:
    """How the loss on the same text changed between two reports of `measure_text`, and the standard error of that.

    The error is that of the paired differences of the blocks, so what makes one passage harder than another cancels.
    """
    assert len(before["blocks"]) == len(after["blocks"]), "reports of different texts or lengths"
    return after["loss"] - before["loss"], standard_error(np.subtract(after["blocks"], before["blocks"]))


def standard_error(observations: np.ndarray) -> float | None:
    """Standard error of the mean of independent observations; None of fewer than two."""
    if len(observations) < 2:
        return None
    return float(np.std(observations, ddof=1) / np.sqrt(len(observations)))


def _block_means(rows: np.ndarray, block: int) -> np.ndarray:
    """Means of runs of about `block` values of each row, equally long but for one value: (rows · runs,)."""
    runs = max(1, round(rows.shape[1] / block))
    parts = np.array_split(rows.astype(np.float64), runs, axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1).ravel()


def _mean(values: np.ndarray) -> float | None:
    return float(values.astype(np.float64).mean()) if values.size else None


def text_windows(ids: np.ndarray, context: int) -> list[dict[str, Any]]:
    """Non-overlapping windows of exactly `context` tokens of one long text; its last, shorter rest is left out."""
    whole = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    return [{"input_ids": part, "labels": part, "lengths": [len(part)]} for part in whole]


def evenly(items: Any, most: int | None) -> list[Any]:  # noqa: ANN401 - any sized, indexable collection
    """At most `most` items, spread evenly over the collection, the first one among them."""
    return [items[index] for index in _spread(len(items), most)]


def _spread(count: int, most: int | None) -> Sequence[int]:
    """Places of at most `most` of `count` things, spread evenly."""
    if most is None or count <= most:
        return range(count)
    return [place * count // most for place in range(most)]
