"""Small helpers on the lines of a book that more than one cleaning step needs."""

from collections.abc import Collection, Sequence


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
