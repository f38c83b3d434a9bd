"""Markup in messages: what a browser would show."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Clean
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.html_text import html_text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("да<br>нет<br/>или<BR />так", "да\nнет\nили\nтак"),
        ("да<br>\nнет", "да\nнет"),
        ("<p>да</p><p class='x'>нет</p>", "да\nнет\n"),
        ("<b>да</b> и <i>нет</i>", "да и нет"),
        ('<a href="https://example.org/?a=1&amp;b=2" target=_blank>сюда</a>', "сюда"),
        ("<div style=\"color: red\">да</div><span>нет</span><img src='a.png' alt=''>", "да\nнет"),
        ("да<!-- нет --><style>p {color: red}</style><script>alert(1)</script>", "да"),
        ("&quot;да&quot;&nbsp;&mdash; &#1085;&#x435;т &lt;3 &amp; всё", '"да"\xa0— нет <3 & всё'),
        ("да&amp;lt;br&amp;gt;нет", "да\nнет"),
        ("<ul><li>раз</li><li>два</li></ul>", "раз\nдва\n\n"),
    ],
)
def test_tags_and_entities_become_what_they_show(markup, text):
    assert html_text(markup) == text
    assert html_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "a<b и b>c",
        "a<b and c>d",
        "i<5 && j>3",
        "<3",
        "<|end|>",
        "<имя>",
        "<name>",
        "<title>",
        "R&D, AT&T",
        "x=1&copy=2&lt=3",
        "<b",
        "->",
        "<br",
        "&unknown;",
        "<brave>",
    ],
)
def test_what_is_no_markup_stays(text):
    assert html_text(text) == text


def test_entities_can_forge_no_special_token():
    assert clean_text("&lt;|end|&gt;", Clean(), is_book=False).text == "<| end |>"
    assert clean_text("<|e<b></b>nd|>", Clean(), is_book=False).text == "<| end |>"


def test_books_keep_what_looks_like_markup():
    assert clean_text("<b>да</b>", Clean(), is_book=True).text == "<b>да</b>"


@given(
    st.lists(
        st.sampled_from(["<", ">", "&", ";", "br", "b", "a ", "href=", '"', "'", "lt", "#38", "/", "да", "\n", "|"])
    )
)
def test_applied_again_it_changes_nothing(pieces):
    once = html_text("".join(pieces))
    assert html_text(once) == once


@pytest.mark.parametrize(
    "one", ["<", "<a ", "<a href=", "<b \t", "&amp;", "&", "<!--", "<br>", "<script>", "<a b='", "amp;"]
)
def test_a_long_message_of_one_thing_takes_no_longer_than_any_other(one):
    started = time.perf_counter()
    html_text("<b>&" + one * (100_000 // len(one)))
    html_text("<" * 30_000 + "b>" * 30_000)
    assert time.perf_counter() - started < 2
