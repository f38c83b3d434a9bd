"""Names that a recipe gives and a source does not have: the nearest one, and lists short enough to read."""

import difflib
from collections.abc import Iterable, Sequence

MOST_NAMED = 12  # columns that a message lists
_LONGEST_NAMED = 40  # characters: in a file without names, the first row stands in their place


def nearest(wanted: Sequence[str], existing: Iterable[str]) -> str | None:
    """The existing name that holds a wanted one, as `original_output_ru` holds `output`, or is like it, or None."""
    existing = list(existing)
    for name in wanted:
        if longer := [other for other in existing if name in other]:
            return min(longer, key=len)
        if near := difflib.get_close_matches(name, existing, n=1, cutoff=0.54):
            return near[0]
    return None


def listed(names: Iterable[str]) -> str:
    """The names, shortened where there are many; names only, for what the columns hold may be private."""
    names = list(names)
    shown = [name if len(name) <= _LONGEST_NAMED else f"{name[:_LONGEST_NAMED]}…" for name in names[:MOST_NAMED]]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more


def did_you_mean(name: str, existing: Iterable[str]) -> str:
    """The mend for a name that is not there: the nearest one, or all there are."""
    existing = list(existing)
    near = nearest((name,), existing)
    return f"did you mean '{near}'?" if near else f"there are {listed(existing)}"
