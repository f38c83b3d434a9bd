"""Markup in messages: `<br>` as a line end, other known tags away, entities as the characters that they name."""

import html
import re

ROUNDS = 10  # how deep markup may be hidden in markup

# Only names that no one types as a placeholder: <title> or <link> in a message may be meant as it stands.
_BLOCKS = "p|div|li|ul|ol|tr|table|h[1-6]|blockquote|center|hr|pre|dd|dt|dl"
_INLINE = (
    "a|abbr|acronym|b|big|body|button|del|em|font|form|html|i|iframe|img|input|ins|meta|nobr|o:p|q|s|small|span|strike"
    "|strong|sub|sup|svg|tbody|td|tfoot|th|thead|tt|u|video|audio"
)
# A bare word is no attribute: in `a<b and c>d` nothing is a tag. Possessive, so that a long run fails at once.
_ATTRIBUTES = (
    r"(?:\s++(?:[a-z][\w:.-]*+\s*+=\s*+(?:\"[^\"<]*+\"|'[^'<]*+'|[^\s\"'<>=]++)|nowrap|noshade|controls|disabled))*+"
    r"\s*+/?"
)
# None holds its own beginning: where many begin and none ends, each search stops at the next.
_HIDDEN = re.compile(
    r"<!--(?:(?!<!--|-->).)*+-->|<(style|script)\b[^<>]*+>(?:(?!</?\1\b).)*+</\1\s*>", re.IGNORECASE | re.DOTALL
)
_LINE_END = re.compile(
    rf"<br{_ATTRIBUTES}>(?:[ \t]*\r?\n)?|</(?:{_BLOCKS})\s*>(?:[ \t]*\r?\n)?|<hr{_ATTRIBUTES}>", re.I
)
_TAG = re.compile(rf"</?(?:{_BLOCKS}|{_INLINE}){_ATTRIBUTES}>", re.IGNORECASE)
# With its semicolon only: `?a=1&copy=2` is no entity. However often it was escaped.
_ENTITY = re.compile(r"&(?:amp;)*+((?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)?")


def html_text(text: str) -> str:
    """The text as a browser would show it, as far as line ends, tags and entities go.

    Text that was escaped twice (`&amp;lt;br&amp;gt;`) is taken to its end. `a < b`, `<3`, `<имя>` and `<|end|>` stay.

    Args:
        text: One message.

    Returns:
        The text without markup.
    """
    for _ in range(ROUNDS):
        if "<" not in text and "&" not in text:
            break
        before = text
        text = _HIDDEN.sub("", text)
        text = _TAG.sub("", _LINE_END.sub("\n", text))
        text = _ENTITY.sub(lambda match: html.unescape(f"&{match[1] or 'amp;'}"), text)
        if text == before:
            break
    return text
