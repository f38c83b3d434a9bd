"""Takes telephones, e-mail addresses, card numbers and addresses of profiles out of what people said.

Links are found first, so that the digits of one are not taken for a number; what a pattern cannot say (Luhn's digit,
how many digits) is checked afterwards. Nothing found is ever shown or logged.
"""

import re
from collections import Counter
from typing import NamedTuple

PLACEHOLDERS = {"telephone": "[телефон]", "email": "[почта]", "card": "[карта]", "profile": "[профиль]"}

_DASH = r"\-\u2010-\u2013"
_SEP = rf"[ \t\xa0.{_DASH}]{{0,3}}"
_PART = rf"\s?[ \xa0.{_DASH}]\s?"  # a separator that must be there

_SITES = (
    r"(?:vk\.com|vk\.ru|vkontakte\.ru|ok\.ru|odnoklassniki\.ru|t\.me|telegram\.me|instagram\.com|facebook\.com|fb\.com"
    r"|twitter\.com|x\.com|tiktok\.com|linkedin\.com|wa\.me|my\.mail\.ru|api\.whatsapp\.com|m\.me)"
)
# Pages on those sites that are no one's profile: posts and films of groups, shared things, the site's own pages.
_NO_PROFILE = (
    r"(?:(?:wall|photo|video|album|topic|market|doc|audio|clip|story|page|playlist|poll)s?-\d|(?:club|public|event)\d"
    r"|(?:feed|search|apps?|im|login|groups?|videos?|watch|events|share|sharer|sharer\.php|away\.php|reels?|p"
    r"|explore|hashtag|tag|i|c|joinchat|live|music|games?|help|about|legal|company|jobs)(?![\w.-]))"
)
_SUM = r"\s?(?:руб|₽|р\.|тыс|млн|[$€%])"
_URL = r"[^\s<>\"'«»(),;\[\]]"
_DOMAIN = r"(?:[\w-]{1,63}\.){1,5}[^\W\d_]{2,24}"
_LINK = re.compile(
    rf"(?P<profile>(?<![\w@.-])(?:https?://)?(?:www\.|m\.)?{_SITES}/(?!{_NO_PROFILE}){_URL}*[\w/=+])"
    rf"|(?P<email>(?<![\w.+%-])[\w.+%-]{{1,64}}+@{_DOMAIN}(?![\w@-]))"
    # Any other link is seen and left alone, digits and all.
    rf"|(?P<link>\b(?:https?://|ftp://|www\.){_URL}+|(?<![\w@.-]){_DOMAIN}/{_URL}*)"
    # A name in a messenger; mass mentions name no one.
    r"|(?P<nick>(?<![\w@./])@(?!(?:all|everyone|here|channel|online)\b)[a-z][a-z0-9_.]{2,31}(?<!\.)(?![\w@]))",
    re.IGNORECASE,
)
# The first look-ahead throws out nearly every place of a text before the alternatives are tried there.
_NUMBER = re.compile(
    r"(?=[+(0-9])(?:"
    # 13 to 19 digits, in one run or in groups.
    rf"(?P<card>(?<![\w+№#])(?<!\d[.,])[2-6]\d{{3}}(?:\d{{9,15}}|(?:[ {_DASH}]\d{{4}}){{3}}(?:[ {_DASH}]\d{{1,3}})?"
    rf"|[ {_DASH}]\d{{6}}[ {_DASH}]\d{{5}})(?!\w|[.,{_DASH}]\d))"
    r"|(?P<national>(?:"
    rf"\+\s?7{_SEP}\(?\d{{3,5}}\)?{_SEP}\d{{1,3}}{_SEP}\d{{2}}{_SEP}\d{{2}}"  # +7 (999) 123-45-67
    # тел89991234567 is one too, and so are two with a comma between; 1,8999… is a fraction.
    r"|(?<![0-9A-Za-z_+№#])(?<![№#]\s)(?<!\b\d[.,])(?<!\b\d\d[.,])(?<!\b\d\d\d[.,])(?:"
    rf"[78]{_SEP}\(?[3-9]\d{{2,4}}\)?{_SEP}\d{{1,3}}{_SEP}\d{{2}}{_SEP}\d{{2}}"  # 89991234567
    rf"|\(\d{{3,5}}\){_SEP}\d{{1,3}}{_SEP}\d{{2}}{_SEP}\d{{2}}"  # (495) 123-45-67
    r"|0[1-9]\d{2,3}\s?\d{3}\s?\d{3,4}"  # 01223 367660
    rf"|0[3-9]\d{_SEP}\d{{3}}{_SEP}\d{{2}}{_SEP}\d{{2}}"  # 067 123 45 67
    rf"|(?<!\d[ {_DASH}])(?:[3-9]\d{{2}}{_PART}\d{{3}}{_PART}\d{{2}}{_PART}\d{{2}}"  # 999 123-45-67
    rf"|\d{{3}}[{_DASH}]\d{{2}}[{_DASH}]\d{{2}})"  # 123-45-67
    rf"))(?![0-9A-Za-z_]|[.,:{_DASH}/]\d{{1,4}}(?!\d)|{_SUM}))"
    # + and ten to fifteen digits.
    rf"|(?P<international>(?<![\w+])\+{_SEP}[1-9]\d{{0,2}}(?:{_SEP}\(?\d{{1,5}}\)?){{2,7}}+(?!\w))"
    # What only the words before it make a telephone's.
    rf"|(?P<named>(?<!\w)(?<!\d[.,{_DASH}])(?:\d{{7}}|\d{{9,11}}|\d{{1,3}}[{_DASH}]\d{{2}}[{_DASH}]\d{{2}})"
    rf"(?!\w|[.,:{_DASH}]\d|{_SUM}|\s?(?:г\.|год)))"
    r")"
)
_WORDS_BEFORE = re.compile(
    r"\b(?:тел(?:ефон\w*)?|моб(?:ильн\w*)?|сотов\w*|(?:по)?звони\w*|набер\w*|контакт\w*|whats?app|в[оа]т[сц]ап\w*"
    r"|ва[йи]бер\w*|viber|phone|(?:мой|наш|ваш|его|её|ее|их|свой)\s+номер\w*)\b"
    r"(?:[\s.:,—–-]{1,3}[^\W\d]{1,20}){0,3}?[\s.:,№#—–-]{0,3}$",
    re.IGNORECASE,
)
REACH = 80  # characters in which those words are looked for
_UKRAINIAN = re.compile("39|50|63|66|67|68|73|9[1-9]")  # mobile codes, after the 0
# Seven digits with what may stand between them, but for a town's 22-33-44: no number has fewer.
_ENOUGH_DIGITS = re.compile(rf"[0-9][0-9 \t\xa0().+{_DASH}]{{5,}}[0-9]|[0-9]-[0-9]{{2}}-[0-9]{{2}}")


class Scrubbed(NamedTuple):
    """A text without what names a person, and how much of each kind was in it."""

    text: str
    counts: Counter[str]


def scrub(text: str) -> Scrubbed:
    """Put placeholders in place of telephones, e-mail addresses, card numbers and addresses of profiles.

    Left alone are dates, times, prices, years, references of eight digits, ISBNs and barcodes, and other links.

    Args:
        text: One message.

    Returns:
        The text, and counts by the kinds of `PLACEHOLDERS`.
    """
    counts: Counter[str] = Counter()
    parts: list[str] = []
    at = 0
    for match in _LINK.finditer(text) if "@" in text or "/" in text else ():
        parts.append(_without_numbers(text[at : match.start()], counts))
        kind = "profile" if match.lastgroup == "nick" else match.lastgroup
        if kind in PLACEHOLDERS:
            counts[kind] += 1
        parts.append(PLACEHOLDERS.get(kind or "", match[0]))
        at = match.end()
    parts.append(_without_numbers(text[at:], counts))
    return Scrubbed("".join(parts), counts)


def _without_numbers(text: str, counts: Counter[str]) -> str:
    if not _ENOUGH_DIGITS.search(text):
        return text

    def replaced(match: re.Match[str]) -> str:
        kind = _kind(match)
        if kind is None:
            return match[0]
        counts[kind] += 1
        return PLACEHOLDERS[kind]

    return _NUMBER.sub(replaced, text)


def may_hold(text: str) -> bool:
    """Whether `scrub` could find anything, at a fraction of its cost."""
    return "@" in text or "/" in text or _ENOUGH_DIGITS.search(text) is not None


def found_between(before: str, after: str) -> dict[str, int]:
    """What `scrub` found, from the texts before and after it."""
    counts = {kind: after.count(holder) - before.count(holder) for kind, holder in PLACEHOLDERS.items()}
    return {f"pii_{kind}": count for kind, count in counts.items() if count}


def _kind(match: re.Match[str]) -> str | None:
    """The kind of what a number is, or None if it is nothing."""
    group = match.lastgroup
    assert group is not None
    digits = re.sub(r"\D", "", match[0])
    if group == "card":
        return "card" if _is_card(digits) else None
    if group == "international":
        telephone = 10 <= len(digits) <= 15
    else:
        telephone = (group == "national" and _is_national(digits)) or _is_named(match, digits)
    return "telephone" if telephone else None


def _is_named(match: re.Match[str], digits: str) -> bool:
    before = match.string[max(0, match.start() - REACH) : match.start()]
    return not _is_date(digits) and _WORDS_BEFORE.search(before) is not None


def _is_national(digits: str) -> bool:
    if digits[0] == "0":
        return len(digits) == 11 or (len(digits) == 10 and _UKRAINIAN.match(digits, 1) is not None)
    return len(digits) in (7, 10) or (len(digits) == 11 and digits[0] in "78")


def _is_date(digits: str) -> bool:
    """Whether `12-10-21` is rather a day than a telephone of a small town."""
    return len(digits) in (5, 6) and 1 <= int(digits[:-4]) <= 31 and 1 <= int(digits[-4:-2]) <= 12


def _is_card(digits: str) -> bool:
    """Whether an issuer's prefix, Luhn's check digit (ISO/IEC 7812-1) and, against barcodes, EAN-13's say so."""
    issued = 2200 <= int(digits[:4]) <= 2204 or 2221 <= int(digits[:4]) <= 2720 or digits[0] in "3456"
    return issued and _luhn(digits) and not (len(digits) == 13 and _ean(digits))


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _ean(digits: str) -> bool:
    return sum(int(digit) * (1 + 2 * (place % 2)) for place, digit in enumerate(digits)) % 10 == 0
