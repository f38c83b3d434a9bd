"""Intervals against known ones, macro-means and ratios against plain computations, paired differences."""

import numpy as np
import pytest

from shridhar_ft.evaluation.ends import REASONS
from shridhar_ft.evaluation.hub import Settings as HubSettings
from shridhar_ft.evaluation.hub import make as make_hub
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.measures import (
    ONE_ITEM,
    UNDEFINED,
    Measure,
    difference,
    macro,
    ratio,
    score,
    total,
    wilson,
)


def share(name: str = "hit") -> Measure:
    return Measure("share", lambda r: {"x/sum": r[name], "x/n": 1.0}, total("x"))


def records(hits: list[float], **more: list) -> list[dict]:
    return [
        {"key": str(index), "hit": hit, **{name: values[index] for name, values in more.items()}}
        for index, hit in enumerate(hits)
    ]


def test_wilson_gives_published_intervals() -> None:
    # Brown, Cai and DasGupta 2001: Wilson's at 0 of 10 and at 10 of 10; symmetric.
    low, high = wilson(0.0, 10)
    assert (low, high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.2775, abs=1e-4))
    low, high = wilson(1.0, 10)
    assert (low, high) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0, abs=1e-12))
    assert wilson(0.95, 1000) == (pytest.approx(0.9346, abs=1e-3), pytest.approx(0.9619, abs=1e-3))


def test_a_share_of_ten_equal_hits_is_not_certain() -> None:
    found = score(share(), records([1.0] * 10), seed=1)
    assert found.value == 1.0
    assert found.low < 0.75, "the bootstrap alone would say [1, 1]"
    assert found.n == 10


def kept(near: list[float], far: list[float]) -> tuple[Measure, list[dict]]:
    """The ratio of two shares, and its records."""
    rows = [
        {"key": f"{at}{i}", "at": at, "hit": h} for at, hits in (("a", near), ("b", far)) for i, h in enumerate(hits)
    ]
    measure = Measure(
        "kept",
        lambda r: {f"{r['at']}/sum": r["hit"], f"{r['at']}/n": 1.0},
        lambda sums: ratio(total("b")(sums), total("a")(sums)),
        "ratio",
        of_shares=True,
    )
    return measure, rows


def test_a_ratio_of_two_full_shares_is_not_certain() -> None:
    found = score(*kept([1.0] * 5, [1.0] * 5), seed=1)
    assert found.value == 1.0
    assert found.low < 0.75 and found.high > 1.2
    wide, narrow = score(*kept([1.0] * 5, [0.0] * 5), seed=1), score(*kept([1.0] * 500, [0.0] * 500), seed=1)
    assert wide.value == narrow.value == 0.0
    assert wide.low >= 0 and wide.high > 0.3 > 0.01 > narrow.high > 0.001


def test_a_ratio_of_shares_is_as_wide_as_its_bootstrap_where_that_is_known() -> None:
    hits = [float(i % 2) for i in range(400)]
    found = score(*kept(hits, hits), seed=1)
    # Of two shares of a half, n each, the logarithm of the ratio has the variance 2/n.
    assert (found.low, found.high) == (pytest.approx(0.87, abs=0.02), pytest.approx(1.15, abs=0.02))


def test_an_undefined_ratio_has_no_interval_and_says_why() -> None:
    found = score(*kept([0.0] * 5, [1.0] * 5), seed=1)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.lacking == UNDEFINED


def test_none_of_many_is_not_never() -> None:
    measure = Measure(
        "copies", lambda r: {"x/sum": r["hit"], "x/n": 193.0}, total("x"), "share of runs", False, overlap=8
    )
    found = score(measure, records([0.0] * 48), seed=1)
    assert (found.value, found.low, found.n) == (0.0, 0.0, 48)
    # The rule of three gives 3 ÷ n at 95 % from one side; of 9,264 runs that overlap by eight, 1,158 are independent.
    assert 3 / 1158 < found.high < 4 / 1158


def test_shares_stay_within_0_and_1() -> None:
    for hits in ([1.0] * 7, [0.0] * 7):
        found = score(share(), records(hits), seed=1)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_one_item_has_no_interval() -> None:
    measure = Measure("mean", lambda r: {"x/sum": r["hit"], "x/n": 1.0}, total("x"), "nats")
    found = score(measure, records([3.0]), seed=1)
    assert found.value == 3.0 and np.isnan([found.low, found.high]).all()
    assert found.lacking == ONE_ITEM
    gap = difference(measure, records([3.0]), records([2.0]), seed=1)
    assert gap["difference"] == 1.0 and np.isnan([gap["low"], gap["high"]]).all()


def test_few_windows_are_resampled_by_their_blocks() -> None:
    draw = np.random.default_rng(3)

    def blocks(record: dict) -> list[dict[str, float]]:
        return [{"x/sum": value, "x/n": 1.0} for value in record["values"]]

    measure = Measure(
        "loss", lambda r: {"x/sum": sum(r["values"]), "x/n": len(r["values"])}, total("x"), "nats", blocks=blocks
    )
    rows = [{"key": i, "values": draw.normal(3, 1, 100).tolist()} for i in range(5)]
    one, five = score(measure, rows[:1], seed=1), score(measure, rows, seed=1)
    assert (one.n, five.n) == (100, 5)
    assert one.value == pytest.approx(np.mean(rows[0]["values"]))
    assert one.high - one.low == pytest.approx(4 * 1.96 / 2 / 10, rel=0.3)


def test_nothing_shared_is_no_difference() -> None:
    theirs = [{**record, "key": f"x{record['key']}"} for record in records([1.0, 0.0])]
    assert difference(share(), records([1.0, 0.0]), theirs, seed=1) is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(5)
    measure = Measure("mean", lambda r: {"x/sum": r["hit"], "x/n": 1.0}, total("x"), "nats")
    covered = 0
    for trial in range(200):
        found = score(measure, records(list(draw.normal(3.0, 1.0, 60))), seed=trial)
        covered += found.low <= 3.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_records_of_one_cluster_count_once() -> None:
    hits = [float(index // 10 % 2) for index in range(200)]  # ten equal records a cluster
    alone = score(share(), records(hits), seed=2)
    together = score(share(), records(hits, cluster=[index // 10 for index in range(200)]), seed=2)
    assert together.n == 20
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_macro_mean_and_ratio() -> None:
    rows = [{"key": str(i), "kind": "a" if i < 30 else "b", "hit": float(i % 3 == 0)} for i in range(40)]
    measure = Measure(
        "macro", lambda r: {f"{r['kind']}/sum": r["hit"], f"{r['kind']}/n": 1.0}, macro(["a", "b", "never"])
    )
    wanted = np.mean([np.mean([r["hit"] for r in rows if r["kind"] == kind]) for kind in "ab"])
    assert score(measure, rows, seed=3).value == pytest.approx(wanted)
    assert np.isnan(ratio(np.array([1.0]), np.array([0.0])))[0]


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    draw = np.random.default_rng(7)
    hard = draw.normal(0, 5, 300)  # what makes items hard is the same for both
    measure = Measure("loss", lambda r: {"x/sum": r["hit"], "x/n": 1.0}, total("x"), "nats", False)
    hard -= hard.mean()
    theirs = records(list(hard))
    ours = records(list(hard - 0.3 + draw.normal(0, 0.2, 300)))
    found = difference(measure, ours, theirs, seed=1)
    assert found["difference"] == pytest.approx(-0.3, abs=0.05)
    assert found["high"] < 0 < score(measure, ours, seed=1).high
    assert found["n"] == 300


def test_only_shared_items_are_compared() -> None:
    found = difference(share(), records([1.0, 1.0, 0.0]), records([1.0, 0.0]), seed=1)
    assert (found["n"], found["ours"], found["theirs"]) == (2, 1.0, 0.5)


def test_records_without_the_measure_do_not_count() -> None:
    measure = Measure("some", lambda r: {"x/sum": r["hit"], "x/n": 1.0} if r["hit"] is not None else {}, total("x"))
    found = score(measure, records([1.0, None, 0.0, None]), seed=1)
    assert (found.value, found.n) == (0.5, 2)


def test_the_harness_scores_say_why_they_have_no_ends() -> None:
    task = make_hub(HubSettings(tasks=["niah_single_1"]), Materials(), 0)
    records = [{"key": "4096", "length": 4096, "max_length": 4224, "tasks": {"niah_single_1": {"value": 0.5, "n": 10}}}]
    found = {measure.name: score(measure, records, 0) for measure in task.measures(records)}
    task.scores(records, found, [])
    (one,) = found.values()
    assert (one.n, one.value) == (10, 0.5) and one.low < 0.5 < one.high
    assert one.floor_of in REASONS and one.ceiling_of in REASONS, "the runner refuses an end without number and reason"
