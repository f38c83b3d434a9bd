"""Books: every format and encoding is read as it was written, and what is wrong is told in one sentence."""

import codecs
import io
import random
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shridhar_ft.config_data import Books
from shridhar_ft.data.sources import archives, extras
from shridhar_ft.data.sources.books import read_book, read_books
from shridhar_ft.data.sources.detection import FEWEST, detect, encoding_of
from shridhar_ft.data.sources.garbled import find_garbled
from shridhar_ft.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data" / "books"

# The opening of Tolstoy's "Hadji Murat" and of Gogol's "Overcoat" (public domain).
RUSSIAN = """\
Я возвращался домой полями. Была самая середина лета. Луга убрали и только что собирались косить рожь.
Есть прелестный подбор цветов этого времени года: красные, белые, розовые, душистые, пушистые кашки; наглые \
маргаритки; молочно-белые с ярко-желтой серединой «любит-не-любит» с своей прелой пряной вонью; желтая сурепка \
с своим медовым запахом; высоко стоящие лиловые и белые тюльпановидные колокольчики; ползучие горошки; желтые, \
красные, розовые, лиловые, аккуратные скабиозы; с чуть розовым пухом и чуть слышным приятным запахом \
подорожник; васильки, ярко-синие на солнце и в молодости и голубые и краснеющие вечером и под старость; и \
нежные, с миндальным запахом, тотчас же вянущие, цветы повилики.
Я набрал большой букет разных цветов и шел домой, когда заметил в канаве чудный малиновый, в полном цвету, \
репей того сорта, который у нас называется «татарином» и который старательно окашивают, а когда он нечаянно \
скошен, выкидывают из сена покосники, чтобы не колоть на него рук. Мне вздумалось сорвать этот репей и \
положить его в середину букета. Я слез в канаву и, согнав впившегося в середину цветка и сладко и вяло \
заснувшего там мохнатого шмеля, принялся срывать цветок.
В департаменте... но лучше не называть, в каком департаменте. Ничего нет сердитее всякого рода департаментов, \
полков, канцелярий и, словом, всякого рода должностных сословий. Теперь уже всякий частный человек считает в \
лице своем оскорбленным всё общество. Говорят, весьма недавно поступила просьба от одного капитан-исправника, \
не помню какого-то города, в которой он излагает ясно, что гибнут государственные постановления и что \
священное имя его произносится решительно всуе. А в доказательство приложил к просьбе преогромнейший том \
какого-то романтического сочинения, где чрез каждые десять страниц является капитан-исправник, местами даже \
совершенно в пьяном виде. Итак, во избежание всяких неприятностей, лучше департамент, о котором идет дело, мы \
назовем одним департаментом. Итак, в одном департаменте служил один чиновник; чиновник нельзя сказать чтобы \
очень замечательный, низенького роста, несколько рябоват, несколько рыжеват.
"""
PLAIN = RUSSIAN.replace("«", '"').replace("»", '"')  # koi8-r and cp866 have no such quotes
OLD = "Въ началѣ сотворилъ Богъ небо и землю. Земля же была необразована и пуста, и тьма надъ бездною; и Духъ Божій. "
SLAVONIC = "Въ нача́лѣ бѣ̀ сло́во, и҆ сло́во бѣ̀ къ бг҃ꙋ, и҆ бг҃ъ бѣ̀ сло́во. Се́й бѣ̀ и҆сконѝ къ бг҃ꙋ. "
SANSKRIT = "дхарма-кш̣етре куру-кш̣етре самаветā йуйутсавах̣ мāмакāх̣ пāн̣д̣авāш́ чаива ким акурвата сан̃джайа. "
IAST = "dharma-kṣetre kuru-kṣetre samavetā yuyutsavaḥ māmakāḥ pāṇḍavāś caiva kim akurvata sañjaya. "
ENGLISH = "It was the best of times, it was the worst of times — it was the age of wisdom, so “they” said. "
FRENCH = "Eh bien, mon prince. Gênes et Lucques ne sont plus que des apanages de la famille; à côté, l'été. "
GERMAN = "Größe über alles: die schönen Mädchen gehen früh zur Mühle, hören Vögel, trinken süßen Kakao. "
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy, a všichni se ještě těší na večeři u říčky. "
UKRAINIAN = (
    "Реве та стогне Дніпр широкий, сердитий вітер завива, додолу верби гне високі, горами хвилю підійма. Її є ґанок. "
)


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, encoding: str = "auto", **settings):
    said: list[str] = []
    (document,) = read_books(Books(paths=[str(path)], encoding=encoding), said.append, **settings)
    return document, said


def refusal(path: Path, encoding: str = "auto", **settings) -> str:
    with pytest.raises(UserError) as error:
        read(path, encoding, **settings)
    sentence = str(error.value)
    assert path.name in sentence and "\n" not in sentence and "; " in sentence
    return sentence


def misread(text: str, right: str, wrong: str) -> str:
    """The text as a program shows it that passes on what the wrong encoding leaves undefined."""
    read = (bytes([byte]).decode(wrong, errors="ignore") or chr(byte) for byte in text.encode(right, errors="ignore"))
    return "".join(read)


# ------------------------------------------------------------------------------------------- detection


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp866"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_passage_of_200_characters_is_detected_in_every_encoding(encoding, data):
    length = data.draw(st.integers(200, 800))
    start = data.draw(st.integers(0, len(RUSSIAN) - length))
    line_end = data.draw(st.sampled_from(["\n", "\r\n"]))
    raw = RUSSIAN[start : start + length].replace("\n", line_end).encode(encoding, errors="ignore")
    found = detect(raw)
    assert found.encoding and found.confidence > 0.99
    assert raw.decode(found.encoding) == raw.decode(encoding)


@settings(max_examples=60)
@given(data=st.data(), encoding=st.sampled_from(["cp1251", "koi8-r", "cp866", "mac-cyrillic", "iso8859-5"]))
def test_a_short_passage_is_detected_rightly_or_refused(data, encoding):
    length = data.draw(st.integers(1, 120))
    start = data.draw(st.integers(0, len(RUSSIAN) - length))
    raw = RUSSIAN[start : start + length].encode(encoding, errors="ignore")
    found = detect(raw)
    # The last letters of mac-cyrillic differ from cp1251's in capitals only: it may come out so where it is short.
    if found.encoding and encoding != "mac-cyrillic":
        assert raw.decode(found.encoding) == raw.decode(encoding)
    if sum(byte > 0x7F for byte in raw) < FEWEST:
        assert found.encoding is None or raw.isascii()


@pytest.mark.parametrize(
    "text", [RUSSIAN, OLD, SLAVONIC * 5, SANSKRIT * 5, IAST, ENGLISH, FRENCH, "plain ASCII", "Я", ""]
)
@pytest.mark.parametrize(
    ("encoding", "mark", "found"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8", codecs.BOM_UTF8, "utf-8"),
        ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16"),
        ("utf-32-le", codecs.BOM_UTF32_LE, "utf-32"),
    ],
)
def test_unicode_is_proved(text, encoding, mark, found):
    assert detect(mark + text.encode(encoding)).encoding == found


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [RUSSIAN, OLD, SANSKRIT, IAST, ENGLISH, "Да"])
def test_utf_16_without_a_mark_is_told_by_its_byte_order(text, encoding):
    assert detect(text.encode(encoding)).encoding == encoding


@pytest.mark.parametrize("letters", ["яю", "юя"])
def test_letters_that_look_like_the_mark_of_utf_16_are_letters(letters):
    assert detect((letters + PLAIN[100:400]).encode("cp1251")).encoding == "cp1251"


@pytest.mark.parametrize("encoding", ["mac-cyrillic", "iso8859-5"])
def test_the_rarer_encodings_are_told_too(encoding):
    assert detect(RUSSIAN.encode(encoding, errors="ignore")).encoding == encoding


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-u"])
def test_ukrainian_is_told_too(encoding):
    assert detect((UKRAINIAN * 3).encode(encoding)).encoding == encoding


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r"])
def test_capitals_are_told_or_refused(encoding):
    raw = RUSSIAN[:900].upper().encode(encoding, errors="ignore")
    found = detect(raw).encoding
    assert found is None or raw.decode(found) == raw.decode(encoding)


@pytest.mark.parametrize("text", [FRENCH, GERMAN])
def test_western_text_is_refused_with_a_hint_rather_than_taken_for_russian(text):
    found = detect((text * 20).encode("cp1252"))
    assert found.encoding is None and "in no Cyrillic encoding" in found.why and "would be a guess" in found.why


@pytest.mark.parametrize("seed", range(5))
def test_arbitrary_bytes_are_refused(seed):
    found = detect(random.Random(seed).randbytes(20_000))
    assert found.encoding is None and "no text" in found.why


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (("cp1251", "utf-8"), "is not UTF-8, though letters elsewhere are"),
        (("utf-8", "cp1251"), "is not UTF-8, though letters elsewhere are"),
        (("cp1251", "koi8-r"), "reads as koi8-r, most of the file as cp1251"),
        (("cp866", "cp1251"), "line 2. reads as cp1251, most of the file as cp866"),
    ],
)
def test_a_file_of_two_encodings_is_refused(parts, sentence):
    first, second = parts
    found = detect((PLAIN * 5).encode(first) + PLAIN.encode(second))
    assert found.encoding is None and re.search(sentence, found.why), found


def test_a_passage_in_the_middle_of_a_long_file_is_noticed():
    before = (PLAIN * 900).encode("cp1251")  # beyond the sample
    assert detect(before).encoding == "cp1251"
    found = detect(before + PLAIN.encode("koi8-r") + before)
    assert found.encoding is None and "koi8-r" in found.why and 0 < found.line - before.count(b"\n") <= 4


def test_a_broken_byte_is_named_by_line_and_place(tmp_path):
    raw = RUSSIAN.encode()
    place = raw.index("Я набрал".encode())
    file = write(tmp_path / "a.txt", raw[:place] + b"\xff" + raw[place:])
    sentence = refusal(file)
    assert f"byte {place} (0xFF) is not UTF-8, though letters elsewhere are: damaged, or two encodings" in sentence
    with pytest.raises(UserError, match=rf"a\.txt:3: byte {place} .* data\.dialogues\.0\.encoding=cp1251"):
        encoding_of(file, "auto", "data.dialogues.0")


@settings(max_examples=40)
@given(text=st.text(st.sampled_from("aя€𝄞\n"), max_size=40), cut=st.integers(0, 200))
def test_the_place_of_a_wrong_byte_is_that_of_the_strict_decoder(text, cut):
    raw = b"x" * (65536 - cut) + text.encode() + b"\xff" + text.encode()
    with pytest.raises(UnicodeDecodeError) as error:
        raw.decode()
    found = detect(raw)
    assert f"byte {error.value.start} (0x" in found.why
    assert found.line == raw[: error.value.start].count(b"\n") + 1


def test_encoding_of_gives_a_concrete_name(tmp_path):
    for encoding in ("utf-8", "cp1251", "koi8-r"):
        file = write(tmp_path / encoding, PLAIN.encode(encoding))
        assert encoding_of(file, "auto", "data.dialogues.0") == encoding
    assert encoding_of(tmp_path / "koi8-r", "cp866", "data.dialogues.0") == "cp866"


# ------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp866", "utf-16"])
def test_what_was_detected_is_said(tmp_path, encoding):
    document, said = read(write(tmp_path / "a.txt", RUSSIAN.encode(encoding, errors="ignore")))
    assert document.text == RUSSIAN.encode(encoding, errors="ignore").decode(encoding)
    assert len(said) == 1 and said[0].startswith(f"a.txt: encoding {encoding} (detected")
    assert read(write(tmp_path / "a.txt", RUSSIAN))[1] == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is a PNG picture, not a text; convert it"),
        (b"PK\x03\x04" + bytes(100), "it is a ZIP archive"),
        (b"%PDF-1.4 ...", "it is a PDF, not a text"),
        ("Утро".encode("koi8-r"), "byte 0 (0xF5) is not UTF-8, and 4 bytes above ASCII are too few to tell"),
        (b"ab\0\0\0\0\0cd" * 20, "control characters: it is no text"),
        ("Потеряно: " + "\ufffd" * 20, "letters were lost when it was saved"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, sentence):
    assert sentence in refusal(write(tmp_path / "a.txt", content))
    assert sentence in refusal(write(tmp_path / "book", content))


def test_a_given_encoding_overrides_and_is_refused_where_the_text_shows_another(tmp_path):
    short = write(tmp_path / "short.txt", "Утро".encode("koi8-r"))
    assert read(short, "koi8-r")[0].text == "Утро"
    for right in ("utf-8", "koi8-r", "cp866"):
        file = write(tmp_path / "a.txt", RUSSIAN.replace("И", "и").encode(right, errors="ignore"))
        sentence = refusal(file, "cp1251")
        assert f"it reads as {right.replace('utf', 'UTF')}, not as cp1251; set data.books.encoding=auto" in sentence


@pytest.mark.parametrize("wrong", ["cp1251", "cp1252", "koi8-r", "cp866"])
def test_utf_8_that_was_saved_in_another_encoding_is_refused_or_left_to_cleaning(tmp_path, wrong):
    file = write(tmp_path / "a.txt", misread(RUSSIAN, "utf-8", wrong))
    sentence = refusal(file)
    assert f"line 1 of the text is UTF-8 that was read as {wrong} and saved again" in sentence
    assert "data.clean.mojibake=true repairs it" in sentence
    assert read(file, mojibake_allowed=True)[0].text == misread(RUSSIAN, "utf-8", wrong)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(a, b) for a in ("cp1251", "koi8-r", "cp866") for b in ("cp1251", "cp1252", "koi8-r") if a != b],
)
def test_one_encoding_that_was_saved_as_another_is_refused_with_the_way_back(tmp_path, right, wrong):
    text = RUSSIAN + misread(RUSSIAN, right, wrong) + RUSSIAN
    sentence = refusal(write(tmp_path / "a.txt", text), mojibake_allowed=True)
    assert f"is {right} that was read as {wrong} and saved again" in sentence
    assert f"iconv -f utf-8 -t {wrong} FILE | iconv -f {right} -t utf-8" in sentence


@pytest.mark.parametrize(
    "text",
    [RUSSIAN, RUSSIAN.upper(), OLD, SLAVONIC, SANSKRIT, IAST, ENGLISH, FRENCH, GERMAN, CZECH, UKRAINIAN, "☦ ॐ 道"],
)
def test_text_that_is_in_order_is_not_taken_for_misread(text):
    assert find_garbled(text) is None
    assert find_garbled(text * 40) is None
    assert find_garbled(" ".join(text.split()[::-1]) * 40) is None


def test_an_example_of_misreading_in_a_long_text_is_no_misreading():
    assert find_garbled(RUSSIAN * 10 + misread("Привет, мир", "utf-8", "cp1251")) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared shelf is not here")
def test_the_shared_shelf(tmp_path):
    found = {
        "igrok_cp1251_crlf": "cp1251",
        "hadji_murat_koi8r": "koi8-r",
        "shinel_cp866": "cp866",
        "kapitanskaya_dochka_utf16le": "utf-16",
        "asya_utf8_bom_crlf": "utf-8",
    }
    for name, encoding in found.items():
        assert encoding_of(SHARED / "encodings" / f"{name}.txt", "auto", "data.books") == encoding
    assert "UTF-8 that was read as cp1251" in refusal(SHARED / "encodings" / "metel_mojibake_utf8_as_cp1251.txt")
    for file in (*(SHARED / "others").iterdir(), *(SHARED / "tolstoy").iterdir()):
        assert find_garbled(read_book(file, "auto").text) is None


# --------------------------------------------------------------------------------------------- the shelf


def test_a_folder_stands_for_its_books_and_what_is_passed_over_is_said(tmp_path):
    write(tmp_path / "a.txt", "Мост")
    write(tmp_path / "B.MD", "# Дом\n\nСад")
    write(tmp_path / ".hidden.txt", "нет")
    write(tmp_path / "c.djvu", b"AT&TFORM")
    said: list[str] = []
    works = list(read_books(Books(paths=[str(tmp_path)], author="Народ"), said.append))
    assert [(work.work, work.text, work.author) for work in works] == [
        ("B", "Дом\nСад", "Народ"),
        ("a", "Мост", "Народ"),
    ]
    assert said == [f"{tmp_path}: passed over, as their suffixes are no book's: c.djvu"]


def test_a_folder_without_books_names_the_formats(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*\.txt or \*\.md or .*\*\.epub or \*\.docx or \*\.pdf"):
        list(read_books(Books(paths=[str(tmp_path)])))


def test_two_formats_of_one_work_are_refused(tmp_path):
    write(tmp_path / "a.txt", "Мост")
    write(tmp_path / "a.fb2.zip", b"")
    with pytest.raises(UserError, match="would both be the work 'a'; rename one"):
        list(read_books(Books(paths=[str(tmp_path)])))


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html", ".fb2", ".fb2.zip", ".epub", ".docx", ".pdf"])
def test_an_empty_file_is_refused_in_every_format(tmp_path, suffix):
    refusal(write(tmp_path / f"a{suffix}", b""))


@pytest.mark.parametrize("suffix", [".fb2", ".fb2.zip", ".epub", ".docx", ".pdf"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_one_sentence_in_every_format(tmp_path, suffix, content):
    refusal(write(tmp_path / f"a{suffix}", content))


@pytest.mark.parametrize(
    ("suffix", "package"), [(".fb2", "lxml"), (".html", "lxml"), (".pdf", "pypdf"), (".md", "markdown_it")]
)
def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch, suffix, package):
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(extras, "import_module", absent)
    sentence = refusal(write(tmp_path / f"a{suffix}", "Дом и сад"))
    assert f"reading it needs {package}, which is not installed; pip install 'shridhar_ft[books]'" in sentence


# ------------------------------------------------------------------------------------------------- HTML

PAGE = """<!DOCTYPE html><html><head><meta charset="{charset}"><title>Дом
 у моря</title><meta name="author" content="А. Б."><style>p {{}}</style><script>var a = "x";</script></head>
<body><nav><a href="#1">Глава 1</a></nav><h1>Глава 1.<br>Дом</h1><p>Было &mdash; и <b>ут</b>ро,
 и&nbsp;день.<p>Незакрытый<img src="a.png"> абзац<div>Строка<br/>и строка<ul><li>раз<li>два</ul></div>
<table><tr><td>а</td><td>б</td></tr></table><pre>как
есть</pre><h2>Сад</h2>голый текст<!-- замечание --></body></html>"""


@pytest.mark.parametrize(
    ("charset", "encoding"), [("windows-1251", "cp1251"), ("utf-8", "utf-8"), ("koi8-r", "koi8-r")]
)
def test_html_in_the_encoding_that_it_declares(tmp_path, charset, encoding):
    file = write(tmp_path / "dom.html", PAGE.format(charset=charset).encode(encoding))
    document, said = read(file)
    assert document.text.split("\n") == [
        "Глава 1. Дом", "Было — и утро, и\xa0день.", "Незакрытый абзац", "Строка", "и строка", "раз", "два", "а б",
        "как", "есть", "Сад", "голый текст",
    ]  # fmt: skip
    assert (document.work, document.title, document.author) == ("dom", "Дом у моря", "А. Б.")
    assert document.chapters == ("Глава 1. Дом", "Сад") and said == []


def test_html_that_declares_nothing_is_detected_and_a_wrong_declaration_told(tmp_path):
    body = "".join(f"<p>{line}</p>" for line in RUSSIAN.split("\n"))
    document, said = read(write(tmp_path / "a.htm", body.encode("cp1251")))
    assert document.text == RUSSIAN.strip() and "encoding cp1251" in said[0]
    file = write(tmp_path / "b.html", ('<meta charset="koi8-r">' + body).encode("cp1251"))
    assert "it reads as cp1251, not as koi8-r; mend what it declares" in refusal(file)


def test_deeply_nested_html_is_read(tmp_path):
    file = write(tmp_path / "a.html", "<div>" * 200 + "дно" + "</div>" * 200 + "<p>и верх")
    assert read(file)[0].text == "дно\nи верх"
    sentence = refusal(write(tmp_path / "a.html", "<div>" * 3000 + "дно" + "</div>" * 3000 + "<p>и верх"))
    assert "a.html:1: the HTML cannot be read (Excessive depth" in sentence


def test_html_with_a_paragraph_of_many_megabytes_is_read_whole(tmp_path):
    file = write(tmp_path / "a.html", "<p>" + "слово " * 1_000_000 + "<p>конец")
    assert read(file)[0].text.endswith(" слово\nконец")


# --------------------------------------------------------------------------------------------- Markdown


def test_markdown(tmp_path):
    text = (
        "---\ntitle: Дом\nauthor: [А. Б., В. Г.]\n---\n\n# Глава 1\n\nБыло *утро*\nи [день](http://a.b).\n\n"
        "- раз\n- два\n\n<script>x</script>\n\nСад\n===\n\n> цитата  \n> и ещё\n\n"
        "```\nкод\nи код\n```\n\n![рис](a.png)\n"
    )
    document, _ = read(write(tmp_path / "a.md", text))
    assert document.text.split("\n") == [
        "Глава 1",
        "Было утро и день.",
        "раз",
        "два",
        "Сад",
        "цитата",
        "и ещё",
        "код",
        "и код",
    ]
    assert (document.title, document.author) == ("Дом", "А. Б., В. Г.")
    assert document.chapters == ("Глава 1", "Сад")


def test_the_first_heading_is_the_title_of_markdown_without_front_matter(tmp_path):
    assert read(write(tmp_path / "a.md", "# Дом\n\nи *сад*"))[0].title == "Дом"
    assert read(write(tmp_path / "a.md", "## Дом\n\nи сад"))[0].title == ""
    nested = "---\na: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{b}, *{b}]\n" for b, c in pairwise("abcdefghijklmnopqrstuvw")
    )
    assert read(write(tmp_path / "a.md", nested + "title: *w\n---\n## Дом"))[0].title == ""
    assert "the front matter is no YAML" in refusal(write(tmp_path / "a.md", "---\na: [\n---\nтекст"))


# ------------------------------------------------------------------------------------------------- FB2

FB2 = """<?xml version="1.0" encoding="{encoding}"?>
<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink">
<description><title-info><genre>prose</genre><author><first-name>Лев</first-name><last-name>Толстой</last-name></author>
<book-title>Дом у моря</book-title><annotation><p>не текст</p></annotation></title-info></description>
<body><title><p>Лев Толстой</p><p>Дом</p></title><epigraph><p>Эпиграф.</p><text-author>Он</text-author></epigraph>
<section><title><p>Часть первая</p></title><section><title><p>Глава I.</p><p>Утро</p></title>
<p>Было&nbsp;<emphasis>утро</emphasis><a l:href="#n1" type="note">[1]</a>,
  и день.</p><empty-line/><image l:href="#p"/><poem><stanza><v>Стих один</v><v>стих два</v></stanza></poem>
<subtitle>* * *</subtitle><table><tr><td>а</td><td>б</td></tr></table><p>Конец &lt;главы&gt;.</p></section>
</section></body><body name="notes"><section id="n1"><title><p>1</p></title><p>Примечание.</p></section></body>
<binary id="p" content-type="image/png">{picture}</binary></FictionBook>"""
FB2_LINES = [
    "Лев Толстой. Дом", "Эпиграф.", "Он", "Часть первая", "Глава I. Утро", "Было\xa0утро, и день.", "Стих один",
    "стих два", "* * *", "а б", "Конец <главы>.",
]  # fmt: skip


def zipped(entries: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1251", "utf-16"])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_fb2(tmp_path, encoding, is_zipped):
    raw = FB2.format(encoding=encoding, picture="iVBORw0KGgo" * 10).encode(encoding)
    if encoding == "utf-16":  # entities by name are XML's own only
        raw = FB2.format(encoding=encoding, picture="").replace("&nbsp;", "\xa0").encode(encoding)
    name, content = ("dom.fb2.zip", zipped({"dom.fb2": raw})) if is_zipped else ("dom.fb2", raw)
    document, said = read(write(tmp_path / name, content))
    assert document.text.split("\n") == FB2_LINES
    assert (document.work, document.title, document.author) == ("dom", "Дом у моря", "Лев Толстой")
    assert document.chapters == ("Часть первая", "Глава I. Утро")
    assert said == [f"{name}: 12 characters of notes are left out"]


def test_a_fb2_with_pictures_of_many_megabytes_is_read(tmp_path):
    file = write(tmp_path / "a.fb2", FB2.format(encoding="utf-8", picture="iVBORw0KGgo" * 1_500_000))
    assert read(file)[0].text.split("\n") == FB2_LINES


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ха'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("<FictionBook><body><p>а", "it is not well-formed XML"),
        ("<html><body><p>а</p></body></html>", "no FictionBook"),
        (f"{LAUGHS}<FictionBook><body><p>&a11;</p></body></FictionBook>", "XML"),
        (f"{LAUGHS}<FictionBook b='&a11;'><body><p>а</p></body></FictionBook>", "XML"),
        ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><FictionBook><body><p>&x;</p></body></FictionBook>",
         "declares XML entities"),
        ('<?xml version="1.0" encoding="no-such"?><FictionBook/>', "not well-formed XML"),
    ],
)  # fmt: skip
def test_bad_fb2(tmp_path, xml, sentence):
    assert sentence in refusal(write(tmp_path / "a.fb2", xml))


def test_unclosed_pictures_cost_no_time_and_are_told(tmp_path):
    file = write(tmp_path / "a.fb2", "<FictionBook>" + "<binary>" * 300_000)
    assert "not well-formed XML" in refusal(file)


# ------------------------------------------------------------------------------------------------ archives


def test_archives_that_are_wrong(tmp_path, monkeypatch):
    file = tmp_path / "a.fb2.zip"
    good = FB2.format(encoding="utf-8", picture="")
    assert "leads out of the archive" in refusal(write(file, zipped({"../a.fb2": good})))
    assert "leads out of the archive" in refusal(write(file, zipped({"/etc/a.fb2": good})))
    assert "leads out of the archive" in refusal(write(file, zipped({"C:\\a.fb2": good})))
    assert "0 .fb2 files are in it" in refusal(write(file, zipped({"a.fb2.zip": zipped({"a.fb2": good})})))
    assert "2 .fb2 files are in it" in refusal(write(file, zipped({"a.fb2": good, "b.fb2": good})))
    assert "times its size, as no book does" in refusal(write(file, zipped({"a.fb2": "а" * 3_000_000})))
    whole = zipped({"a.fb2": good})
    assert "no whole ZIP archive" in refusal(write(file, whole[:-30]))
    broken = bytearray(whole)
    broken[60] ^= 0xFF
    assert "is damaged" in refusal(write(file, bytes(broken)))
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    assert "it is encrypted" in refusal(write(file, bytes(encrypted)))
    assert "it is a RAR archive" in refusal(write(file, b"Rar!\x1a\x07\x00" + bytes(50)))
    monkeypatch.setattr(archives, "MOST", 1000)
    assert "books are read up to" in refusal(write(file, whole))


@pytest.mark.parametrize("suffix", [".fb2.zip", ".docx"])
def test_an_entry_that_holds_more_than_it_says_is_refused_without_being_unpacked(tmp_path, suffix):
    import tracemalloc

    name = "a.fb2" if suffix == ".fb2.zip" else "word/document.xml"
    raw = bytearray(zipped({name: bytes(120_000_000)}))
    central = raw.index(b"PK\x01\x02")
    for place in (22, central + 24):  # sizes in the local header and in the directory
        raw[place : place + 4] = (1000).to_bytes(4, "little")
    file = write(tmp_path / f"a{suffix}", bytes(raw))
    tracemalloc.start()
    sentence = refusal(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "is damaged" in sentence and peak < 50_000_000


# ------------------------------------------------------------------------------------------------- EPUB

CONTAINER = """<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""
OPF = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Дом у моря</dc:title><dc:creator>Лев Толстой</dc:creator>
</metadata><manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="b" href="text/2.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="text/1%20a.xhtml" media-type="application/xhtml+xml"/>
<item id="n" href="text/n.xhtml" media-type="application/xhtml+xml"/><item id="c" href="c.css" media-type="text/css"/>
</manifest><spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/><itemref idref="n" linear="no"/>
</spine></package>"""
XHTML = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"
 xmlns:epub="http://www.idpf.org/2007/ops"><head><title/></head><body>{}</body></html>"""
EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OEBPS/content.opf": OPF,
    "OEBPS/nav.xhtml": XHTML.format("<nav epub:type='toc'><ol><li>Глава 1</li></ol></nav>"),
    "OEBPS/text/1 a.xhtml": XHTML.format(
        "<h1>Глава 1</h1><p>Было&nbsp;утро<a epub:type='noteref' href='#n'>1</a>.</p>"
        "<span epub:type='pagebreak'>7</span>"
        "<aside epub:type='footnote' id='n'><p>Примечание.</p></aside><p><a id='x'/>И день.</p>"
    ),
    "OEBPS/text/2.xhtml": XHTML.format("<h2>Глава 2</h2><p>Ночь.</p><script>x</script>"),
    "OEBPS/text/n.xhtml": XHTML.format("<p>Ещё примечание.</p>"),
    "OEBPS/c.css": "p {}",
}


def test_epub(tmp_path):
    document, said = read(write(tmp_path / "dom.epub", zipped(EPUB)))
    assert document.text.split("\n") == ["Глава 1", "Было\xa0утро.", "И день.", "Глава 2", "Ночь."]
    assert (document.title, document.author) == ("Дом у моря", "Лев Толстой")
    assert document.chapters == ("Глава 1", "Глава 2")
    assert said == ["dom.epub: 1 notes and 1 documents outside the reading order are left out"]


LOCKED = """<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData><e:CipherData>
<e:CipherReference URI="{}"/></e:CipherData></e:EncryptedData></encryption>"""


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"a.txt": "x"}, "no EPUB (META-INF/container.xml is missing)"),
        (EPUB | {"META-INF/encryption.xml": LOCKED.format("OEBPS/text/2.xhtml")}, "its text is encrypted (DRM)"),
        ({k: v for k, v in EPUB.items() if "2.xhtml" not in k}, "OEBPS/text/2.xhtml, a part of the book, is not in it"),
        ({k: v for k, v in EPUB.items() if "opf" not in k}, "the package file that META-INF/container.xml names"),
        (EPUB | {"OEBPS/content.opf": "<package/>"}, "names no documents to read"),
        (EPUB | {"OEBPS/content.opf": f"{LAUGHS}<package>&a11;</package>"}, "XML"),
        (EPUB | {"OEBPS/text/2.xhtml": "а" * 3_000_000}, "times its size"),
    ],
)
def test_bad_epub(tmp_path, entries, sentence):
    assert sentence in refusal(write(tmp_path / "a.epub", zipped(entries)))


def test_an_epub_with_encrypted_fonts_is_read(tmp_path):
    entries = EPUB | {"META-INF/encryption.xml": LOCKED.format("OEBPS/fonts/a.otf")}
    assert read(write(tmp_path / "a.epub", zipped(entries)))[0].chapters == ("Глава 1", "Глава 2")


# ------------------------------------------------------------------------------------------------- DOCX


def test_docx(tmp_path):
    import docx

    made = docx.Document()
    made.core_properties.title, made.core_properties.author = "Дом у моря", "Лев Толстой"
    made.add_heading("Глава 1", level=1)
    paragraph = made.add_paragraph("Было ")
    paragraph.add_run("утро").bold = True
    paragraph.add_run().add_break()
    paragraph.add_run("и день.")
    table = made.add_table(rows=1, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "а"
    table.cell(0, 2).text = "б"
    made.add_heading("Сад", level=2)
    made.add_paragraph("Ночь.")
    made.sections[0].header.paragraphs[0].text = "колонтитул"
    made.save(str(tmp_path / "dom.docx"))
    document, said = read(tmp_path / "dom.docx")
    assert document.text.split("\n") == ["Глава 1", "Было утро", "и день.", "а б", "Сад", "Ночь."]
    assert (document.title, document.author) == ("Дом у моря", "Лев Толстой")
    assert document.chapters == ("Глава 1", "Сад") and said == []


def test_bad_docx(tmp_path):
    assert "no whole Word document" in refusal(write(tmp_path / "a.docx", zipped({"word/document.xml": "<a/>"})))
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    assert "it is an old or encrypted Word document" in refusal(write(tmp_path / "a.docx", old))


# -------------------------------------------------------------------------------------------------- PDF


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF whose only font tells with a ToUnicode table that its codes are cp1251's."""
    table = "".join(f"<{byte:02X}> <{ord(bytes([byte]).decode('cp1251')):04X}>\n" for byte in range(0xC0, 0x100))
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        "1 begincodespacerange <00> <FF> endcodespacerange\n"
        f"64 beginbfchar\n{table}endbfchar\nendcmap end end"
    ).encode()
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (6 + 2 * number) for number in range(len(pages)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 4 0 R >>",
        b"<< /Length %d >> stream\n%s\nendstream" % (len(cmap), cmap),
        b"<< /Title <FEFF%s> /Author (L. Tolstoy) >>" % "Дом".encode("utf-16-be").hex().encode(),
    ]
    for number, lines in enumerate(pages):
        shown = b"".join(
            b"1 0 0 1 50 %d Tm (%s) Tj\n" % (800 - 14 * at, line.encode("cp1251"))
            for at, line in enumerate(lines)
            if line
        )
        shown = b"BT /F 12 Tf\n" + shown + b"ET" if shown else b""
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (7 + 2 * number)
        )
        bodies.append(b"<< /Length %d >> stream\n%s\nendstream" % (len(shown), shown))
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"<< /Size %d /Root 1 0 R /Info 5 0 R >>" % (len(bodies) + 1)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n%s\nstartxref\n%d\n%%%%EOF" % (
        len(bodies) + 1, xref, trailer, len(out),
    )  # fmt: skip


LINES = [
    "Глава 1", "Я возвращался домой полями и только что собира-", "лись косить рожь. Есть прелестный подбор цветов",
    "этого времени года.", "Луга убрали и только что собирались косить рожь", "и луга.",
    "- Кто там, спросил он у меня,", "и ушел.",
]  # fmt: skip


def test_pdf(tmp_path):
    document, said = read(write(tmp_path / "dom.pdf", pdf([LINES, LINES[1:3], []])))
    assert [line.strip("\x0c") for line in document.text.split("\n")][:4] == [
        "Глава 1",
        "Я возвращался домой полями и только что собирались косить рожь. Есть прелестный подбор цветов "
        "этого времени года.",
        "Луга убрали и только что собирались косить рожь и луга.",
        "- Кто там, спросил он у меня, и ушел.",
    ]
    assert document.text.count("\x0c") == 2
    assert (document.work, document.title, document.author) == ("dom", "Дом", "L. Tolstoy")
    assert said == ["dom.pdf: 1 of its 3 pages hold no text"]


def test_page_numbers_and_running_heads_of_a_pdf_stay_apart_and_sentences_go_over_pages(tmp_path):
    first, second = "Луга убрали и только что собирались косить рожь,", "которая уже поспела на полях, и на лугах."
    pages = [["Л. Толстой", first, str(number)] for number in range(3)]
    lines = read(write(tmp_path / "a.pdf", pdf(pages)))[0].text.replace("\x0c", "").split("\n")
    assert lines == [line for page in pages for line in page]
    document, _ = read(write(tmp_path / "b.pdf", pdf([["Лето", first], [second, first], [second]])))
    assert document.text == f"Лето\n{first} {second} {first} {second}"


def test_the_outline_of_a_pdf_gives_its_chapters(tmp_path):
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf([LINES, ["Глава 2", *LINES[1:]]])))
    parent = writer.add_outline_item(title="Глава 1", page_number=0)
    writer.add_outline_item(title="Нет такой строки", page_number=0, parent=parent)
    writer.add_outline_item(title="Глава 2", page_number=1, parent=parent)
    writer.write(str(tmp_path / "a.pdf"))
    assert read(tmp_path / "a.pdf")[0].chapters == ("Глава 1", "Глава 2")


def test_bad_pdf(tmp_path):
    import pypdf

    assert "2 of its 3 pages hold no text: it is a scan; put it through OCR" in refusal(
        write(tmp_path / "a.pdf", pdf([LINES, [], []]))
    )
    whole = pdf([LINES])
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(whole))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(str(tmp_path / "a.pdf"))
    assert "it is encrypted; save a copy without password" in refusal(tmp_path / "a.pdf")
    assert "no whole PDF" in refusal(write(tmp_path / "a.pdf", b"%PDF-1.4\nnothing"))
    assert "no whole PDF" in refusal(write(tmp_path / "a.pdf", RUSSIAN))
