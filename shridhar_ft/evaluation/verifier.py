"""Tells one author's passages from others': character 2- to 4-grams, TF-IDF, logistic regression; and Burrows's Delta.

Topic is masked: words outside the commonest 500 become stars of their length, so that names and subjects give nothing
away. The features are hashed, and the regression is solved in its dual, on the matrix of inner products: some hundred
passages cost less than a second, and no library.

Source: PAN's verification baseline (character n-grams); Stamatatos 2017 (masking); Smith and Aldridge 2011 (cosine).
"""

import re
from collections import Counter
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from shridhar_ft.evaluation.texts import words

FEATURES = 1 << 15
KEPT_WORDS = 500
PENALTY = 1.0  # weight of ‖w‖²/2 against the sum of losses, divided by the passages
STEPS = 200
MARKS = str.maketrans({"ё": "е", "«": '"', "»": '"', "“": '"', "”": '"', "„": '"', "–": "—"})
DELTA_WORDS = 300  # commonest words of Delta


class Features:
    """Masked character n-grams of passages, with the weights of the passages that it was made of."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = Counter(word for text in texts for word in words(text))
        self.kept = frozenset(word for word, _ in counts.most_common(KEPT_WORDS))
        raw = self._counts(texts)
        self.idf = np.log((1 + len(texts)) / (1 + (raw > 0).sum(axis=0))).astype(np.float32) + 1

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, FEATURES), each row of length 1."""
        weighted = np.log1p(self._counts(texts)) * self.idf
        norms = np.linalg.norm(weighted, axis=1, keepdims=True)
        return weighted / np.maximum(norms, 1e-12)

    def masked(self, text: str) -> str:
        """The text in lower case, marks made alike, words outside the commonest as stars."""
        plain = " ".join(text.lower().translate(MARKS).split())
        return re.sub(
            r"\w+", lambda found: found.group() if found.group() in self.kept else "*" * len(found.group()), plain
        )

    def _counts(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), FEATURES), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            plain = self.masked(text)
            grams = Counter(plain[at : at + size] for size in (2, 3, 4) for at in range(len(plain) - size + 1))
            for gram, number in grams.items():
                row[crc32(gram.encode()) % FEATURES] += number
        return rows


class Verifier:
    """A logistic regression on such features; `score` is above 0 where a passage looks like the author's."""

    def __init__(self, rows: np.ndarray, is_author: np.ndarray) -> None:
        """
        Args:
            rows: Features, (n, FEATURES).
            is_author: bool (n,); both sides weigh alike, however many passages each has.
        """
        share = np.where(is_author, 0.5 / is_author.sum(), 0.5 / (~is_author).sum())
        signs = np.where(is_author, 1.0, -1.0)
        self.rows = rows
        inner = rows @ rows.T
        self.dual, self.bias = _fitted(inner.astype(np.float64), signs, share * len(rows))

    def score(self, rows: np.ndarray) -> np.ndarray:
        """float64 (n,)."""
        return (rows @ self.rows.T).astype(np.float64) @ self.dual + self.bias


def _fitted(inner: np.ndarray, signs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of the passages and a bias: Newton's method on the regularised loss (iteratively reweighted squares)."""
    count = len(signs)
    dual, bias = np.zeros(count), 0.0
    penalty = PENALTY * np.eye(count)
    for _ in range(STEPS):
        margins = inner @ dual + bias
        chance = 1 / (1 + np.exp(-np.clip(margins, -30, 30)))
        curve = np.maximum(weights * chance * (1 - chance), 1e-9)
        wanted = margins + weights * ((signs > 0) - chance) / curve
        # (K + λ/curve) α + b = wanted, Σ α = 0: the bias is not penalised.
        system = np.zeros((count + 1, count + 1))
        system[:count, :count] = inner + penalty / curve
        system[:count, count] = system[count, :count] = 1
        solved = np.linalg.solve(system, np.append(wanted, 0.0))
        moved = float(np.abs(solved[:count] - dual).max())
        dual, bias = solved[:count], float(solved[count])
        if moved < 1e-6 * (1 + float(np.abs(dual).max())):
            break
    return dual, bias


def auc(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Chance that one of ours scores above one of theirs, ties half."""
    above = (ours[:, None] > theirs[None]).mean() + 0.5 * (ours[:, None] == theirs[None]).mean()
    return float(above)


def cosine_delta(sample: str, profiles: dict[str, str]) -> list[tuple[str, float]]:
    """Burrows's Delta in its cosine form: authors by their distance from a sample, the nearest first.

    Args:
        sample: At least 5,000 words, or it says little (Eder 2015).
        profiles: Author → text.
    """
    counted = {name: Counter(words(text)) for name, text in [*profiles.items(), ("", sample)]}
    common = Counter[str]()
    for name in profiles:
        common.update(counted[name])
    chosen = [word for word, _ in common.most_common(DELTA_WORDS)]
    shares = {name: np.array([c[w] for w in chosen]) / max(1, c.total()) for name, c in counted.items()}
    known = np.stack([shares[name] for name in profiles])
    middle, spread = known.mean(axis=0), known.std(axis=0)
    scaled = {name: (row - middle) / np.maximum(spread, 1e-12) for name, row in shares.items()}
    own = scaled[""]

    def distance(name: str) -> float:
        other = scaled[name]
        return 1 - float(own @ other / max(1e-12, np.linalg.norm(own) * np.linalg.norm(other)))

    return sorted(((name, distance(name)) for name in profiles), key=lambda pair: pair[1])
