"""Cleaning: each step, what it counts, and what it must leave alone."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config import SPECIAL_TOKENS
from shridhar_ft.config_data import Clean
from shridhar_ft.data import clean as cleaning
from shridhar_ft.data.clean import ALWAYS_ON, STEPS, clean_text
from shridhar_ft.data.contents import drop_contents
from shridhar_ft.data.front_matter import drop_front_matter

PROSE = "Я вышел из дома в тот час, когда ночь уже устала, а день ещё не решился, и пошёл вдоль реки. " * 3
ONLY = dict.fromkeys(Clean.model_fields, False)


def only(step):
    return Clean(**{**ONLY, step: True})


def test_the_table_has_a_step_for_every_switch():
    assert {step.name for step in STEPS} == {*Clean.model_fields, *ALWAYS_ON}


@pytest.mark.parametrize(
    ("step", "before", "after", "changed"),
    [
        ("nfc", "и\u0306 кр\u0323па\u0304 и\u0304", "й кр\u0323па\u0304 ӣ", 4),
        ("soft_hyphens", "спо\xadкой\xadный", "спокойный", 2),
        ("spaces", "  и\xa0сам\u2009 был\t тут \nда \n", "и сам был тут\nда", 7),
        ("line_separators", "а\r\nб\u2028в\x0cг\rд\u2029е\x85ж", "а\nб\nв\nг\nд\nе\nж", 6),
        ("object_marks", "\ufffcТут\u200b \ufeffкартина", "Тут картина", 3),
        ("control", "а\x01б\x7fв\tг\n", "абв\tг\n", 2),
    ],
)
def test_a_step_does_its_own_and_can_be_switched_off(step, before, after, changed):
    cleaned = clean_text(before, only(step), is_book=False)
    assert cleaned.text == after
    assert cleaned.changed == {step: changed}
    assert cleaned.shortened == {step: len(before) - len(after)}
    assert clean_text(before, Clean(**ONLY), is_book=True).text == before


def test_combining_marks_survive_and_are_composed_where_a_letter_exists():
    marks = "\u0304\u0323\u0307\u0301\u0303"
    text = "".join(f"{letter}{mark}" for letter in "рщжсук" for mark in marks)
    cleaned = clean_text(text, Clean(), is_book=True).text
    assert unicodedata.normalize("NFD", cleaned) == unicodedata.normalize("NFD", text)
    assert "ӯ" in cleaned and cleaned == unicodedata.normalize("NFC", text)


def test_a_soft_hyphen_between_letter_and_mark_does_not_prevent_the_letter():
    assert clean_text("и\xad\u0306", Clean(), is_book=False).text == "й"


MARKS = "\u0304\u0323\u0307\u0301\u0303"
sanskrit = st.lists(
    st.one_of(
        st.builds("{}{}".format, st.sampled_from("рщжсукаинмтдхлРКШ"), st.sampled_from(MARKS)),
        st.sampled_from([" ", "\n", "-", "-\n", "\xad", ", ", ".\n", "и ", "12", "\x0c", "Шри "]),
    ),
    max_size=80,
)


@given(sanskrit)
def test_no_step_takes_a_mark_from_its_letter(parts):
    text = "".join(parts)

    def marked(some):
        parts = unicodedata.normalize("NFD", some.replace("\xad", ""))
        return [parts[at - 1 : at + 1] for at, one in enumerate(parts) if one in MARKS]

    for is_book in (True, False):
        assert marked(clean_text(text, Clean(mojibake=True), is_book).text) == marked(text)


def test_joiners_that_shape_letters_and_emoji_stay():
    text = "क्\u200dष 👨\u200d👩\u200d👧"
    assert clean_text(text, Clean(), is_book=False).text == text


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, "<|im_start|>", "<|end of text|>"])
def test_special_tokens_are_broken_even_with_every_switch_off(token):
    cleaned = clean_text(f"так {token} и так{token}", Clean(**ONLY), is_book=False)
    assert token not in cleaned.text
    assert cleaned.text.count(f"<| {token[2:-2]} |>") == 2
    assert cleaned.shortened == {"special_tokens": -4}


def test_a_special_token_that_cleaning_puts_together_is_broken_too():
    assert clean_text("<|e\u200bn\xadd|>", Clean(), is_book=False).text == "<| end |>"


def test_halves_of_surrogate_pairs_go():
    assert clean_text("мир \ud83d да", Clean(**ONLY), is_book=False).text == "мир  да"


@given(st.text(), st.booleans())
def test_lengths_balance_and_cleaning_again_changes_nothing(text, is_book):
    cleaned = clean_text(text, Clean(), is_book)
    assert len(text) - sum(cleaned.shortened.values()) == len(cleaned.text)
    assert clean_text(cleaned.text, Clean(), is_book).text == cleaned.text
    cleaned.text.encode()


@given(
    st.text(
        st.one_of(
            st.sampled_from(" \n.<&>|@/+78()-;\t\xa0\xad\u0301\u200b\x0cіé"), st.sampled_from("абВЁ«»—abcZ0123456789")
        )
    )
)
def test_the_short_way_for_plain_messages_changes_no_result(text):
    quick = clean_text(text, Clean(), is_book=False)
    if cleaning._is_plain(text):
        assert quick.text == text
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cleaning, "_is_plain", lambda text: False)
        assert clean_text(text, Clean(), is_book=False) == quick


def test_examples_are_collected_where_asked_for():
    text = "\n".join(f"спо\xadкойный {n}\xa0раз" for n in range(9))
    cleaned = clean_text(text, Clean(), is_book=True, examples=5)
    assert {step: len(shown) for step, shown in cleaned.examples.items()} == {"soft_hyphens": 5, "spaces": 5}
    assert cleaned.examples["soft_hyphens"][2].line == 3
    assert clean_text(text, Clean(), is_book=True).examples == {}


def test_a_form_feed_beside_a_line_end_adds_none():
    assert clean_text("а\n\x0c\nб\x0cв\n\n\x0cг", Clean(), is_book=False).text == "а\nб\nв\n\nг"


# ---------------------------------------------------------------------------------------------- contents

CHAPTERS = [f"Глава {n}. {name}" for n, name in enumerate(["Утро", "Мост", "Дом, где не запирают", "О ноше"], 1)]
BODY = "\n\n".join(f"{title}\n{PROSE}\n— Да, — сказал он." for title in CHAPTERS)


@pytest.mark.parametrize("heading", ["Содержание", "ОГЛАВЛЕНИЕ", "Contents", "* Содержание *", "Оглавление:"])
@pytest.mark.parametrize("entry", ["{} ........ {}", "{} {}", "{}……{}", "{}. . . . . {}", "{}\t{}", "{}"])
@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_contents_go_and_chapters_stay(heading, entry, gap):
    entries = gap.join(entry.format(title, 7 * n) for n, title in enumerate(CHAPTERS, 3))
    assert drop_contents(f"Путь\n\n{heading}\n{entries}\n\n{BODY}") == f"Путь\n\n{BODY}"
    assert drop_contents(f"{BODY}\n\n{heading}\n{entries}") == BODY


def test_leaders_need_no_heading():
    entries = "\n".join(f"{title} .... {n}" for n, title in enumerate(CHAPTERS))
    assert drop_contents(f"Путь\n{entries}\n{BODY}") == f"Путь\n{BODY}"


def test_chapters_named_otherwise_than_in_the_contents_stay():
    text = f"Содержание\nУтро 3\nМост 9\n\nГлава 1\nУтро\n{PROSE}\nГлава 2\nМост\n{PROSE}"
    assert drop_contents(text) == f"Глава 1\nУтро\n{PROSE}\nГлава 2\nМост\n{PROSE}"


@pytest.mark.parametrize(
    "text",
    [
        f"Содержание\n{PROSE}",
        f"Оглавление\nУтро 3\n{PROSE}",
        "Он считал.\nВ 1812 году\nв 1813\nв 1814\nдо 1815",
        f"— Да.\n— Нет.\n— Да.\n— Нет.\n{PROSE}",
        "Молчание...\nОн думал...\nИ ушёл... 1\nКонец.",
    ],
)
def test_prose_is_no_contents(text):
    assert drop_contents(text) == text


# ------------------------------------------------------------------------------------------- front matter

IMPRINT = """© Издательство «Тихий берег», 2026
Все права переданы в общественное достояние
ISBN 000-0-00000-000-0
УДК 1/14
Адрес издательства: г. Заречный Посад, Набережная ул., д. 0
Редактор: А. Б. Небывалова
Литературный редактор И. И. Иванов
Корректор — В. Г. Придуманная
Тираж 100 экз.
Отпечатано в типографии «Буква»
E-mail: nikto@example.org
www.example.org
тел. 000-00-00"""


def test_the_publishers_lines_go_and_title_author_and_text_stay():
    text = f"Путь к источнику\nСтранник Илларион\n{IMPRINT}\n\nГлава 1. Утро\n{PROSE}"
    assert drop_front_matter(text) == f"Путь к источнику\nСтранник Илларион\n\nГлава 1. Утро\n{PROSE}"


def test_a_line_between_two_of_the_publishers_goes_with_them():
    assert drop_front_matter(f"Путь\n© Автор, 2026\nЗаречный Посад\nТираж 100 экз.\n\n{PROSE}") == f"Путь\n\n{PROSE}"


@pytest.mark.parametrize(
    "text",
    [
        f"Путь\n{PROSE}\n{IMPRINT}",
        f"Путь\nГлава 1\n© стояло на двери.\n{PROSE}",
        "Редактор. Вы принесли рукопись?\nАвтор. Принёс.\nИздательство отказало мне.\nАдрес он забыл.",
    ],
)
def test_text_is_no_front_matter(text):
    assert drop_front_matter(text) == text


def test_books_lose_contents_and_front_matter_and_dialogues_do_not():
    text = f"Путь\n{IMPRINT}\n\nСодержание\nУтро ... 3\nМост ... 9\n\n{PROSE.strip()}"
    cleaned = clean_text(text, Clean(), is_book=True)
    assert cleaned.text == f"Путь\n\n{PROSE.strip()}"
    assert set(cleaned.shortened) == {"contents", "front_matter"}
    assert clean_text(text, Clean(pii=False), is_book=False).text == text
    assert clean_text(text, Clean(contents=False, front_matter=False), is_book=True).text == text
