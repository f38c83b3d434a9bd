"""Small helpers on the lines of a book that more than one cleaning step needs."""

from collections.abc import Collection, Sequence


def without_lines(lines: Sequence[str], dropped: Collection[int]) -> str:
    """The text of these lines without the dropped ones; where two runs of blank lines meet, the first one stays.

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
    return "\n".join(kept)
