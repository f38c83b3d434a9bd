"""Words as hashes: the one definition of a word that duplicates and decontamination share.

A word is a run of letters, digits and underscores; case does not count. A combining mark divides words: the finer the
words, the shorter the text that a run of 13 covers, so whoever counts marks among the letters finds no more. Words are
found and hashed in numpy over the code points of many texts at once, which takes a fifth of the time of a regular
expression and a hash call for each word.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

AT_ONCE = 1 << 20  # characters hashed together
_UNICODE = 0x110000  # code points
_POWER = 0x9E3779B97F4A7C15  # odd, so that no bit is lost: 2**64 / golden ratio
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64 (Steele et al. 2014)


class Words(NamedTuple):
    """The words of some texts, joined by line feeds."""

    hashes: np.ndarray
    """uint64, (words,)."""
    starts: np.ndarray
    """Where each word begins in the joined texts, in characters; (words,)."""
    bounds: np.ndarray
    """Word with which each text begins, and the number of words; (texts + 1,)."""


def words_of(texts: Sequence[str]) -> Words:
    """Find and hash the words of some texts.

    The hash of a word is a polynomial of its letters' hashes, mixed, modulo 2**64. It takes about 40 bytes of memory
    a character of at most `AT_ONCE`, and 16 a word.

    Args:
        texts: Any texts.

    Returns:
        Their words in order.
    """
    if sum(map(len, texts)) > AT_ONCE:
        return _in_slices(texts)
    codes = np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)  # (characters,)
    letters = _letters()[codes]
    inside = np.zeros(len(codes) + 2, bool)
    np.not_equal(letters, 0, out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    text_starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
    bounds = np.searchsorted(starts, text_starts)
    if not len(starts):
        return Words(np.empty(0, np.uint64), starts, bounds)
    lengths = ends - starts
    first = np.cumsum(lengths) - lengths  # of each word, among the letters alone
    places = np.arange(lengths.sum()) - np.repeat(first, lengths)
    powers = np.cumprod(np.full(int(lengths.max()), _POWER, np.uint64))
    return Words(_mixed(np.add.reduceat(letters[inside[1:-1]] * powers[places], first)), starts, bounds)


def _in_slices(texts: Sequence[str]) -> Words:
    """`words_of` a slice at a time; slices end where a word does."""
    hashes, starts, bounds = [], [], [0]
    offset = count = 0
    for text in texts:
        begin = 0
        while begin < len(text):
            end = min(begin + AT_ONCE, len(text))
            while end < len(text) and end > begin + AT_ONCE // 2 and not text[end].isspace():
                end -= 1
            found = words_of([text[begin:end]])
            hashes.append(found.hashes)
            starts.append(found.starts + offset + begin)
            count += len(found.hashes)
            begin = end
        offset += len(text) + 1
        bounds.append(count)
    return Words(np.concatenate(hashes), np.concatenate(starts), np.array(bounds))


@cache
def _letters() -> np.ndarray:
    """Hash of every code point in lower case, zero where it is no part of a word; uint64, 9 MB."""
    # A few letters have a lower case of two characters, or one that hangs on their neighbours (the final sigma).
    lower = np.array([ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(_UNICODE)], np.uint64)
    lower[ord("ς")] = ord("σ")
    letters = _mixed(lower + np.uint64(_POWER))
    letters |= np.uint64(1)  # never zero
    inside = np.array([chr(code).isalnum() for code in range(_UNICODE)], bool)
    inside[ord("_")] = True
    return np.where(inside, letters, np.uint64(0))


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: without it, the sums of sums that runs of words are would be linear in the letters."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
