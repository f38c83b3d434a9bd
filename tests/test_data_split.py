"""The draw of the split: shares, stability, independence of order."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.config_data import Split
from shridhar_ft.data.split import MANY, SPLITS, allowance, assign, content_key

UNITS = st.lists(st.tuples(st.text(max_size=8), st.integers(0, 9000)), max_size=80, unique_by=lambda unit: unit[0])


def units_of(count, seed=1, longest=6000):
    draw = random.Random(seed)
    return [(content_key(f"{seed} {n}"), draw.randint(longest // 10, longest)) for n in range(count)]


def shares(units, names):
    total = sum(size for _, size in units)
    found = Counter()
    for (_, size), name in zip(units, names, strict=True):
        found[name] += size
    return {name: found[name] / total for name in SPLITS}


@pytest.mark.parametrize("units", [units_of(150), units_of(1536), units_of(3000)], ids=["book", "dialogues", "many"])
@pytest.mark.parametrize("seed", range(5))
def test_shares_lie_within_three_points(units, seed):
    found = shares(units, assign(units, Split(seed=seed), "group"))
    assert found["train"] == pytest.approx(0.8, abs=0.03)
    assert found["validation"] == pytest.approx(0.1, abs=0.03)
    assert found["test"] == pytest.approx(0.1, abs=0.03)


@given(UNITS, st.integers(0, 99))
def test_every_share_is_met_within_the_allowance(units, seed):
    units = [(key, max(1, size)) for key, size in units]
    total = sum(size for _, size in units)
    if units:
        found = shares(units, assign(units, Split(seed=seed), "group"))
        asked = {"train": 0.8, "validation": 0.1, "test": 0.1}
        assert all(abs(found[name] - asked[name]) * total <= allowance([s for _, s in units]) + 1e-6 for name in SPLITS)


@given(UNITS, st.randoms(use_true_random=False))
def test_order_does_not_matter(units, draw):
    by_key = dict(zip((key for key, _ in units), assign(units, Split(), "group"), strict=True))
    draw.shuffle(units)
    assert assign(units, Split(), "group") == [by_key[key] for key, _ in units]


def test_a_group_of_one_is_drawn_without_bias():
    drawn = Counter(assign([("the only block", 500)], Split(), f"work {n}")[0] for n in range(4000))
    assert drawn["train"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert drawn["validation"] / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_large_group_may_grow_and_nothing_moves():
    units = units_of(MANY + 500)
    before = assign(units[:MANY], Split(), "dump")
    assert assign(units, Split(), "dump")[:MANY] == before


def test_seed_and_group_change_the_draw():
    units = units_of(200)
    assert assign(units, Split(), "a") == assign(units, Split(), "a")
    assert assign(units, Split(), "a") != assign(units, Split(), "b")
    assert assign(units, Split(), "a") != assign(units, Split(seed=1), "a")


@pytest.mark.parametrize("count", [300, MANY])
def test_a_share_of_zero_gets_nothing(count):
    drawn = Counter(assign(units_of(count), Split(train=0.9, validation=0.1, test=0), "group"))
    assert set(drawn) == {"train", "validation"}
    assert set(assign(units_of(count), Split(train=1, validation=0, test=0), "group")) == {"train"}


def test_the_draw_is_the_same_on_every_machine_and_day():
    names = assign([(content_key(str(n)), 100) for n in range(12)], Split(), "golden")
    assert [index for index, name in enumerate(names) if name == "validation"] == [2]
    assert [index for index, name in enumerate(names) if name == "test"] == [8]
