"""The one sentence that an ended command leaves."""

from shridhar_ft.errors import UserError


def test_what_a_sentence_quotes_does_not_break_it() -> None:
    assert str(UserError("a table named ma\n--\tny; mend it")) == "a table named ma -- ny; mend it"
    assert isinstance(UserError("x"), ValueError) and UserError("x").status == 2
