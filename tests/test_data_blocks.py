"""Chapter blocks: nothing lost at a cut, no block longer than the limit that could be cut, chapters kept apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Split
from shridhar_ft.data.blocks import block_limit, cut_blocks
from shridhar_ft.data.headings import is_heading, opens_chapter

SENTENCES = st.sampled_from(
    ["Он встал.", "Она ушла…", "— Куда? — спросил я.", "Снег", "«Да!» И всё.", "слово " * 9 + "конец."]
)
PARAGRAPHS = st.one_of(
    st.lists(SENTENCES, min_size=1, max_size=12).map(" ".join),
    st.sampled_from(["", "  ", "Глава 1", "ГЛАВА ВТОРАЯ", "IV", "* * *", "ПИСЬМО", "3."]),
)
TEXTS = st.lists(PARAGRAPHS, min_size=1, max_size=40).map("\n".join).filter(str.strip)


@given(TEXTS, st.integers(16, 400))
def test_blocks_joined_are_the_text(text, limit):
    joined = "\n".join(cut_blocks(text, limit))
    assert joined.replace("\n", " ") == text.replace("\n", " ")
    if all(len(line) <= limit for line in text.split("\n")) and "\n\n" not in text:
        assert joined == text


@given(st.text(alphabet="аБ. \n!I1—", min_size=1).filter(str.strip), st.integers(1, 50))
def test_any_text_survives(text, limit):
    blocks = cut_blocks(text, limit)
    assert "\n".join(blocks).replace("\n", " ") == text.replace("\n", " ")


@given(TEXTS, st.integers(64, 400))
def test_a_block_over_the_limit_is_one_sentence(text, limit):
    for block in cut_blocks(text, limit):
        assert block.strip() or not text.strip()
        if len(block) > limit:
            assert len([line for line in block.split("\n") if line.strip()]) == 1


def chapter(title, paragraphs, width=90):
    return "\n".join([title, *(f"Абзац {n} к «{title}» ".ljust(width, "о") for n in range(paragraphs))])


def test_chapters_open_blocks():
    text = "\n\n".join(chapter(f"Глава {n}. О пути", 9) for n in range(1, 6))
    blocks = cut_blocks(text, 1000)
    assert [block.split("\n")[0] for block in blocks] == [f"Глава {n}. О пути" for n in range(1, 6)]


def test_a_long_chapter_is_cut_into_pieces_of_similar_length():
    blocks = cut_blocks(chapter("Глава 1", 25, 99), 1000)
    assert len(blocks) == 3
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 100


def test_title_pages_and_part_headings_go_with_what_follows():
    text = (
        "Лев Толстой\nВОСКРЕСЕНИЕ\nЧасть первая\nI\n" + chapter("пролог", 9) + "\nЧасть вторая\nI\n" + chapter("дом", 9)
    )
    blocks = cut_blocks(text, 1100)
    assert [block.split("\n")[0] for block in blocks] == ["Лев Толстой", "Часть вторая"]


def test_short_chapters_are_joined_up_to_the_limit():
    blocks = cut_blocks("\n".join(chapter(f"Глава {n}", 3) for n in range(12)), 1000)
    assert len(blocks) == 4
    assert all(700 < len(block) <= 1000 for block in blocks)


def test_a_paragraph_over_the_limit_is_cut_at_sentences():
    text = " ".join(f"Предложение номер {n} о терпении." for n in range(100))
    blocks = cut_blocks(text, 500)
    assert all(len(block) <= 500 and block.endswith(".") for block in blocks)
    assert " ".join(blocks) == text


@pytest.mark.parametrize(
    ("length", "limit"), [(4_000, 1000), (22_000, 1100), (60_000, 3000), (120_000, 6000), (900_000, 6000)]
)
def test_shorter_works_get_shorter_blocks(length, limit):
    assert block_limit(length, Split()) == limit


@pytest.mark.parametrize(
    "line",
    ["Глава 3. Дом", "ГЛАВА ПЕРВАЯ", "Часть вторая", "Беседа двадцать первая", "XIV", "V.", "1.", "II *",
     "* КНИГА II *", "Предисловие", "ЭПИЛОГ", "Chapter One", "§ 12"],
)  # fmt: skip
def test_chapter_headings(line):
    assert opens_chapter(line)


@pytest.mark.parametrize(
    "line",
    ["Глава семьи вошёл в дом.", "Часть первых учеников ушла", "День был тихий", "12", "454", "- 1 -", "", "* * *",
     "1. Каждый человек ищет", "Введение в заблуждение карается", "M. K.\".", "श्रीकृष्ण"],
)  # fmt: skip
def test_prose_is_no_heading(line):
    assert not is_heading(line)


def test_capitals_are_headings_but_no_chapter_openings():
    assert is_heading("СМЕРТЬ ИВАНА ИЛЬИЧА") and not opens_chapter("СМЕРТЬ ИВАНА ИЛЬИЧА")
    assert not is_heading("— НЕТ, НИКОГДА!")
