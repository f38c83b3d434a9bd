"""`data diff`: the steps of a book before and after, for people and as JSON."""

import io
import json

import pytest
from rich.console import Console

from shridhar_ft.data.diff import render, show
from shridhar_ft.errors import UserError

TEXT = "Метель\n\nКак\xa0только стало тем\xadно, он вы\xadшел и долго\u2028шёл  вдоль реки.\n" + "Он шёл и шёл.\n" * 30


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "metel.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


def printed(shown):
    console = Console(width=200, record=True, force_terminal=True, color_system="standard", file=io.StringIO())
    render(shown, console)
    return console.export_text(styles=False, clear=False), console.export_text(styles=True)


def test_every_step_that_did_something_is_shown_with_its_changes(book):
    shown = show(book)
    assert list(shown["steps"]) == ["line_separators", "soft_hyphens", "spaces"]
    step = shown["steps"]["soft_hyphens"]
    assert (step["changed"], step["shortened"], len(step["changes"])) == (2, 2, 2)
    first = step["changes"][0]
    assert (first["line"], first["removed"], first["inserted"]) == (3, "\xad", "")
    assert first["before"].replace("\xad", "") == first["after"]
    assert shown["characters"]["before"] - shown["characters"]["after"] == sum(
        step["shortened"] for step in shown["steps"].values()
    )
    assert json.loads(json.dumps(shown)) == shown


def test_what_cannot_be_seen_is_made_visible_and_what_went_is_red(book):
    plain, coloured = printed(show(book))
    for sign in ("‹SHY›", "Как␣", "‹LS›"):
        assert sign in plain
    assert "\xad" not in plain and "\u2028" not in plain
    assert "\x1b[9;31m‹SHY›" in coloured and "\x1b[32m" in coloured


def test_brackets_in_the_book_are_no_markup(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("[red]да\xad[/red] и [1] было.\n" * 5, encoding="utf-8")
    assert "[red]да‹SHY›[/red] и [1]" in printed(show(str(file)))[0]


def test_switches_and_the_step_wanted_are_obeyed(book):
    assert list(show(book, ["soft_hyphens=false", "data.clean.line_separators=false"])["steps"]) == ["spaces"]
    one = show(book, step="soft_hyphens", most=1)
    assert list(one["steps"]) == ["soft_hyphens"] and len(one["steps"]["soft_hyphens"]["changes"]) == 1
    assert "no step changes anything" in printed(show(book, step="nfc"))[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"overrides": ["soft_hyphen=false"]}, "soft_hyphens"),
        ({"overrides": ["nfc"]}, "nfc"),
        ({"overrides": ["nfc=perhaps"]}, "nfc"),
        ({"step": "pii"}, "hyphenation"),
        ({"file": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_what_does_not_exist_is_refused_with_one_sentence(book, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        show(**{"file": book, **arguments})
