"""What an evaluation found beside its scores, as sentences: lengths, depths, gains, Delta."""

from collections.abc import Iterator
from typing import Any

Results = dict[str, Any]
WAYS = ("exact", "choice")


def detail_lines(results: Results) -> Iterator[tuple[str, str]]:
    """Task and sentence, in the order of the tasks; a task without details says nothing."""
    says = {
        "bits_per_byte": _gains,
        "retention": _lengths,
        "style_acceptance": _style,
        "term_cloze": _unseen,
    }
    for task, details in results["details"].items():
        if task in says and isinstance(details, dict):
            for sentence in says[task](details):
                yield task, sentence


def _gains(details: Results) -> Iterator[str]:
    for name, text in (("specialisation gain", "below the base"), ("forgetting", "above the base")):
        one = (details.get("intervals") or {}).get(name)
        if one is None:
            continue
        inside = f" [{_share(one['low'])}, {_share(one['high'])}], n = {one['n']:,}" if one["low"] is not None else ""
        yield f"{name}: {_share(one['value'])}{inside} {text} in bits per byte"


def _lengths(details: Results) -> Iterator[str]:
    for way in WAYS:
        found = details.get(way)
        if not found:
            continue
        for kind, length in found["effective_length"].items():
            yield f"effective length of {kind}, {way}: {'none' if length is None else f'{length:,}'}"
        if worst := found.get("worst_depth"):
            length, depth, share = worst["length"], worst["depth"], _share(worst["share"])
            yield f"worst depth at {length:,} tokens, {way}: {depth:.2f}, with {share} right"
            yield f"supported at {length:,} tokens, {way}: {'yes' if found['supported'] else 'no'}"


def _style(details: Results) -> Iterator[str]:
    if order := details.get("delta"):
        names = [name for name, _ in order]
        place = names.index("the author") + 1 if "the author" in names else None
        nearest, distance = order[0]
        yield f"Burrows's Delta: nearest is {nearest} at {distance:.3f}"
        if place is not None:
            yield f"Burrows's Delta: the author's place is {place} of {len(names)}"
    for name, value in details.items():
        if "AUC" in name and value is not None:
            yield f"{name}: {value:.3f}"
    for name, share in (details.get("accepted of nonsense") or {}).items():
        yield f"the verifier accepts {_share(share)} of {name}"


def _unseen(details: Results) -> Iterator[str]:
    if one := details.get("unseen terms"):
        yield (
            f"terms that the training text lacks: {_share(one['right'])} right "
            f"[{_share(one['low'])}, {_share(one['high'])}], n = {one['n']:,}"
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"
