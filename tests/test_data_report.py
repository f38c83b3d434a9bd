"""The data's page: whole, escaped, without script or network, and without a word of what people said."""

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.histogram import Histogram
from shridhar_ft.report.changes import show_change
from shridhar_ft.report.data_page import data_page, write_data_page
from shridhar_ft.report.data_report import check_numbers_only
from shridhar_ft.report.svg import compact, histogram, share_bars
from shridhar_ft.runfolder import Run, write_json

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link", "input"}


class Checker(HTMLParser):
    """Collects tags and text, and that every tag is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag
        self.text += " " * (tag in ("td", "th", "dt", "dd"))

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def characters(kept: int, **removed: int) -> dict:
    return {"in": kept + sum(removed.values()), "kept": kept, "removed": removed, "added": {}, "changed": removed}


@pytest.fixture
def report() -> dict:
    size = {"rows": 10, "characters": 1000}
    return {
        "books": {
            "characters": characters(3000, soft_hyphens=40, near_duplicate=960),
            "rows": 30,
            "decontaminated": {"sentences": 17},
            "files": [{"source": EVIL, "characters": characters(3000), "rows": 30, "notes": [f"cp1251 {EVIL}"]}],
            "examples": {
                "soft_hyphens": [{"before": f"сто\u00adял {EVIL}", "after": f"стоял {EVIL}", "where": EVIL}] * 12
            },
        },
        "dialogues": {
            "characters": characters(3000, duplicate=5),
            "rows": 30,
            "rows_read": {"in": 99, "dropped": {"service rows": 7}},
            "dialogues": {
                "in": 31,
                "kept": 30,
                "dropped": {"no assistant turn": 1},
                "turns": {"merged turns": 2},
                "found": {"telephone numbers": 3},
            },
            "files": [{"source": "d.jsonl", "characters": characters(3000), "rows": 30}],
        },
        "splits": {split: {"books": size, "dialogues": size} for split in ("train", "validation", "test")},
        "histograms": {
            "block characters": Histogram([900, 950, 1000, 4000]).as_dict(),
            "turns per conversation": Histogram([2, 2, 4]).as_dict(),
            "conversation characters": Histogram().as_dict(),
        },
    }


@pytest.fixture
def receipts() -> dict:
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    measured = {
        kind: {
            "shares": shares,
            "runs_of_13_words": {split: {"runs": 50, "in_train": 0} for split in ("validation", "test")},
        }
        for kind in ("books", "dialogues")
    }
    return {
        "ledger": {"ok": True, "measured": {}},
        "split": {"ok": True, "claimed": {"shares": shares}, "measured": measured},
    }


@pytest.fixture
def verdict() -> dict:
    stage = {
        "name": "8k", "context": 8192, "packing": "documents", "tokens": 900, "dropped": 0, "documents": 5,
        "longer_than_half_a_window": 2, "longest_document": 700, "windows": 3, "filled": 0.9971, "windows_per_step": 1,
        "steps": 12, "epochs": 4.0, "kind": "adaptation", "verdict": "Adaptation to a domain.", "notes": ["A note."],
    }  # fmt: skip
    sft = {
        "context": 512, "conversations": 30, "turns": 60, "tokens": 700, "assistant_tokens": 400, "cut": 0,
        "windows": 2, "filled": 0.9, "windows_per_step": 2, "steps": 1, "epochs": 1.0, "verdict": "Few.", "notes": [],
    }  # fmt: skip
    share = {"asked": 0.8, "tokens": 0.7, "characters": 0.8}
    return {
        "tokens": {split: {"books": 300, "dialogues": 200} for split in ("train", "validation", "test")},
        "characters_per_token": {"books": 4.61, "dialogues": 3.9},
        "shares": {kind: dict.fromkeys(("train", "validation", "test"), share) for kind in ("books", "dialogues")},
        "notes": ["books: train holds 70.0% of the tokens, and 80.0% were asked for."],
        "stages": [stage],
        "sft": sft,
    }


def test_what_comes_from_sources_is_text_and_never_markup(report, receipts, verdict) -> None:
    page = Checker(data_page(EVIL, report, receipts, verdict))
    assert page.text.count("<script>alert(1)</script>") >= 10 and "{{ 7 * 7 }}" in page.text
    assert not any(tag in ("script", "img", "link", "iframe") for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)


def test_the_page_stands_alone(report, receipts, verdict) -> None:
    html = data_page("x", report, receipts, verdict)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_the_page_says_what_the_report_says(report, receipts, verdict) -> None:
    page = Checker(data_page("x", report, receipts, verdict))
    text = " ".join(page.text.split())
    for said in (
        "7K characters were read from 2 files; 85.7% of them are kept, as 30 blocks of books and 30 conversations.",
        "Every character is accounted for, and train shares no run of 13 words with the rest.",
        "near duplicate 960 24.0% 960",
        "came in 4,000, kept 3,000 1,000 25.0%",
        "rows dropped: service rows 7",
        "sentences taken out: shared with validation or test 17",
        "conversations dropped: no assistant turn 1",
        "found: telephone numbers 3",
        "books: train holds 70.0% of the tokens, and 80.0% were asked for.",
        "chapters longer than half a window 2 of 5",
        "positions filled 99.71%",
        "soft hyphens · 10",
        "4 blocks; the middle one has 866 to 999 characters.",
    ):
        assert said in text, said
    assert sum(tag == "details" for tag, _ in page.tags) == 1
    assert sum(tag == "svg" for tag, _ in page.tags) == 4  # two splits, two histograms that hold something


def test_without_verdict_histograms_or_dialogues_the_page_is_shorter(report, receipts) -> None:
    del report["histograms"], report["books"]["examples"]
    report["dialogues"] = {"characters": characters(0), "rows": 0, "files": []}
    page = Checker(data_page("x", report, receipts))
    assert "Do they suffice?" not in page.text and "Lengths" not in page.text and "Dialogues" not in page.text


def test_shared_runs_and_failed_receipts_are_told_first(report, receipts) -> None:
    shared = copy.deepcopy(receipts)
    shared["split"]["measured"]["books"]["runs_of_13_words"]["test"]["in_train"] = 12
    assert "12 runs of 13 words of validation and test stand in train too." in data_page("x", report, shared)
    receipts["ledger"]["ok"] = False
    assert "The ledger receipt does not hold" in data_page("x", report, receipts)


@pytest.mark.parametrize("key", ["examples", "text", "messages"])
def test_text_of_dialogues_is_refused_wherever_it_hides(report, receipts, key: str) -> None:
    report["dialogues"]["files"][0][key] = (
        {"step": [{"before": "тайна", "after": ""}]} if key == "examples" else "тайна"
    )
    with pytest.raises(AssertionError):
        data_page("x", report, receipts)
    check_numbers_only({"source": "a.jsonl", "notes": ["json"], "rows": 3})


def test_of_many_sources_a_hundred_are_shown_and_the_rest_counted(report, receipts) -> None:
    report["books"]["files"] *= 130
    text = Checker(data_page("x", report, receipts)).text
    assert "and 31 more, see report.json" in text and text.count("cp1251") == 100


def test_the_page_lies_in_the_data_folder(report, receipts, verdict, tmp_path: Path) -> None:
    run = Run(tmp_path / "demo")
    write_json(run.data / "report.json", report)
    for name, receipt in receipts.items():
        write_json(run.data / "receipts" / f"{name}.json", receipt)
    assert "Do they suffice?" not in write_data_page(run).read_text(encoding="utf-8")
    write_json(run.data / "verdict.json", verdict)
    path = write_data_page(run)
    assert path == run.data / "report.html" and "Do they suffice?" in path.read_text(encoding="utf-8")


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_change_shows_both_texts_whole(before: str, after: str) -> None:
    shown = show_change(before, after)
    for side, text in (("before", before), ("after", after or "∅")):
        seen = re.sub(r'<span class="sign">U\+([0-9A-F]+)</span>', lambda m: f"&#x{m[1]};", shown[side])
        seen = seen.replace('<span class="sign">↵</span>', "")
        bare = re.sub(r"</?(?:del|ins|span)(?: class=\"soft\")?>", "", seen)
        assert re.sub(r"&#x([0-9A-F]+);", lambda m: chr(int(m[1], 16)), unescape_named(bare)) == text


def unescape_named(text: str) -> str:
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        text = text.replace(name, sign)
    return text


def test_invisible_characters_are_shown_by_number() -> None:
    shown = show_change("а\u00adб\u00a0в", "аб в")
    assert shown["before"].count("<del>") == 2 and "U+00AD" in shown["before"] and "U+00A0" in shown["before"]
    assert shown["after"] == "аб<ins> </ins>в"
    assert show_change("а\n\nб", "а\nб")["before"].count("↵") == 1 and "↵" in show_change("\n", "")["before"]
    assert show_change("Оглавление", "")["after"].endswith("∅</span>")


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_a_histogram_draws_every_bin_inside_its_frame(values) -> None:
    bins = Histogram(values).as_dict()
    drawn = re.findall(
        r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', histogram(bins, "a", "b")
    )
    assert len(drawn) == len(bins["counts"])
    for bar, count in zip(drawn, bins["counts"], strict=True):
        x, y, width, height = map(float, bar)
        assert x >= 0 and x + width <= 440 and y >= 0 and (height > 0) == (count > 0)


def test_bars_are_as_long_as_their_shares() -> None:
    svg = share_bars({"asked": [0.8, 0.1, 0.1], "got": [1.0, 0.0, 0.0]}, ["train", "validation", "test"])
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height', svg)]
    assert widths[0] / (widths[1] + 1) == pytest.approx(8, rel=0.01) and widths[3] > widths[0] and widths[4] == 0


def test_large_numbers_are_said_shortly() -> None:
    said = {0: "0", 950: "950", 999: "999", 1000: "1K", 1334: "1.3K", 9999: "10K", 23_714: "24K", 7_200_000: "7.2M"}
    assert {number: compact(number) for number in said} == said
    assert compact(999_999) == "1M" and compact(1.5e9) == "1.5B"
