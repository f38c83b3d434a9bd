"""What changed between two texts, in pieces that a person can read, and fast."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.changes import CONTEXT, LONGEST, PIECE, Change, changes

LINES = [f"Строка {n}: и вечер, и река, и долгий путь домой." for n in range(50)]


def replayed(before, found):
    """The text with every change applied, at its line."""
    at = 0
    parts = []
    for change in found:
        place = before.index(change.lead.removeprefix("…") + change.removed, max(0, at - CONTEXT))
        start = place + len(change.lead.removeprefix("…"))
        parts += [before[at:start], change.inserted]
        at = start + len(change.removed)
    return "".join([*parts, before[at:]])


def test_a_change_within_a_line_is_shown_with_what_stands_around():
    before = "\n".join(LINES)
    after = before.replace("Строка 7: и вечер", "Строка 7: и утро")
    (change,) = changes(before, after, 10)
    assert (change.line, change.lead, change.tail) == (8, "Строка 7: и ", ", и река, и долгий путь домой.")
    assert (change.removed, change.inserted) == ("вечер", "утро")
    assert change.before == LINES[7] and change.after == LINES[7].replace("вечер", "утро")


def test_lines_that_went_or_came_are_shown_whole():
    gone = "\n".join(LINES[:5] + LINES[8:])
    (change,) = changes("\n".join(LINES), gone, 10)
    assert change == Change("", "\n".join(LINES[5:8]) + "\n", "", "", 6)
    (change,) = changes(gone, "\n".join(LINES), 10)
    assert (change.removed, change.inserted) == ("", "\n".join(LINES[5:8]) + "\n")


def test_every_change_of_a_long_line_is_one_and_no_more_than_asked_for():
    line = " ".join(LINES)
    found = changes(line.replace("река", "ре\xadка"), line, 1000)
    assert len(found) == 50 and {change.removed for change in found} == {"\xad"}
    assert changes(line.replace("река", "ре\xadка"), line, 3) == found[:3]
    assert changes(line, line, 3) == []


def test_long_pieces_are_shortened():
    (change,) = changes("а\n" + "да " * 5000 + "\nб", "а\nб", 1)
    assert len(change.removed) <= LONGEST + 3 and " … " in change.removed


def test_a_line_end_that_moved_is_one_change():
    before = "\n".join([*LINES[:9], "какое-то сло-", "во было", *LINES[9:]])
    after = "\n".join([*LINES[:9], "какое-то слово", "было", *LINES[9:]])
    found = changes(before, after, 9)
    assert [change.line for change in found] == [10]
    assert replayed(before, found) == after


texts = st.lists(st.sampled_from(["да", "нет", " ", "\n", "\xad", "-\n", "12", "река и вечер"]), max_size=40).map(
    "".join
)


@given(texts, texts)
def test_equal_texts_have_no_changes_and_different_ones_do(before, after):
    found = changes(before, after, 10**6)
    assert bool(found) == (before != after)
    shown = sum(len(change.inserted) - len(change.removed) for change in found)
    assert shown == len(after) - len(before)


def test_a_whole_book_takes_a_moment():
    rng = random.Random(1)
    lines = [" ".join(rng.choices(["вечер", "река", "долго", "шёл", "и"], k=12)) for _ in range(20_000)]
    before = "\n".join(f"  {line}" for line in lines)  # 1.2 million characters
    started = time.perf_counter()
    assert len(changes(before, "\n".join(lines), 10)) == 10
    assert len(changes(before, before[: len(before) // 2], 10)) >= 1
    assert len(changes("\n".join(lines), "\n".join(lines[::2]), 10)) == 10
    assert len(changes("\n".join(lines), "\n".join(line[::-1] for line in lines), 10)) == 10
    assert len(changes(before, "", 10)) >= 1
    line = before.replace("\n", " ")
    assert len(changes(line, line.replace("река", "ре\xadка"), 10)) == 10
    assert len(changes(line, line[PIECE * 2 :], 10)) >= 1
    assert time.perf_counter() - started < 10
