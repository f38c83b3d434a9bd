"""The modules under eval/metrics load offline and compute what they say; shipped suites load, and hold every task."""

import math

import pytest

from shridhar_ft.evaluation.suite import TASKS, load_suite
from shridhar_ft.shipped import shipped

METRICS = sorted(path.name for path in shipped("eval/metrics").iterdir() if path.is_dir())


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    import evaluate

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda name: evaluate.load(str(shipped(f"eval/metrics/{name}")))


def test_there_are_metrics() -> None:
    assert len(METRICS) == 10


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_loads_without_the_network(name: str, load) -> None:
    assert load(name).description


def test_their_numbers(load) -> None:
    pairs = load("ru_pairs").compute(
        predictions=[-1.0, -5.0, -2.0], references=[-2.0, -4.0, -2.0], paradigms=["a", "a", "b"]
    )
    assert pairs["ru_pairs"] == pytest.approx((0.5 + 0.5) / 2)
    bits = load("bits_per_byte").compute(predictions=[8 * math.log(2), 8 * math.log(2)], references=["да", "нет."])
    assert bits["bits_per_byte"] == pytest.approx(16 / 11)
    kept = load("retention").compute(
        predictions=[" 12345.", " 7"] + [" 12345"] * 2, references=["12345"] * 4, lengths=[8192, 8192, 4096, 4096]
    )
    assert kept["retention"] == {"4096": 1.0, "8192": 0.5}
    assert kept["effective_length"] == 4096
    gain = load("context_gain").compute(predictions=[1.0, 2.0], references=[1.5, 2.5])
    assert gain["context_gain"] == pytest.approx(0.5)
    said = load("dialogue").compute(predictions=["да да да да да да", "yes"], references=["да, это так", "нет"])
    assert said["language"] == 0.5
    speed = load("speed").compute(predictions=[1.0, 3.0], references=[16, 16])
    assert speed["tokens_per_second"] == pytest.approx(8)
    assert speed["low"] <= 8 <= speed["high"]
    asked = load("glossary_questions").compute(
        predictions=[[-1.0, -2.0], [-3.0, -3.0]], references=[[-4.0, -4.0], [-3.0, -9.0]], terms=["карма", "карма"]
    )
    assert (asked["glossary_questions"], asked["n"]) == (0.5, 1)
    losses = load("loss_by_position").compute(predictions=[2.0, 1.0, 2.0, 1.0], references=[1, 2, 1, 3], buckets=2)
    assert [row["loss"] for row in losses["by_position"]] == [2.0, 1.0]


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped("eval/suites").glob("*.yaml")))
def test_shipped_suites_load(name: str) -> None:
    assert load_suite(name)


def test_the_default_suite_measures_everything() -> None:
    assert [wanted.name for wanted in load_suite("default")] == [name for name in TASKS if name != "lm_eval"]


def test_without_the_harness_the_suite_hub_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from shridhar_ft.evaluation import hub
    from shridhar_ft.evaluation.materials import Materials, Unmeasured

    (wanted,) = load_suite("hub")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(Unmeasured, match=r"pip install 'shridhar_ft\[lm-eval\]'"):
        wanted.make(Materials(), 1).items(None)
