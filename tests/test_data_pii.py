"""What names a person in a message goes, and what only looks like it stays."""

import json
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL_DATA

from shridhar_ft.config_data import Clean
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.pii import PLACEHOLDERS, may_hold, scrub

DIALOGUES = REAL_DATA / "dialogues"

TELEPHONES = [
    "+7 (999) 123-45-67",
    "+7(999)123-45-67",
    "+79991234567",
    "+7 999 123 45 67",
    "+7-999-123-45-67",
    "+7.999.123.45.67",
    "8 999 123 45 67",
    "8(999)1234567",
    "8 (495) 123-45-67",
    "8-495-123-45-67",
    "89991234567",
    "79991234567",
    "8 800 555 35 35",
    "8 (34567) 2-34-56",
    "8 999 1234567",
    "8\u2011999\u2011123\u201145\u201167",
    "(495) 123-45-67",
    "999 123-45-67",
    "123-45-67",
    "+380441234567",
    "+380 (44) 123-45-67",
    "+375 29 123 45 67",
    "+1 415 555 2671",
    "+44 1223 367660",
    "+49 30 901820 15",
    "0671234567",
    "067 123 45 67",
    "01223367660",
    "01223 367660",
]
EMAILS = ["ivan@example.org", "i.petrov+a@mail.example.ru", "IVAN_P@Example.COM", "иван@пример.рф", "a-b@x-y.co.uk"]
CARDS = ["4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444", "2200 0000 0000 0053", "378282246310005"]
PROFILES = [
    "vk.com/id123",
    "https://vk.com/ivan_petrov",
    "http://www.vk.com/ivan.petrov",
    "m.vk.com/id1?w=wall1_2",
    "ok.ru/profile/123456789",
    "t.me/ivan_petrov",
    "https://t.me/ivan/15",
    "instagram.com/masha.k/",
    "https://www.facebook.com/profile.php?id=100001",
    "wa.me/79991234567",
    "@ivan_petrov",
    "@masha.k",
]
CLEAN_PROSE = [
    "12.05.2021",
    "2021-05-12",
    "12-05-2021",
    "в 2020-2021 годах",
    "с 10:00-18:00",
    "10:00 - 18:30, 12:15",
    "10.00-18.00",
    "12.05.2021 10:30:15",
    "1 000 000 000 рублей",
    "89 990 руб",
    "1500000 рублей",
    "телефон стоит 1500000 руб.",
    "телефон за 15 000",
    "телефон 2021 года",
    "заказ №89991234567",
    "заказ № 89991234567",
    "ваш номер заказа 00000912",
    "телефон есть, номер ссылки 00000912",
    "номер 12345678",
    "ISBN 978-5-389-01234-5",
    "9785389012345",
    "4600702082012",
    "4111111111111112",
    "1234567890123456",
    "192.168.100.200",
    "v1.2.3.4567",
    "размеры 90-60-90",
    "звони 12-10-21",
    "счёт 40817810099910004312",
    "в 1941-1945",
    "x = 3.14159265358979",
    "https://example.org/page/89991234567",
    "www.example.org/a?id=4111111111111111",
    "example.org/89991234567",
    "vk.com",
    "vk.com/feed",
    "https://vk.com/club123",
    "https://vk.com/wall-123_45",
    "https://www.instagram.com/p/abc/",
    "t.me/joinchat/abc",
    "youtube.com/watch?v=abc",
    "ok.ru",
    "почта: нет",
    "собака @ точка",
    "@all",
    "a@b",
    "<|end|>",
    "да/нет 24/7",
    "ст. 228 ч. 1",
    "5+7=12",
    "100500",
    "с 8 до 10 утра",
    "1737--1807",
]


def sentences(found):
    return [found, f"вот {found}, пиши", f"«{found}»", f"Да: {found}.", f"раз {found} и {found} два"]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        *(("telephone", one) for one in TELEPHONES),
        *(("email", one) for one in EMAILS),
        *(("card", one) for one in CARDS),
        *(("profile", one) for one in PROFILES),
    ],
)
def test_what_names_a_person_gives_way_to_its_placeholder(kind, found):
    for text in sentences(found):
        text, counts = scrub(text), scrub(text).counts
        assert found not in text.text
        assert set(counts) == {kind}
        assert text.text.count(PLACEHOLDERS[kind]) == counts[kind]
    assert scrub(found).text == PLACEHOLDERS[kind]
    assert scrub(f"раз {found} и {found} два").text == f"раз {PLACEHOLDERS[kind]} и {PLACEHOLDERS[kind]} два"


@pytest.mark.parametrize("text", CLEAN_PROSE)
def test_what_only_looks_like_it_stays(text):
    for one in (text, f"вот {text} и всё", f"({text})"):
        assert scrub(one).text == one


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("тел. 22-33-44", "тел. [телефон]"),
        ("Телефон для связи: 1234567", "Телефон для связи: [телефон]"),
        ("мой номер 9991234567", "мой номер [телефон]"),
        ("позвони мне на 9991234567.", "позвони мне на [телефон]."),
        ("whatsapp 9991234567", "whatsapp [телефон]"),
        ("тел89991234567звони", "тел[телефон]звони"),
        ("89991234567 г. Москва", "[телефон] г. Москва"),
        ("89991234567,89991234568", "[телефон],[телефон]"),
        ("число 9991234567", "число 9991234567"),
        ("счёт 22-33-44", "счёт 22-33-44"),
    ],
)
def test_words_before_a_number_make_it_a_telephone(text, scrubbed):
    assert scrub(text).text == scrubbed


def test_several_kinds_are_counted_apart_and_cleaning_hands_the_counts_on():
    text = "пиши на a@example.org или vk.com/id1, карта 4111 1111 1111 1111, тел. 89991234567 или +380441234567"
    cleaned = clean_text(text, Clean(), is_book=False)
    assert cleaned.text == "пиши на [почта] или [профиль], карта [карта], тел. [телефон] или [телефон]"
    assert cleaned.counts == {"pii_email": 1, "pii_profile": 1, "pii_card": 1, "pii_telephone": 2}
    assert cleaned.shortened == {"pii": len(text) - len(cleaned.text)}
    assert clean_text(text, Clean(), is_book=True).text == text
    assert clean_text(text, Clean(pii=False), is_book=False).text == text


digits = st.text("0123456789", min_size=7, max_size=7)
separator = st.sampled_from(["", " ", "-", ". ", "\u2011"])


@given(st.sampled_from(["+7", "8", "7", "+7 ", "8-"]), st.integers(900, 999), digits, separator, st.booleans())
def test_every_way_to_write_a_mobile_number_is_found(prefix, code, number, between, braces):
    area = f"({code})" if braces else str(code)
    written = between.join((prefix.strip(), area, number[:3], number[3:5], number[5:]))
    assert scrub(f"звонил {written} вчера").text == "звонил [телефон] вчера"


@given(st.sampled_from(["4", "51", "55", "2200", "2204", "67"]), st.text("0123456789", min_size=15, max_size=15))
def test_cards_are_told_by_their_check_digit(issuer, number):
    body = (issuer + number)[:15]
    doubled = sum(sum(divmod(2 * int(digit), 10)) if place % 2 == 0 else int(digit) for place, digit in enumerate(body))
    check = -doubled % 10
    assert scrub(f"на {body}{check}").text == "на [карта]"
    wrong = f"на {body}{(check + 1) % 10}"
    assert scrub(wrong).text == wrong


@given(st.text(alphabet="0123456789+-() .,@/avкм\n№", max_size=60))
def test_only_what_the_prefilter_lets_through_is_ever_changed_and_nothing_hangs(text):
    scrubbed = scrub(text)
    assert may_hold(text) or scrubbed.text == text
    assert scrubbed.counts == Counter(
        {kind: count for kind, holder in PLACEHOLDERS.items() if (count := scrubbed.text.count(holder))}
    )


@pytest.mark.parametrize("one", ["1", "1 ", "+1", "(1", "a.", "a@", "@a", "https://", "vk.com/", "8 9", "тел "])
def test_a_long_message_of_one_thing_takes_no_longer_than_any_other(one):
    started = time.perf_counter()
    scrub(one * (50_000 // len(one)))
    assert time.perf_counter() - started < 2


@pytest.mark.skipif(not DIALOGUES.is_dir(), reason="the shared dialogues are not here")
def test_real_references_stay_and_real_numbers_go():
    with (DIALOGUES / "multiwoz_ru.jsonl").open(encoding="utf-8") as lines:
        texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    counts: Counter[str] = Counter()
    for text in texts:
        scrubbed = scrub(text)
        counts.update(scrubbed.counts)
        assert text.count("00000") == scrubbed.text.count("00000")
    assert counts.keys() == {"telephone"} and counts["telephone"] > 900
