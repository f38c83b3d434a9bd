"""Durations: as people write them, and nothing else."""

import pytest

from shridhar_ft.config import load_recipe
from shridhar_ft.durations import seconds
from shridhar_ft.errors import UserError


@pytest.mark.parametrize(
    ("text", "wanted"), [("11h30m", 41_400), ("90m", 5400), ("45s", 45), ("1d2h", 93_600), ("1h1s", 3601)]
)
def test_durations_are_read(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "0h", "11", "11:30", "1.5h", "30m11h", "h", "soon"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="11h30m, 90m or 45s"):
        seconds(text)


@pytest.mark.parametrize("given", ["11:30", "3600", "soon"])
def test_a_recipe_refuses_it_with_the_key(given: str) -> None:
    with pytest.raises(UserError, match=r"train\.stop_after: a duration is written as 11h30m, 90m or 45s"):
        load_recipe("demo", [f"train.stop_after={given}"])


def test_a_recipe_keeps_it_as_written() -> None:
    recipe = load_recipe("demo", ["train.stop_after=11h30m", "train.stall_after=45m"])
    assert (recipe.train.stop_after, recipe.train.stall_after) == ("11h30m", "45m")
