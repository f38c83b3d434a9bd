"""Small helpers on the lines of a book that more than one cleaning step needs."""

from collections.abc import Collection, Sequence
from itertools import pairwise

_SENTENCE_ENDS = ("", *'.!?…:;»”")]*')  # and no text at all
_HYPHENS = "-\u2010\xad"


def without_lines(lines: Sequence[str], dropped: Collection[int]) -> str:
    """The text of these lines without the dropped ones; where two runs of blank lines meet, the first one stays,
    and none stays at an end that lost its lines.

    Args:
        lines: The lines of a text, without their line ends.
        dropped: Indices of the lines that go.

    Returns:
        The remaining lines, joined.
    """
    kept: list[str] = []
    after_a_gap = False
    for index, line in enumerate(lines):
        if index in dropped:
            after_a_gap = True
        elif after_a_gap and not line.strip() and (not kept or not kept[-1].strip()):
            continue
        else:
            kept.append(line)
            after_a_gap = False
    while after_a_gap and kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept)


def is_hard_wrapped(lines: Sequence[str]) -> bool:
    """Whether a paragraph goes over several lines, rather than one paragraph a line.

    Args:
        lines: The lines of a text.

    Returns:
        True if, of the lines of three words or more, at least a fifth breaks off within a sentence and is followed
        by one that goes on in lower case.
    """
    long = broken = 0
    for line, following in pairwise(lines):
        if line.count(" ") >= 2 and line[-1] not in _HYPHENS:  # a divided word may stand at a page's end too
            long += 1
            broken += breaks_off(line, following)
    return 5 * broken >= long if broken else False


def breaks_off(line: str, following: str) -> bool:
    """Whether a sentence goes on in the following line: no sentence ends, and a lower-case letter comes next."""
    line, following = line.rstrip(), following.lstrip()
    return line[-1:] not in _SENTENCE_ENDS and following[:1].islower()
