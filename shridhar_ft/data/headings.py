"""Which lines of a book open a chapter."""

import re

LONGEST_HEADING = 120  # characters; a longer line is prose whatever it begins with

_NUMBERED = "глава|часть|книга|том|раздел|беседа|лекция|письмо|песнь|урок|день|действие|явление|chapter|part|book"
_NAMED = (
    "предисловие|введение|вступление|пролог|эпилог|заключение|послесловие|приложение|примечания|от автора"
    "|preface|introduction|prologue|epilogue|conclusion|appendix"
)
_TENS = "двадцать|тридцать|сорок|пятьдесят|шестьдесят|семьдесят|восемьдесят|девяносто"
_ORDINAL = (
    rf"(?:(?:{_TENS})\s+)?"
    r"(?:перв|втор|трет|четв[её]рт|пят|шест|седьм|восьм|девят|десят|\w+надцат|двадцат|тридцат|сороков|последн)"
    r"(?:ая|яя|ья|ый|ой|ий|ое|ье|ее)"
)
# Russian typists write the Cyrillic Х and І for Roman digits too.
_ROMAN = "[IVXLCХІ]{1,8}"
_NUMBER = rf"(?:\d{{1,3}}|{_ROMAN}|{_ORDINAL}|one|two|three|four|five|six|seven|eight|nine|ten)"

_CHAPTER = re.compile(
    rf"(?:{_NUMBERED})\s+{_NUMBER}(?=$|[\s.,:*—–-])"  # Глава 3. Дом, ЧАСТЬ ПЕРВАЯ, Книга II
    rf"|(?:{_NAMED})[.:]?$"  # Предисловие
    r"|§\s*\d{1,3}",
    re.IGNORECASE,
)
_ORNAMENT = "* \t\n"  # around headings, and the mark of a footnote after them
# A number without its dot is as often a footnote or a page number.
_BARE_NUMBER = re.compile(rf"(?:{_ROMAN}\.?|\d{{1,3}}\.)")


def opens_chapter(line: str) -> bool:
    """Whether a line is a chapter heading by its words or its bare number: `Глава 3. Дом`, `XII`, `1.`, `Пролог`."""
    line = line.strip(_ORNAMENT)
    return len(line) <= LONGEST_HEADING and bool(_CHAPTER.match(line) or _BARE_NUMBER.fullmatch(line))


def is_heading(line: str) -> bool:
    """Whether a line is a chapter heading or a short line in capitals, which in most books is one."""
    return opens_chapter(line) or _in_capitals(line.strip(_ORNAMENT))


def _in_capitals(line: str) -> bool:
    # Four letters, because initials and abbreviations are capitals too; a dash or quote opens speech.
    letters = sum(map(str.isalpha, line[:80]))
    return letters >= 4 and len(line) <= 80 and line[0].isalnum() and line.isupper()
