"""Wrongly decoded text is read back; correct text in any spelling is left alone."""

import codecs
import unicodedata

import ftfy.bad_codecs  # noqa: F401  registers the sloppy encodings
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import REAL_DATA

from shridhar_ft.config_data import Clean
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.mojibake import mojibake

DATA = REAL_DATA
RUSSIAN = "Л. Н. Толстой\nМЕТЕЛЬ.\nI.\n\n— Ну, что? — спросил я «Алёшку».\nИ всё это — в 7 часов вечера…\n- В пруде."
ENCODINGS = ["sloppy-windows-1251", "sloppy-windows-1252", "latin-1", "koi8-r", "cp866"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("times", [1, 2])
def test_what_was_misread_once_or_twice_is_read_back(encoding, times):
    misread = RUSSIAN
    for _ in range(times):
        misread = misread.encode().decode(encoding)
    assert misread != RUSSIAN
    assert mojibake(misread) == RUSSIAN


def test_misread_lines_among_correct_ones_are_found():
    misread = "Было уже темно, когда я уселся в сани.".encode().decode("cp1251")
    assert mojibake(f"Правильно.\n{misread}\n«Да», — сказал он…") == (
        "Правильно.\nБыло уже темно, когда я уселся в сани.\n«Да», — сказал он…"
    )


@pytest.mark.parametrize(
    "text",
    [
        RUSSIAN,
        "Въ началѣ бѣ Слово, и Слово бѣ къ Богу; Ѳеодоръ, Іисусъ, мѵро, нј сколько, двјнадцать",
        "ОНЪ СКАЗАЛЪ: «ІІСУСЪ»… РЁВ, СЁЛА, ВЪРА — Р… С… В…",
        "dharmakṣetre kurukṣetre samavetā yuyutsavaḥ, Kṛṣṇa, Śrī Bhagavān uvāca, ñ ṅ ṇ ṭ ḍ",
        "дхарма-кш\u0323етре самавета\u0304 йуйутсавах\u0323, кр\u0323ш\u0323н\u0323а, ш\u0301рӣ, м\u0307, н\u0303",
        "धर्मक्षेत्रे कुरुक्षेत्रे",
        "Ça va? Où êtes-vous, mère? «À bientôt» — Ärger über Öl, señor; ½ · 20 °C ± 5 § 3 № 7 © 2020 «Я»",
        "░▒▓ ╔══╗ ║да║ ╚══╝ √ ≈ ≤ ≥ ÷ ² · π",
        "😀👍🏽 привет ❤️",
        "ﬁ ﬂ “кавычки” ‘и’ … &amp; &lt; x² ｆｕｌｌ",
        "А\xa0Б\xa0В и\xad я",
    ],
)
def test_correct_text_is_left_alone(text):
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        assert mojibake(form) == form


@given(
    st.text(
        alphabet="абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГРСЁЪ ІіѣѢѳ\u0304\u0323\u0307\u0301\u0303.,!—«»…-\n№0123456789"
    )
)
def test_russian_in_any_order_is_left_alone(text):
    assert mojibake(text) == text


@given(st.lists(st.sampled_from([*RUSSIAN.split(), "слово", "ещё", "Ёлка", "и", "река"])))
def test_any_russian_sentence_survives_being_misread(words):
    text = " ".join(["Было", *words])
    assert mojibake(text.encode().decode("sloppy-windows-1251")) == text


def test_the_byte_that_cp1251_lacks_is_restored():
    misread = "И мы поехали тою же рысью. Изредка.".encode().decode("cp1251", errors="replace")
    assert "\ufffd" in misread
    assert mojibake(misread) == "И мы поехали тою же рысью. Изредка."


def test_it_is_off_unless_asked_for():
    misread = RUSSIAN.encode().decode("cp1251", errors="replace")
    assert "mojibake" not in clean_text(misread, Clean(), is_book=True).changed
    asked = clean_text(RUSSIAN.encode().decode("sloppy-windows-1251"), Clean(mojibake=True), True, examples=3)
    assert asked.text == clean_text(RUSSIAN, Clean(), is_book=True).text
    assert asked.examples["mojibake"][0].after.startswith("Л. Н. Толстой")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_real_misread_texts_are_read_back_and_real_books_are_left_alone():
    metel = mojibake((DATA / "books/encodings/metel_mojibake_utf8_as_cp1251.txt").read_text(encoding="utf-8"))
    metel.encode("cp1251")
    assert "\ufffd" not in metel and "МЕТЕЛЬ.\nРАССКАЗ.\n(1856)" in metel
    dump = mojibake((DATA / "sql/real_tgbot_mojibake_mysql5.5.sql").read_text(encoding="utf-8"))
    assert "Какой индекс массы тела считается наиболее приемлемым?" in dump
    assert not {"Ð", "Ñ", codecs.decode(b"\xef\xbf\xbd")} & set(dump)
    for file in (DATA / "books").glob("[ot]*/*.txt"):
        text = file.read_text(encoding="utf-8-sig")
        assert mojibake(text) == text
