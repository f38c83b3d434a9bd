"""What an evaluation found beside its scores is said in plain lines, in Russian too; gains have intervals."""

import pytest

from shridhar_ft.evaluation.bytes import Settings, make
from shridhar_ft.evaluation.gain import intervals
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.measures import score
from shridhar_ft.evaluation.runner import for_json
from shridhar_ft.evaluation.view import lines
from shridhar_ft.report.tongue import Tongue
from shridhar_ft.score_details import detail_lines

WAY = {
    "effective_length": {"single_key": 8192, "two_fact": None},
    "worst_depth": {"length": 8192, "depth": 0.5, "share": 0.25},
    "supported": False,
}
DETAILS = {
    "bits_per_byte": {
        "specialisation gain": 0.125,
        "forgetting": 0.01,
        "intervals": {
            "specialisation gain": {"value": 0.125, "low": 0.1, "high": 0.15, "n": 40},
            "forgetting": {"value": 0.01, "low": None, "high": None, "n": 1},
        },
    },
    "retention": {"exact": WAY, "choice": WAY},
    "style_acceptance": {
        "delta": [["третий", 0.4], ["the author", 0.5]],
        "verifier AUC, author's calibration text against unseen authors": 0.97,
        "AUC of true continuations over generated ones (0.5: alike)": 0.8,
        "accepted of nonsense": {"the author's words shuffled": 0.36},
    },
    "term_cloze": {"unseen terms": {"right": 0.5, "low": 0.2, "high": 0.8, "n": 6}},
    "loss_by_position": {"by_position": []},
}


def test_each_number_that_must_be_seen_is_a_line() -> None:
    said = dict.fromkeys(sentence for _, sentence in detail_lines({"details": DETAILS}))
    for wanted in (
        "specialisation gain: 12.5% [10.0%, 15.0%], n = 40 below the base in bits per byte",
        "forgetting: 1.0% above the base in bits per byte",
        "effective length of single_key, exact: 8,192",
        "effective length of two_fact, choice: none",
        "worst depth at 8,192 tokens, exact: 0.50, with 25.0% right",
        "supported at 8,192 tokens, choice: no",
        "Burrows's Delta: nearest is третий at 0.400",
        "Burrows's Delta: the author's place is 2 of 2",
        "AUC of true continuations over generated ones (0.5: alike): 0.800",
        "the verifier accepts 36.0% of the author's words shuffled",
        "terms that the training text lacks: 50.0% right [20.0%, 80.0%], n = 6",
    ):
        assert wanted in said
    results = {"model": "m", "window": 8192, "seed": 1, "scores": [], "unmeasured": {}, "details": DETAILS}
    assert "retention: supported at 8,192 tokens, exact: no" in list(lines(results))


def test_each_line_is_known_in_russian() -> None:
    tongue = Tongue("ru")
    for _, sentence in detail_lines({"details": DETAILS}):
        assert tongue.sentence(sentence) != sentence, sentence
    assert (
        tongue.sentence("worst depth at 8,192 tokens, exact: 0.50, with 25.0% right")
        == "худшая глубина на 8\xa0192 токенах (ответ дословно): 0,50, верных 25,0\xa0%"
    )


def records(times: float) -> list[dict]:
    return [
        {"key": f"{side}/{n}", "side": side, "nats": times * (100 + 9 * (n % 7)), "bytes": 300 + n}
        for side in ("held-out", "others")
        for n in range(30)
    ]


def test_gain_and_forgetting_are_paired() -> None:
    found = intervals(records(0.9), records(1.0))
    gain = found["specialisation gain"]
    assert gain["value"] == pytest.approx(0.1) and gain["n"] == 30
    assert gain["low"] == pytest.approx(0.1) and gain["high"] == pytest.approx(0.1), "each passage gains alike"
    assert found["forgetting"]["value"] == pytest.approx(-0.1)
    assert intervals(records(1.0), []) == {}


def test_one_passage_has_a_gain_and_no_interval() -> None:
    ours = records(0.9)[:1]
    found = for_json(intervals(ours, records(1.0)))
    assert found == {"specialisation gain": {"value": pytest.approx(0.1), "low": None, "high": None, "n": 1}}
    assert list(detail_lines({"details": {"bits_per_byte": {"specialisation gain": 0.1, "intervals": found}}})) == [
        ("bits_per_byte", "specialisation gain: 10.0% below the base in bits per byte")
    ]


def test_the_task_says_them() -> None:
    ours, base = records(0.9), records(1.0)
    task = make(Settings(), Materials(), 1)
    found = {measure.name: score(measure, ours, 1) for measure in task.measures(ours)}
    details = for_json(task.scores(ours, found, base))
    assert details["intervals"]["specialisation gain"]["value"] == pytest.approx(details["specialisation gain"])
