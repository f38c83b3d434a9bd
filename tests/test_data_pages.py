"""Page numbers and running heads go, their sentences are whole again; all other numbers and repeated lines stay."""

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL_DATA

from shridhar_ft.config_data import Clean
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.page_numbers import page_numbers
from shridhar_ft.data.running_heads import running_heads

BOOKS = REAL_DATA / "books"
WORDS = re.findall(
    r"\w+", "дом река вечер который долго тихо уходил берег лодка старый голос над водой и туда где огонь"
)


def prose(sentences, seed=1):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 25))).capitalize() + "." for _ in range(sentences)]


def paragraphs(number, seed=1):
    said = prose(number * 4, seed)
    return [" ".join(said[4 * n : 4 * n + 4]) for n in range(number)]


def wrapped(lines, width=60):
    found = []
    for line in lines:
        found += re.findall(rf".{{1,{width}}}(?:\s+|$)", line)
    return [line.strip() for line in found]


def paged(lines, size, top="{blank}", bottom="{n}", first=3):
    """Pages of so many lines, each between a top and a bottom line."""
    pages = []
    for n, start in enumerate(range(0, len(lines), size), first):
        above, below = (one.format(n=n, blank="") for one in (top, bottom))
        pages.append("\n".join([*filter(None, [above]), *lines[start : start + size], *filter(None, [below])]))
    return pages


def words(text):
    return text.split()


LINES = wrapped(paragraphs(60))


@pytest.mark.parametrize("bottom", ["{n}", "— {n} —", "- {n} -", "[{n}]", "стр. {n}", "  {n}", "~ {n} ~"])
@pytest.mark.parametrize("between", ["\n", "\n\n", "\n\x0c\n", "\n\x0c", "\n\n\x0c\n\n"])
def test_page_numbers_go_and_halves_of_sentences_meet(bottom, between):
    text = between.join(paged(LINES, 30, bottom=bottom))
    assert clean_text(text, Clean(), is_book=True).text == "\n".join(LINES)


@pytest.mark.parametrize(
    ("top", "bottom"),
    [
        ("Л. Н. Толстой. Метель", "{n}"),
        ("Метель\n{n}", "{blank}"),
        ("{n} Л. Н. Толстой", "{blank}"),
        ("Л. Н. Толстой {n}", "{blank}"),
        ("{n} | Метель", "{blank}"),
        ("МЕТЕЛЬ — {n}", "{blank}"),
    ],
)
@pytest.mark.parametrize("between", ["\n", "\n\n", "\n\x0c\n"])
def test_running_heads_go_with_their_numbers(top, bottom, between):
    text = between.join(paged(LINES, 30, top=top, bottom=bottom))
    cleaned = clean_text(text, Clean(), is_book=True).text.split("\n")
    assert cleaned == LINES or (cleaned[1:] == LINES and cleaned[0] in ("Метель", "Л. Н. Толстой. Метель"))


def test_heads_without_numbers_go_where_they_cut_sentences_at_page_distance():
    text = "\n".join(paged(LINES, 30, top="Л. Н. Толстой. Метель", bottom="{blank}"))
    cleaned = running_heads(text)
    assert cleaned.count("Метель") == 1 and cleaned.startswith("Л. Н. Толстой. Метель\n")
    assert words(cleaned)[4:] == words("\n".join(LINES))


def test_where_paragraphs_are_lines_halves_are_joined_by_a_space():
    text = "\n".join(paragraphs(60))
    ends = [text.index(" ", at) for at in range(1500, len(text) - 100, 1500)]
    broken = list(text)
    for number, end in enumerate(ends, 7):
        broken[end] = f"\n\n{number}\n\n"
    cleaned = page_numbers("".join(broken))
    assert words(cleaned) == words(text)
    # Where the page ends with a sentence, nothing says that the paragraph goes on.
    assert text.count("\n") <= cleaned.count("\n") <= text.count("\n") + len(ends) // 3


def test_a_word_divided_at_a_page_end_is_joined():
    lines = list(LINES)
    for at in (29, 59, 89):
        lines[at] = lines[at].rstrip(".") + " вече-"
        lines[at + 1] = "ром " + lines[at + 1].lower()
    cleaned = clean_text("\n\x0c\n".join(paged(lines, 30)), Clean(), is_book=True).text
    assert cleaned.count("вечером") == 3 and "-" not in cleaned


def test_the_heading_of_a_chapter_stays_and_its_running_heads_go():
    first, second = wrapped(paragraphs(40, 2)), wrapped(paragraphs(40, 3))
    pages = paged(["Глава 1", *first], 30, bottom="{n}")
    pages = [pages[0], *(f"Глава 1\n{page}" for page in pages[1:])]
    more = paged(["Глава 2", *second], 30, bottom="{n}", first=3 + len(pages))
    more = [more[0], *(f"Глава 2\n{page}" for page in more[1:])]
    cleaned = clean_text("\n\x0c\n".join([*pages, *more]), Clean(), is_book=True).text.split("\n")
    assert [line for line in cleaned if line.startswith("Глава")] == ["Глава 1", "Глава 2"]
    assert [line for line in cleaned if line not in ("", "Глава 1", "Глава 2")] == first + second


def test_blank_lines_between_paragraphs_stay_at_page_ends():
    text = "\n\n".join(paragraphs(60))
    lines = [line for paragraph in paragraphs(60) for line in (*wrapped([paragraph]), "")]
    cleaned = page_numbers("\n".join(paged(lines[:-1], 28)))
    assert words(cleaned) == words(text)
    assert abs(cleaned.count("\n\n") - text.count("\n\n")) <= 3 < text.count("\n\n")


# ---------------------------------------------------------------------------------------- what must stay


def chapters(numbers, size=8):
    return [f"{number}\n" + "\n".join(paragraphs(size, seed)) for seed, number in enumerate(numbers)]


POEM = "\n\n".join(f"Строка {n}\nещё строка о реке\nкак хороши, как свежи были розы" for n in "абвгдежз")


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join(chapters(range(1, 15))),
        "\n".join(chapters(range(1, 15), 3)),
        "\n\x0c\n".join(chapters(range(1, 15))),
        "\n\n".join(chapters([f"- {n} -" for n in range(1, 15)])),
        "\n\n".join(chapters(["I", "II", "III", "IV", "V"])),
        "\n\n".join(chapters([f"{n}." for n in range(1, 9)])),
        "\n\n".join(chapters([f"Псалом {n}" for n in range(1, 30)], 2)),
        "\n\x0c\n".join(chapters([f"Псалом {n}" for n in range(1, 30)], 2)),
        "\n\n".join(chapters(["* * *"] * 9)),
        "\n\n".join(chapters([1812, 1813, 1815, 1825, 1861])),
        "\n".join(f"{n}\nпримечание (франц.)." for n in range(1, 60)),
        "\n".join(f"{n} Спустя несколько времени было слово." for n in range(1, 90)),
        "\n".join(f"Астров.\n{said}\nСоня.\n{answer}" for said, answer in zip(prose(60), prose(60, 2), strict=True)),
        "\n".join(f"— Да.\n{said}\n— Нет." for said in prose(60)),
        POEM,
        "\n".join(paragraphs(20)) + "\n301\n" + "\n".join(paragraphs(20)),
        "список\n1\n2\n3\n4\n5",
        "Февраль, 1878\n" + "\nФевраль, 1878\n".join(paragraphs(20)),
    ],
)
def test_chapters_verses_notes_years_speakers_and_refrains_stay(text):
    assert running_heads(text) == text
    assert page_numbers(text) == text


line = st.sampled_from(
    ["", "1", "2", "3", "- 4 -", "\x0c", "Метель", "5 Метель", "слово и", "Слово.", "\x0cМетель", "и снова слово " * 40]
)


@given(st.lists(line, max_size=60))
def test_applied_again_it_changes_nothing_and_lengths_fit(lines):
    text = "\n".join(lines)
    for step in (running_heads, page_numbers):
        once = step(text)
        assert step(once) == once
        assert len(once) <= len(text)


@pytest.mark.parametrize(
    "one", ["1", "", "да.", "- 1 -", "Метель\n1", "\x0c", "1 Метель", "и вот\n1\nи вот", "с. 1\nА"]
)
def test_a_long_text_of_one_line_takes_no_longer_than_any_other(one):
    started = time.perf_counter()
    running_heads(f"{one}\n" * 10_000)
    page_numbers(f"{one}\n" * 10_000)
    page_numbers("\n".join(f"{n}\n{one}" for n in range(9_000)))
    assert time.perf_counter() - started < 6


@pytest.mark.skipif(not BOOKS.is_dir(), reason="the shared books are not here")
def test_of_real_books_only_real_page_numbers_go():
    found = {}
    for file in sorted(BOOKS.glob("[ot]*/*.txt")):
        text = file.read_text(encoding="utf-8-sig")
        lines = page_numbers(running_heads(text)).split("\n")
        found[file.stem] = [one.strip() for one in text.split("\n") if len(one) < 9 and one not in lines]
    assert {name: gone for name, gone in found.items() if gone} == {"tolstoy_voskresenie": ["301", "393", "454"]}
    text = (BOOKS / "encodings" / "vii_shy_nbsp_pagenumbers_ff.txt").read_text(encoding="utf-8")
    cleaned = clean_text(text, Clean(), is_book=True).text
    assert "Н. В. Гоголь. Вий" in text and "Н. В. Гоголь. Вий" not in cleaned
    assert not re.search(r"^\W*\d+\W*$", cleaned.replace("\nВИЙ 1\n", "").rsplit("\n", 8)[0], re.MULTILINE)
