"""Minimal pairs from real sentences: one word is put into a form that no reading of it allows there.

    adjective_noun       adjacent: «доброго человека» → «доброму человека»
    subject_verb         adjacent: «старик вышел» → «старик вышла»
    subject_verb_far     other nouns between them, the attractors: «дом у реки стоял» → «дом у реки стояла»
    relative             «книга, которая …» → «книга, который …»
    preposition_case     «без воды» → «без водой»
    aspect               after verbs of beginning and ending, and `буду`: «стал говорить» → «стал сказать»
    negation             «никто не пришёл» → «никто пришёл не»: the same words, `не` behind the verb

A pair is kept only where the dictionary leaves no doubt; doubt costs sentences, which a shelf has enough of.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shridhar_ft.evaluation.morphology import (
    CASES,
    GENDERS,
    NUMBERS,
    Token,
    agreement,
    case_of,
    inflected,
    like,
    readings,
    sure,
    tokens,
)

SHORTEST, LONGEST = 5, 30  # tokens of a sentence
ONE_CASE = {
    **dict.fromkeys(("без", "для", "до", "из", "от", "около", "после", "кроме", "ради", "среди", "против"), "gent"),
    **dict.fromkeys(("к", "ко"), "datv"),
    **dict.fromkeys(("над", "перед"), "ablt"),
    **dict.fromkeys(("при",), "loct"),
    **dict.fromkeys(("через", "про", "сквозь"), "accs"),
}
"""Prepositions that take one case."""
PHASES = frozenset(["начать", "начинать", "стать", "перестать", "переставать", "продолжать", "кончить", "кончать"])
PREFIXES = ("по", "с", "на", "вы", "за", "про", "у", "при", "от", "пере", "до", "раз", "рас", "из", "о")
NOBODY = frozenset(["никто", "никого", "никому", "ничто", "ничего", "ничему", "никогда", "нигде", "никуда", "никак"])
FARTHEST = 6  # tokens between a subject and its verb
ADVERBS_BETWEEN = frozenset(["уже", "еще", "ещё", "так", "тоже", "вдруг", "опять", "всегда", "теперь", "тогда"])


@dataclass(frozen=True)
class Pair:
    """A sentence and the same one spoilt."""

    paradigm: str
    good: str
    bad: str
    good_word: str
    bad_word: str
    """The words that differ; equal where only the order does."""


def pairs_of(sentence: str, how_common: Callable[[str], int]) -> Iterator[Pair]:
    """All pairs that a sentence yields.

    Args:
        sentence: One sentence.
        how_common: Count of a word: of several spoilt forms the commonest is taken, so that rarity tells nothing.
    """
    found = tokens(sentence)
    if not SHORTEST <= len(found) <= LONGEST:
        return
    for paradigm, finder in FINDERS.items():
        for place, forms in finder(found):
            token = found[place]
            bad = max(sorted(set(forms) - {token.text.lower()}), key=how_common, default=None)
            if bad is not None:
                yield _replaced(sentence, token, bad, paradigm)
    yield from _negation(sentence, found)


def _replaced(sentence: str, token: Token, bad: str, paradigm: str) -> Pair:
    bad = like(bad, token.text)
    spoilt = sentence[: token.start] + bad + sentence[token.stop :]
    return Pair(paradigm, sentence, spoilt, token.text, bad)


Found = Iterator[tuple[int, list[str]]]
"""Places of words, and what could spoil each."""


def _adjective_noun(found: Sequence[Token]) -> Found:
    for place, (left, right) in enumerate(pairwise(found)):
        noun = sure(right.text, "NOUN")
        adjective = _adjective(left.text)
        if noun is None or adjective is None or not _agree(left.text, right.text):
            continue
        forms = []
        for case in CASES:
            for number in NUMBERS:
                for gender in GENDERS if number == "sing" else (None,):
                    form = inflected(adjective, case, number, *([gender] if gender else []))
                    if form is not None and not form.startswith("наи") and not _agree(form, right.text):
                        forms.append(form)
        yield place, forms


def _adjective(word: str) -> Any | None:  # noqa: ANN401
    return sure(word, "ADJF") or sure(word, "PRTF")


def _agree(adjective: str, noun: str) -> bool:
    """Whether any reading of the one agrees with any of the other."""
    nouns = {agreement(reading.tag) for reading in readings(noun)}
    nouns |= {(number, None, case) for number, _, case in nouns if number == "plur"}
    return any(
        agreement(reading.tag) in nouns
        for reading in readings(adjective)
        if {"ADJF"} in reading.tag or {"PRTF"} in reading.tag
    )


def _subject_verb(found: Sequence[Token]) -> Found:
    for place, (left, right) in enumerate(pairwise(found)):
        if (subject := _subject(left.text)) is not None and _no_other_subject(found, place, place + 1):
            yield from _spoilt_verb(subject, right.text, place + 1)


def _subject_verb_far(found: Sequence[Token]) -> Found:
    for place, token in enumerate(found):
        subject = _subject(token.text)
        if subject is None:
            continue
        end = place + 1
        while end < len(found) and end - place <= FARTHEST and _stands_between(found[end].text):
            end += 1
        attractors = range(place + 1, end)
        if not attractors or not any(sure(found[at].text, "NOUN") for at in attractors):
            continue
        if end < len(found) and found[end].text.lower() in ADVERBS_BETWEEN | {"не"}:
            end += 1
        if end < len(found) and _no_other_subject(found, place, end):
            yield from _spoilt_verb(subject, found[end].text, end)


def _stands_between(word: str) -> bool:
    """A preposition, or a noun or adjective that can be no subject: all of it belongs to the noun before."""
    found = readings(word)
    oblique = [r for r in found if ({"NOUN"} in r.tag or {"ADJF"} in r.tag) and r.tag.case != "nomn"]
    verbs = [r for r in found if {"VERB"} in r.tag or {"CONJ"} in r.tag or {"PRCL"} in r.tag]
    return not verbs and (bool(oblique) or any({"PREP"} in r.tag for r in found))


def _subject(word: str) -> Any | None:  # noqa: ANN401
    """A noun that can only be a subject by its form, of a known gender."""
    found = readings(word)
    if not found or not all({"NOUN"} in r.tag and r.tag.case == "nomn" for r in found):
        animate = [r for r in found if {"NOUN", "anim", "nomn", "sing"} in r.tag]
        return animate[0] if len(found) == len(animate) == 1 else None
    sets = {(r.tag.number, r.tag.gender) for r in found}
    return found[0] if len(sets) == 1 and (found[0].tag.gender or found[0].tag.number == "plur") else None


def _no_other_subject(found: Sequence[Token], place: int, verb: int) -> bool:
    """No `и` or comma right around, where two subjects would take a plural."""
    around = [found[at].text.lower() for at in (place - 1, place + 1, place - 2) if 0 <= at < len(found)]
    behind = found[verb + 1].text.lower() if verb + 1 < len(found) else ""
    return not {"и", "или", "ни", "да", "с", "со", "—", "-"} & {*around} and behind not in ("и", "или")


def _spoilt_verb(subject: Any, word: str, place: int) -> Found:  # noqa: ANN401
    verb = sure(word, "VERB", "past") or sure(word, "VERB", "3per")
    if verb is None:
        return
    number, gender = subject.tag.number, subject.tag.gender
    if "past" in verb.tag:
        fits = verb.tag.number == number and (number == "plur" or verb.tag.gender == gender)
        others = [("plur",), *(("sing", other) for other in GENDERS)]
        wanted = ("plur",) if number == "plur" else ("sing", gender)
        forms = [inflected(verb, *other) for other in others if other != wanted] if fits else []
    else:
        fits = verb.tag.number == number
        forms = [inflected(verb, "plur" if number == "sing" else "sing")] if fits else []
    good = [form for form in forms if form is not None and form != word.lower()]
    if good:
        yield place, good


def _relative(found: Sequence[Token]) -> Found:
    for place in range(len(found) - 2):
        noun, comma, which = found[place : place + 3]
        reading = sure(noun.text, "NOUN")
        if comma.text != "," or reading is None:
            continue
        kinds = [r for r in readings(which.text) if r.normal_form == "который"]
        numbers = {r.tag.number for r in readings(noun.text)}
        genders = {r.tag.gender for r in readings(noun.text)}
        if not kinds or len(numbers) != 1 or len(genders) != 1 or (place and found[place - 1].text.lower() == "и"):
            continue
        number, gender = numbers.pop(), genders.pop()
        cases = {case_of(r.tag) for r in kinds if _fits(r, number, gender)}
        forms = []
        for case in cases:
            for other in (("plur",), *(("sing", one) for one in GENDERS)):
                form = inflected(kinds[0], str(case), *other)
                if form and not any(_fits(r, number, gender) for r in readings(form)):
                    forms.append(form)
        if forms and not _two_nouns(found, place):
            yield place + 2, forms


def _fits(reading: Any, number: str, gender: str | None) -> bool:  # noqa: ANN401
    return reading.tag.number == number and (number == "plur" or reading.tag.gender == gender)


def _two_nouns(found: Sequence[Token], place: int) -> bool:
    """Whether another noun stands before it that «который» could mean."""
    return any(sure(found[at].text, "NOUN") is not None for at in range(max(0, place - 3), place))


def _preposition_case(found: Sequence[Token]) -> Found:
    for place, (left, right) in enumerate(pairwise(found)):
        case = ONE_CASE.get(left.text.lower())
        noun = sure(right.text, "NOUN")
        if case is None or noun is None or case not in {case_of(r.tag) for r in readings(right.text)}:
            continue
        forms = [inflected(noun, other, noun.tag.number) for other in CASES if other != case and noun.tag.number]
        spoilt = [form for form in forms if form and case not in {case_of(r.tag) for r in readings(form)}]
        if spoilt:
            yield place + 1, spoilt


def _aspect(found: Sequence[Token]) -> Found:
    for place, (left, right) in enumerate(pairwise(found)):
        verb = sure(right.text, "INFN", "impf")
        phases = readings(left.text)
        if verb is None or not phases or verb.word == "быть":  # «стало быть»
            continue
        begins = all(r.normal_form in PHASES and {"VERB"} in r.tag for r in phases)
        will = all(r.normal_form == "быть" and {"futr"} in r.tag for r in phases)
        if begins or will:
            forms = [prefix + verb.word for prefix in PREFIXES]
            perfective = [form for form in forms if sure(form, "INFN", "perf") is not None]
            if perfective:
                yield place + 1, perfective


def _negation(sentence: str, found: Sequence[Token]) -> Iterator[Pair]:
    for place in range(len(found) - 2):
        nobody, no, verb = found[place : place + 3]
        behind = found[place + 3].text if place + 3 < len(found) else ""
        if any({"INFN"} in r.tag for r in readings(behind)):  # «никто мог не знать» is right
            continue
        if nobody.text.lower() in NOBODY and no.text == "не" and (sure(verb.text, "VERB") or sure(verb.text, "INFN")):
            spoilt = sentence[: no.start] + verb.text + " " + no.text + sentence[verb.stop :]
            yield Pair("negation", sentence, spoilt, no.text, no.text)


FINDERS: dict[str, Callable[[Sequence[Token]], Found]] = {
    "adjective_noun": _adjective_noun,
    "subject_verb": _subject_verb,
    "subject_verb_far": _subject_verb_far,
    "relative": _relative,
    "preposition_case": _preposition_case,
    "aspect": _aspect,
}
PARADIGMS = (*FINDERS, "negation")
