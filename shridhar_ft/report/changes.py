"""Shows what a cleaning step did to a passage: what went struck out, what came marked, the invisible made visible."""

import unicodedata
from difflib import SequenceMatcher

from markupsafe import Markup, escape

LINE_END = Markup('<span class="sign">↵</span>\n')  # where it is what went or came
LONGEST = 1500  # characters that are compared letter by letter; difflib's time grows with their square


def show_change(before: str, after: str) -> dict[str, Markup]:
    """Both sides as HTML, escaped, with the differences in `<del>` and `<ins>`.

    Returns:
        `before` and `after`; nothing left is shown as an empty set.
    """
    if not after:
        return {"before": _marked("del", before), "after": Markup('<span class="soft">∅</span>')}
    if max(len(before), len(after)) > LONGEST:
        return {"before": _visible(before), "after": _visible(after)}
    old, new = [], []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old.append(_visible(before[i:j]) if kind == "equal" else _marked("del", before[i:j]))
        new.append(_visible(after[k:m]) if kind == "equal" else _marked("ins", after[k:m]))
    return {"before": Markup("").join(old), "after": Markup("").join(new)}


def _marked(tag: str, text: str) -> Markup:
    shown = _visible(text).replace("\n", LINE_END)
    return Markup("<{0}>{1}</{0}>").format(Markup(tag), shown) if text else Markup("")


def _visible(text: str) -> Markup:
    """Escaped text in which characters that nobody sees stand by their number."""
    return Markup("").join(
        Markup('<span class="sign">U+{}</span>').format(f"{ord(sign):04X}") if _unseen(sign) else escape(sign)
        for sign in text
    )


def _unseen(sign: str) -> bool:
    category = unicodedata.category(sign)
    return sign not in " \n" and (category in ("Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp") or sign in "\ufffc\ufffd")
