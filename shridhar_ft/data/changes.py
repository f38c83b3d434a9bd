"""What a step changed, cut to pieces that a person can read: some text around, what went, what came.

Lines are matched first, in one pass and by what letters they have; only inside changed lines are characters compared,
a short piece at a time. So a book of 1.3 million characters costs a fraction of a second.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import NamedTuple

CONTEXT = 30  # characters shown on either side
LONGEST = 300  # characters shown of what went or came
PIECE = 120  # characters compared at a time: SequenceMatcher is quadratic
SAME_AGAIN = 8  # equal characters that end a change
LOOK_AHEAD = 2000  # lines within which the two texts must meet again

_NO_LETTER = re.compile(r"[\W_]+")


class Change(NamedTuple):
    """One place that a step changed."""

    lead: str
    """What stands before it and stayed."""
    removed: str
    inserted: str
    tail: str
    """What stands after it and stayed."""
    line: int
    """Number of the line in the text before the step, from 1."""

    @property
    def before(self) -> str:
        """The place before the step."""
        return self.lead + self.removed + self.tail

    @property
    def after(self) -> str:
        """The place after the step."""
        return self.lead + self.inserted + self.tail


def changes(before: str, after: str, most: int) -> list[Change]:
    """The first changes between two texts.

    Args:
        before: The text before a step.
        after: The text after it.
        most: Changes wanted at most.

    Returns:
        The changes in reading order; long ones shortened by `…`.
    """
    found = (
        change
        for line, old, new in _changed_blocks(before.split("\n"), after.split("\n"))
        for change in _inside(old, new, line)
    )
    return list(islice(found, most))


# --------------------------------------------------------------------------------------------------- lines


def _changed_blocks(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Number of the first line, and the two texts, of each stretch that differs; one of them may be empty."""
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new):
            if old[i] == new[j]:
                i, j = i + 1, j + 1
                continue
            if _key(old[i]) == _key(new[j]):
                yield i + 1, old[i], new[j]
                i, j = i + 1, j + 1
                continue
        i_next, j_next = _meet(old, new, i, j)
        same_letters = _key("".join(old[i:i_next])) == _key("".join(new[j:j_next]))
        if i_next - i == j_next - j and not same_letters:  # else a line end moved: one change, not two
            yield from ((i + n + 1, old[i + n], new[j + n]) for n in range(i_next - i) if old[i + n] != new[j + n])
        else:
            # A stretch that went or came whole brings its line end.
            end = "\n" if i == i_next or j == j_next else ""
            yield (
                i + 1,
                "\n".join(old[i:i_next]) + (end if i < i_next else ""),
                "\n".join(new[j:j_next]) + (end if j < j_next else ""),
            )
        i, j = i_next, j_next


def _meet(old: Sequence[str], new: Sequence[str], i: int, j: int) -> tuple[int, int]:
    """Where the two run alike again: the nearest lines with the same letters, or else the next line of both."""
    places: dict[str, int] = {}
    for at in range(j, min(len(new), j + LOOK_AHEAD)):
        places.setdefault(_key(new[at]), at)
    best: tuple[int, int] | None = None
    for at in range(i, min(len(old), i + LOOK_AHEAD)):
        if best and at - i >= sum(best) - i - j:
            break
        key = _key(old[at])
        if key and key in places and (best is None or at + places[key] < sum(best)):
            best = at, places[key]
    if best:
        return best
    if max(len(old) - i, len(new) - j) < LOOK_AHEAD and len(old) - i != len(new) - j:
        return len(old), len(new)
    return min(i + 1, len(old)), min(j + 1, len(new))


def _key(line: str) -> str:
    return _NO_LETTER.sub("", line)


# --------------------------------------------------------------------------------------- inside a line


def _inside(old: str, new: str, line: int) -> Iterator[Change]:
    """The changes inside a stretch of lines."""
    i = j = 0  # both texts are dealt with up to here
    while True:
        same = _common(old, new, i, j)
        i, j = i + same, j + same
        if i == len(old) and j == len(new):
            return
        i_end, j_end = _change_ends(old, new, i, j)
        lead = old[max(0, i - CONTEXT) : i]
        tail = new[j_end : j_end + CONTEXT]
        yield Change(
            ("…" if i > CONTEXT else "") + lead,
            _shortened(old[i:i_end]),
            _shortened(new[j:j_end]),
            tail + ("…" if j_end + CONTEXT < len(new) else ""),
            line + old.count("\n", 0, i),
        )
        i, j = i_end, j_end


def _common(old: str, new: str, i: int, j: int) -> int:
    """How many characters are the same from `i` and `j` on."""
    same, step = 0, 64
    while step:
        if (piece := old[i + same : i + same + step]) and piece == new[j + same : j + same + step]:
            same += len(piece)
        else:
            step //= 2
    return same


def _change_ends(old: str, new: str, i: int, j: int) -> tuple[int, int]:
    """Where the change that begins at `i` and `j` ends: where a few characters, or all to the end, are the same."""
    a, b = old[i : i + PIECE], new[j : j + PIECE]
    for match in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        to_the_end = i + match.a + match.size == len(old) and j + match.b + match.size == len(new)
        if match.size >= SAME_AGAIN or (match.size and to_the_end):
            return i + match.a, j + match.b
    # Longer than a piece: up to the end that both share.
    rest_old, rest_new = old[i:], new[j:]
    same = _common(rest_old[::-1], rest_new[::-1], 0, 0)
    return len(old) - same, len(new) - same


def _shortened(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"
