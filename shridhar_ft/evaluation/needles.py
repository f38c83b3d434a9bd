"""Russian needles: facts to hide in prose, the question at its end, the answer, and wrong answers of the same form.

    single_key  one number by a name
    multi_key   four numbers by four names, one of them asked for
    variable    a number handed on twice, and another chain beside it (variable tracing)
    two_fact    who took a thing, and where she went: neither fact alone answers

Every question breaks off where its answer begins, so that a model that was never taught to answer can go on with it.
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

Kind = Literal["single_key", "multi_key", "variable", "two_fact"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHOICES = 10
"""Answers to choose from: chance is a tenth."""

CITIES = ("Тверь", "Рязань", "Калуга", "Псков", "Вологда", "Самара", "Тамбов", "Кострома", "Орёл", "Пенза", "Ростов")
LETTERS = ("альфа", "бета", "гамма", "дельта", "каппа", "лямбда", "сигма", "омега")
WOMEN = ("Марфа", "Дарья", "Аксинья", "Устинья", "Пелагея", "Матрёна")
THINGS = ("кувшин", "фонарь", "сундук", "самовар", "платок", "ларец")
PLACES = {
    "в сад": "в саду",
    "на мельницу": "на мельнице",
    "в погреб": "в погребе",
    "на чердак": "на чердаке",
    "в баню": "в бане",
    "на рынок": "на рынке",
    "в часовню": "в часовне",
    "в лес": "в лесу",
    "на пасеку": "на пасеке",
    "в конюшню": "в конюшне",
}
"""Where to → where."""


@dataclass(frozen=True)
class Question:
    """What is hidden and asked."""

    chain: tuple[str, ...]
    """Facts that lead to the answer, in order; the last one stands at the depth that is measured."""
    beside: tuple[str, ...]
    """Facts of the same form that lead elsewhere."""
    ask: str
    """What stands at the end, up to the answer."""
    answer: str
    """With the space before it."""
    wrong: tuple[str, ...]
    """Other answers of the same form, first those that stand in the facts beside."""


def question(kind: Kind, seed: int | str) -> Question:
    """A question of this kind, the same for the same seed."""
    draw = Random(f"{kind}/{seed}")
    if kind == "two_fact":
        return _two_fact(draw)
    numbers = [str(number) for number in draw.sample(range(10_000, 100_000), CHOICES)]
    if kind == "variable":
        names = draw.sample(LETTERS, 6)
        chain, other = (_handed_on(names[at : at + 3], number) for at, number in ((0, numbers[0]), (3, numbers[1])))
        return _numbers(chain, other, f"число {names[2]} равно", numbers)
    cities = draw.sample(CITIES, 4)
    facts = [f"Тайное число города {city} равно {number}." for city, number in zip(cities, numbers, strict=False)]
    beside = facts[1:] if kind == "multi_key" else []
    return _numbers(facts[:1], beside, f"тайное число города {cities[0]} равно", numbers)


def _numbers(chain: list[str], beside: list[str], ask: str, numbers: list[str]) -> Question:
    answer, *wrong = (f" {number}" for number in numbers)
    return Question(tuple(chain), tuple(beside), f"\nКак было сказано выше, {ask}", answer, tuple(wrong))


def _handed_on(names: list[str], number: str) -> list[str]:
    first, second, third = names
    return [
        f"Число {first} равно {number}.",
        f"Число {second} равно числу {first}.",
        f"Число {third} равно числу {second}.",
    ]


def _two_fact(draw: Random) -> Question:
    women, things, places = draw.sample(WOMEN, 2), draw.sample(THINGS, 2), draw.sample(sorted(PLACES), CHOICES)
    taken = [f"{who} взяла {what} и не выпускала его из рук." for who, what in zip(women, things, strict=True)]
    gone = [f"{who} пошла {where} и осталась там." for who, where in zip(women, places, strict=False)]
    answer, *wrong = (f" {PLACES[place]}" for place in places)
    ask = f"\nКак было сказано выше, {things[0]} теперь находится"
    return Question((taken[0], gone[0]), (taken[1], gone[1]), ask, answer, tuple(wrong))


def is_right(said: str, answer: str) -> bool:
    """Whether what was said begins with the answer: its first number, or its words, ё being е."""
    if answer.strip().isdigit():
        found = re.search(r"\d+", said)
        return found is not None and found.group() == answer.strip()
    return _plain(said).startswith(_plain(answer))


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("ё", "е").split())


def placed(units: list[str], facts: Question, depth: float, seed: int | str, with_answer: bool = True) -> str:
    """The haystack with its needles.

    The last fact of the chain stands at `depth`, those before it anywhere above it in their order, the others anywhere.

    Args:
        units: Sentences with the space or line end behind each.
        facts: What is hidden.
        depth: 0 (beginning) to 1 (end).
        seed: Of the places of the others.
        with_answer: False leaves the chain out: the floor.
    """
    draw = Random(f"places/{seed}")
    end = round(depth * len(units))
    at = [*sorted(draw.randint(0, end) for _ in facts.chain[1:]), end]
    needles = list(zip(at, range(len(at)), facts.chain, strict=True)) if with_answer else []
    beside = sorted(draw.randint(0, len(units)) for _ in facts.beside)
    needles += [(place, -1, fact) for place, fact in zip(beside, facts.beside, strict=True)]
    pieces, begin = [], 0
    for place, _, fact in sorted(needles):
        pieces += [*units[begin:place], f"{fact} "]
        begin = place
    return "".join([*pieces, *units[begin:]]).rstrip()
