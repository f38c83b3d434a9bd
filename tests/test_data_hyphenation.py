"""Words divided at line ends become whole, and hyphens that belong to a word stay."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Clean
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.hyphenation import hyphenation, soft_hyphens

# Hard-wrapped, and with words to compare with.
WRAPPED = """Слово за словом, и всё ещё длилась та спокойная
вечерняя беседа, которую никто не хотел кончать,
и никто не смел начать другую, пока за окном
тянулся долгий летний вечер и пахло рекой, и
кто-то пел далеко, и где-то хлопала дверь, что
никого не тревожило."""


@pytest.mark.parametrize(
    ("divided", "joined"),
    [
        ("спокой-\nная и тихая", "спокойная\nи тихая"),
        ("сло-\nво, и так", "слово,\nи так"),
        ("сло-\nво", "слово"),
        ("сло-\nво\nи так", "слово\nи так"),
        ("бесе\u2010\nда была", "беседа\nбыла"),
        ("сло-\n   во и", "слово\nи"),
        ("кое-\nкак дошёл", "кое-как\nдошёл"),
        ("что-\nнибудь да", "что-нибудь\nда"),
        ("кто-\nто да", "кто-то\nда"),
        ("какой-\nлибо да", "какой-либо\nда"),
        ("из-\nза дома", "из-за\nдома"),
        ("из-\nпод дома", "из-под\nдома"),
        ("по-\nрусски да", "по-русски\nда"),
        ("по-\nмоему да", "по-моему\nда"),
        ("по-\nшёл да", "пошёл\nда"),
        ("во-\nпервых, да", "во-первых,\nда"),
        ("да-\nс, сударь", "да-с,\nсударь"),
        ("чуть-\nчуть да", "чуть-чуть\nда"),
        ("мало-\nпомалу да", "мало-помалу\nда"),
        ("Римский-\nКорсаков да", "Римский-Корсаков\nда"),
        ("РАС-\nСКАЗ да", "РАССКАЗ\nда"),
        ("Санкт-\nПетербург да", "Санкт-Петербург\nда"),
        ("в 1941-\n1945 годах", "в 1941-1945\nгодах"),
        ("в 20-\nх годах", "в 20-х\nгодах"),
        ("долгий лет-\nний вечер", "долгий летний\nвечер"),
    ],
)
def test_divided_words_are_joined_and_the_line_end_moves_behind(divided, joined):
    text = f"{WRAPPED}\n{divided}\nи ещё строка"
    assert hyphenation(text) == f"{WRAPPED}\n{joined}\nи ещё строка"


@pytest.mark.parametrize(
    "text",
    [
        "он сказал -\nи ушёл",
        "он сказал —\nи ушёл",
        "нет, я-\nТы?",
        "список:\n- раз\n- два",
        "слово-\n\nи новый абзац",
        "слово-\n— Да",
        "раз--\nдва",
        "да",
    ],
)
def test_dashes_and_lists_stay(text):
    assert hyphenation(f"{WRAPPED}\n{text}") == f"{WRAPPED}\n{text}"


def test_the_spelling_of_the_rest_of_the_text_decides():
    known = "В саду жила жар-птица, и жар-птица пела, и вечером, и всякое такое."
    assert hyphenation(f"{known}\nжар-\nптица да") == f"{known}\nжар-птица да"
    assert hyphenation(f"{known}\nвсяк-\nое да") == f"{known}\nвсякое да"


def test_where_paragraphs_are_lines_the_line_end_goes():
    text = (
        "Это был длинный абзац одной строкой.\nИ это был спокой-\nный абзац одной строкой.\nИ ещё один абзац, такой же."
    )
    assert "был спокойный абзац одной" in hyphenation(text)


def test_one_odd_hyphen_in_a_long_text_that_divides_no_words_stays():
    text = f"{WRAPPED}\n" * 100 + "охотница до постного-\nкушанья и чужих дел"
    assert hyphenation(text) == text
    assert "постногокушанья" in hyphenation(text[-1000:])


@pytest.mark.parametrize(
    ("divided", "joined"),
    [
        ("сло\xad\nво, и так", "слово,\nи так"),
        ("спо\xadкой\xadный", "спокойный"),
        ("какое-\xad\nнибудь да", "какое-нибудь\nда"),
        ("слово \xad\nи", "слово \nи"),
        ("слово\xad\n\nАбзац", "слово\n\nАбзац"),
    ],
)
def test_a_soft_hyphen_at_a_line_end_was_a_division(divided, joined):
    text = f"{WRAPPED}\n{divided}"
    assert soft_hyphens(text) == f"{WRAPPED}\n{joined}"
    assert clean_text(text, Clean(), is_book=True).text == clean_text(f"{WRAPPED}\n{joined}", Clean(), True).text


pieces = st.sampled_from(
    [
        "сло",
        "во",
        "-",
        "-\n",
        "\n",
        " ",
        "\xad\n",
        "\xad",
        "кое",
        "как",
        ",",
        "Я",
        "12",
        "и\u0306",
        "р\u0323",
        "\u2010\n",
        "— ",
    ]
)


@given(st.lists(pieces, max_size=60))
def test_applied_again_it_changes_nothing_and_no_letter_is_lost(parts):
    text = "".join(parts)
    for step in (hyphenation, soft_hyphens):
        once = step(text)
        assert step(once) == once
        assert [one for one in once if one.isalnum()] == [one for one in text if one.isalnum()]


@pytest.mark.parametrize("one", ["а-\n", "-\n", "а", "а-", "а\xad\n", "а-\n\n", "аа-\nб "])
def test_a_long_text_of_one_thing_takes_no_longer_than_any_other(one):
    started = time.perf_counter()
    hyphenation(one * (60_000 // len(one)))
    soft_hyphens(one * (60_000 // len(one)))
    assert time.perf_counter() - started < 5
