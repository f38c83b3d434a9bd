"""The run's page: stands alone, says every receipt, in both languages, of whole, half and failed runs; no dialogue."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from run_folders import SECRET, failed_run, finished_run, half_run

from shridhar_ft.cli import run_command
from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.ends import REASONS
from shridhar_ft.evaluation.measures import ONE_ITEM, UNDEFINED
from shridhar_ft.evaluation.ngrams import GRAMS
from shridhar_ft.receipts import receipt_files
from shridhar_ft.report.bars import scale
from shridhar_ft.report.collect import HIDDEN, collect, find_run
from shridhar_ft.report.pages import HERE
from shridhar_ft.report.plots import digits, thinned, ticks
from shridhar_ft.report.run_page import run_page
from shridhar_ft.report.tongue import LANGUAGES, Tongue, phrases, words
from shridhar_ft.runfolder import read_json, write_json
from shridhar_ft.shipped import PACKAGE

VOID = {"meta", "br"}
RUNS = {"finished": finished_run, "half": half_run, "failed": failed_run}


class Reader(HTMLParser):
    """Reads a page: every tag closed where it should be, its text, and of each plot its title and description."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict]] = []
        self.pieces: list[str] = []
        self.plots: list[dict[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag == "svg":
            self.plots.append({"role": dict(attrs).get("role", "")})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag
        self.pieces.append(" ")

    def handle_data(self, data):
        if self.open and self.open[-1] in ("title", "desc") and "svg" in self.open:
            if self.open[-2] == "svg":
                self.plots[-1][self.open[-1]] = data
        elif "style" not in self.open:
            self.pieces.append(data)


@pytest.fixture(params=[(kind, language) for kind in RUNS for language in LANGUAGES], ids=" ".join)
def page(request, tmp_path):
    kind, language = request.param
    run = RUNS[kind](tmp_path)
    record = collect(run)
    html = run_page(record, Tongue(language))
    return kind, language, run, record, html, Reader(html)


def test_a_page_stands_alone_and_each_plot_has_its_words(page) -> None:
    kind, language, _, _, html, read = page
    assert not re.search(r"https?://|url\(|@import|<script|<img|<link", html)
    assert not [tag for tag, attributes in read.attributes if {"src", "href"} & attributes.keys()]
    assert f'<html lang="{language}">' in html and "prefers-color-scheme: dark" in html and "@media print" in html
    assert len(read.plots) == {"finished": 1 + 4 + 1 + 6 + 4 + 1 + 3, "half": 3, "failed": 2}[kind]
    for plot in read.plots:
        assert plot["role"] == "img" and plot["title"] and re.search(r"\d", plot["desc"]), plot
    tables = sum(tag == "details" for tag, _ in read.attributes)
    assert tables >= len(read.plots) // 3


def test_every_receipt_is_told_and_nothing_said_in_a_dialogue_is(page) -> None:
    kind, language, run, record, html, read = page
    files = receipt_files(run.root)
    assert len(record.receipts) == len(files) == {"finished": 2 + 4 * 7 + 1 + 1, "half": 6, "failed": 6}[kind]
    for row in files:
        name = read_json(row)["receipt"]
        part = "export" if name == "certificate" else str(row.parent.parent.relative_to(run.root))
        assert f"{part} {name}" in read.text
    assert "Агафья" not in html and SECRET[:9] not in html
    if kind == "finished":
        assert SECRET in (run.sft / "receipts/mask.json").read_text(encoding="utf-8"), "it was there to be shown"
        assert HIDDEN in read.text
    assert (words()["receipts_fail"][language].split("{")[0].strip() in read.text) or kind != "failed"


def test_what_is_missing_is_said(page) -> None:
    kind, language, _, _, _, read = page
    told = Tongue(language)
    if kind == "finished":
        assert told.say("missing") not in read.text and told.say("state_done") in read.text
    if kind == "half":
        assert told.say("missing_begun", part="stages/8k", step=25) in read.text
        assert told.say("missing_part", part="export") in read.text and told.say("plan_none") in read.text
    if kind == "failed":
        assert told.say("missing_file", file="stages/8k/metrics.jsonl:7") in read.text
        assert told.say("missing_file", file="stages/8k/before.json") in read.text
        assert "the isolation receipt does not hold" in read.text and "take another attention" in read.text


def test_a_page_says_what_the_files_say(tmp_path: Path) -> None:
    text = Reader(run_page(collect(finished_run(tmp_path)), Tongue("en"))).text
    for said in (
        "All 32 receipts hold.",
        "data ledger yes characters read + added = kept + removed 1,980 kept, difference 0",
        "stages/32k handover yes starts from the weights of stages/8k: 111111111111 111111111111",
        "RoPE yarn, default, 1,728 tokens",
        "peak 1.00 GiB, a step 0.50 s",
        "peak 1.10 GiB (+10%), a step 0.60 s (+20%)",
        "own pairs, sum log-probability 62.0% [55.0%; 70.0%], n = 40; higher is better",
        "style acceptance S – undefined: the verifier accepts 10% of the author and 5% of the floor ratio, n = 40",
        "Not measured: dialogue: the model has no chat template",
        "stages/8k 000000000000 0abc0abc0abc 60 s 1.00 GiB",
        "32k · the beginning of the prompt did not fit its window · of weights before the last training",
        "not shown: it repeats a dialogue",
        "has no chat template",
        "shridhar-ft chat",
    ):
        assert said in text, said


def test_russian_pages_hold_no_english_sentence_of_a_known_kind(tmp_path: Path) -> None:
    text = Reader(run_page(collect(finished_run(tmp_path)), Tongue("ru"))).text
    for english in (
        "First training",
        "log-probability",
        "not measured",
        "every pair right",
        "conversations with",
        "holds",
    ):
        assert english not in text, english
    assert "22 908 различных токенов" in text and "62,0 %" in text and "пары из своих книг, сумма логарифмов" in text


def test_the_command_writes_where_it_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    run = finished_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_command(["report", "whole", "--no-samples", "--lang", "ru", "-o", "page.html", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == "page.html" and len(told["receipts"]) == 32 and told["missing"] == []
    assert 'lang="ru"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert run_command(["report", str(run.root), "--no-samples"]) == 0
    assert 'lang="en"' in (run.root / "report.html").read_text(encoding="utf-8")
    assert run_command(["report", "whole", "--lang", "de"]) == 2 and "--lang de" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run there"):
        find_run("nowhere-at-all")
    with pytest.raises(UserError, match="did you mean 'whole'"):
        find_run("whloe")
    with pytest.raises(UserError, match="did you mean 'shelf-108k'"):
        find_run("recipes/shelf-180k")
    Path("bad.yaml").write_text("name: r\nmodle: {}\n", encoding="utf-8")
    with pytest.raises(UserError, match="unknown key 'modle'; did you mean 'model'"):
        find_run("bad.yaml")
    with pytest.raises(UserError, match="nothing was run yet"):
        find_run("demo")


def test_an_unknown_receipt_and_text_in_a_known_one_show_no_words(tmp_path: Path) -> None:
    run = half_run(tmp_path)
    secret = {"receipt": "new", "ok": True, "claimed": {"text": SECRET}, "measured": {"list": [SECRET, "nan", 3]}}
    write_json(run.sft / "receipts" / "new.json", secret)
    record = collect(run)
    assert record.receipts["sft/receipts/new.json"]["measured"] == {"list": [HIDDEN, "nan", 3]}
    assert "Агафья" not in run_page(record, Tongue("en"))


def test_markup_in_names_and_messages_is_text(tmp_path: Path) -> None:
    run = half_run(tmp_path)
    run.status(2, "<script>alert(1)</script>", "<img src=x>{{ 7 * 7 }}")
    page = run_page(collect(run), Tongue("en"))
    assert "<script" not in page and "<img" not in page and "{{ 7 * 7 }}" in page


# ------------------------------------------------------------------------------------------------- languages


def test_every_word_is_there_in_both_languages_with_the_same_places() -> None:
    for key, said in words().items():
        assert said.keys() == set(LANGUAGES), key
        assert len({frozenset(re.findall(r"{(\w+)}", text)) for text in said.values()}) == 1, key


def test_no_word_is_left_over_and_none_is_lacking() -> None:
    sources = [path.read_text(encoding="utf-8") for path in HERE.glob("*") if path.suffix in (".py", ".html")]
    quoted = set(re.findall(r"""["'](\w+)["']""", "\n".join(sources)))
    made = {f"needle_{way}" for way in ("exact", "choice")} | {f"kind_{kind}" for kind in ("books", "dialogues")}
    made |= {"train", "validation", "test"}
    assert not words().keys() - quoted - made
    asked = set(re.findall(r"""\b(?:t|say)\(\s*["'](\w+)["']""", "\n".join(sources)))
    assert not asked - words().keys() and len(asked) > 100


def sentences_of(folder: Path, *files: str) -> set[str]:
    """Names of measures, their ends and targets, and the sentences on data, as examples with a number in each place."""

    def example(node: ast.expr) -> list[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.JoinedStr):
            return ["".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values)]
        if isinstance(node, ast.IfExp):
            return [*example(node.body), *example(node.orelse)]
        if isinstance(node, ast.BinOp):
            return [a + b for a in example(node.left) for b in example(node.right)]
        return []

    found = set()
    for file in files:
        for node in ast.walk(ast.parse((folder / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Measure", "Unmeasured"):
                found |= set(example(node.args[0]))
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "append" and node.args:
                found |= {text for text in example(node.args[0]) if " " in text}
            if isinstance(node, ast.Assign):
                targets = [one for t in node.targets for one in (t.elts if isinstance(t, ast.Tuple) else [t])]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for target, value in zip(targets, values, strict=False):
                    if getattr(target, "attr", "") in ("floor_of", "ceiling_of", "target", "lacking"):
                        found |= set(example(value))
                    if getattr(target, "id", "") == "sentence":
                        found |= set(example(value))
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and file == "sufficiency.py":
                found |= {text for part in node.value.elts for text in example(part) if " " in text and "." in text}
    return found


def test_what_an_evaluation_and_a_verdict_say_is_known_in_russian() -> None:
    files = [path.name for path in (PACKAGE / "evaluation").glob("*.py")]
    said = sentences_of(PACKAGE / "evaluation", *files) | sentences_of(PACKAGE, "sufficiency.py")
    said |= {*REASONS, GRAMS, ONE_ITEM, UNDEFINED}
    assert len(said) > 60
    # `7` stands in a place where only a few words can: how log-probabilities are taken together, which counts.
    asked = {text.replace(", 7 log", ", sum log").replace("7 counts", "bigram counts") for text in said}
    asked = {re.sub(r"(?<=at 7), 7$", ", exact", text) for text in asked}
    asked = {text.replace("7, sum log", "RuBLiMP, sum log") for text in asked}
    unknown = [text for text in sorted(asked) if not any(pattern.fullmatch(text) for pattern, _ in phrases())]
    assert not unknown
    for english, russian in yaml.safe_load((HERE / "phrases.yaml").read_text(encoding="utf-8")).items():
        assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", russian)), english


def test_numbers_are_written_as_the_language_writes_them() -> None:
    english, russian = Tongue("en"), Tongue("ru")
    assert (english.number(1234567), russian.number(1234567)) == ("1,234,567", "1\xa0234\xa0567")
    assert (english.share(0.123), russian.share(0.123)) == ("12.3%", "12,3\xa0%")
    assert (english.signed(-0.5), russian.signed(-0.5)) == ("−0.500", "−0,500")
    assert (english.time(90.0), english.time(600.0), english.time(9000.0)) == ("90\xa0s", "10\xa0min", "2.5\xa0h")
    assert russian.compact(37_000) == "37\xa0тыс." and english.compact(37_000) == "37K"
    assert english.memory(2**31) == "2.00\xa0GiB" and english.number(None) == "–"
    assert russian.sentence("loss (windows)") == "потери (окна без наложения)" and russian.sentence("new") == "new"


# ------------------------------------------------------------------------------------------------------ plots


def test_ticks_are_round_inside_and_told_apart() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100] and ticks(5.9, 7.1) == [6.0, 6.25, 6.5, 6.75, 7.0]
    assert ticks(-0.03, 0.04) == [-0.02, 0.0, 0.02, 0.04] and ticks(3, 3) == [3]
    assert digits([6.0, 6.25]) == 2 and digits([0, 20]) == 0


def test_long_curves_are_thinned_to_their_ends_and_holes_left_out() -> None:
    points = [(float(step), 1.0) for step in range(5000)]
    kept = thinned([*points, (5000.0, float("nan"))])
    assert len(kept) == 400 and kept[0] == points[0] and kept[-1] == points[-1]


def test_a_score_stands_where_its_number_is() -> None:
    svg = scale(0.5, (0.4, 0.6), 0.25, 1.0, True, "x", "y")
    assert 'class="score-dot" cx="220.0"' in svg and 'class="band" x="111.5"' in svg
