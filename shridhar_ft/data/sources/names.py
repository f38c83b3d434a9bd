"""Names that a recipe gives and a source does not have: the nearest one, and lists short enough to read."""

import difflib
import re
from collections.abc import Iterable, Sequence

_NAME = re.compile(r"[\w.:/-]{1,30}")
MOST_NAMED = 12  # columns that a message lists


def nearest(wanted: Sequence[str], existing: Iterable[str]) -> str | None:
    """The existing name that holds a wanted one, as `original_output_ru` holds `output`, or is like it, or None."""
    existing = list(existing)
    for name in wanted:
        if longer := [other for other in existing if name in other]:
            return min(longer, key=len)
        if near := difflib.get_close_matches(name, existing, n=1, cutoff=0.54):
            return near[0]
    return None


def quotable(name: str) -> str:
    """A name as a message may show it: in a file without names somebody's words stand in their place, and are not
    shown."""
    return name if _NAME.fullmatch(name) else f"(a text of {len(name)} characters)"


def listed(names: Iterable[str]) -> str:
    """The names, shortened where there are many; names only, for what the columns hold may be private."""
    names = list(names)
    shown = [quotable(name) for name in names[:MOST_NAMED]]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more


def did_you_mean(name: str, existing: Iterable[str]) -> str:
    """The mend for a name that is not there: the nearest one, or all there are."""
    existing = list(existing)
    near = nearest((name,), existing)
    return f"did you mean '{near}'?" if near else f"there are {listed(existing)}"
