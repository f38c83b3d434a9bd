"""Packing: every token lands in exactly one window, and no window is wasted that best fit would not waste."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.pack import Piece, pack

CONTEXTS = st.integers(1, 40)
LENGTHS = st.lists(st.integers(0, 130), max_size=60)


def naive_fill(lengths, context):
    """Sorted fill levels of best-fit decreasing, by looking at every window every time."""
    rests = sorted((length % context for length in lengths if length % context), reverse=True)
    windows = []
    for rest in rests:
        fitting = [index for index, fill in enumerate(windows) if fill + rest <= context]
        if fitting:
            windows[max(fitting, key=lambda index: windows[index])] += rest
        else:
            windows.append(rest)
    return sorted(windows + [context] * sum(length // context for length in lengths))


def size(window):
    return sum(piece.stop - piece.start for piece in window)


@given(LENGTHS, CONTEXTS)
def test_every_token_lands_in_exactly_one_window(lengths, context):
    windows = pack(lengths, context)
    tokens = [(piece.document, t) for window in windows for piece in window for t in range(piece.start, piece.stop)]
    assert sorted(tokens) == [(document, t) for document, length in enumerate(lengths) for t in range(length)]
    assert all(0 < size(window) <= context for window in windows)


@given(LENGTHS, CONTEXTS)
def test_only_documents_longer_than_the_window_are_cut(lengths, context):
    for window in pack(lengths, context):
        for piece in window:
            whole = piece.start == 0 and piece.stop == lengths[piece.document]
            rest = piece.start % context == 0 and piece.stop == lengths[piece.document]
            assert whole or rest or piece.stop - piece.start == context


@given(LENGTHS, CONTEXTS)
def test_windows_are_filled_as_best_fit_decreasing_fills_them(lengths, context):
    assert sorted(map(size, pack(lengths, context))) == naive_fill(lengths, context)


@given(LENGTHS, CONTEXTS)
def test_order_is_that_of_the_documents(lengths, context):
    windows = pack(lengths, context)
    assert all(window == sorted(window) for window in windows)
    assert windows == sorted(windows, key=lambda window: window[0])
    assert windows == pack(lengths, context)


def test_a_long_document_and_what_fits_beside_its_rest():
    assert pack([10, 3, 0, 2], context=4) == [
        [Piece(0, 0, 4)],
        [Piece(0, 4, 8)],
        [Piece(0, 8, 10), Piece(3, 0, 2)],
        [Piece(1, 0, 3)],
    ]
    assert pack([], context=4) == []


def test_a_hundred_thousand_conversations_take_a_moment():
    draw = random.Random(108)
    lengths = [draw.randint(20, 3000) for _ in range(100_000)]
    started = time.perf_counter()
    windows = pack(lengths, 108_000)
    assert time.perf_counter() - started < 10  # seconds; looking at every window each time takes minutes
    assert sum(map(size, windows)) == sum(lengths)
    assert len(windows) <= sum(lengths) / 108_000 * 1.01 + 1


def test_chapters_of_a_shelf_fill_their_windows_best_fit():
    draw = random.Random(108)
    # Blocks of some 1,300 tokens, of which a chapter has one and more; a few chapters outgrow the window.
    lengths = []
    while sum(lengths) < 15_000_000:
        blocks = 1 + int(draw.expovariate(0.6))
        lengths.append(sum(max(50, int(draw.gauss(1300, 350))) for _ in range(blocks)))
    windows = pack(lengths, 8192)
    assert sum(lengths) >= 0.97 * 8192 * len(windows)
