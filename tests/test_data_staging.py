"""A stopped build goes on where it was; a refused one leaves nothing."""

import json
from pathlib import Path

import pytest

from shridhar_ft.config_data import Clean
from shridhar_ft.data.account import SourceAccount
from shridhar_ft.data.clean import clean_text
from shridhar_ft.data.rows import RowStream, dialogue_row, read_stream
from shridhar_ft.data.staging import Staging
from shridhar_ft.errors import Resumable, UserError


def one_row(rows: RowStream) -> list[SourceAccount]:
    rows.append(dialogue_row("d.jsonl", "d-0", []), 0)
    account = SourceAccount("dialogues", "d.jsonl", dialogues_in=1)
    account.take(clean_text("два  пробела", Clean(), is_book=False))
    account.dropped["no user turn"] += 2
    return [account]


def never(rows: RowStream) -> list[SourceAccount]:
    raise AssertionError("it was read before")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Resumable, MemoryError])
def test_what_was_read_before_a_stop_is_not_read_again(tmp_path: Path, stop: type[BaseException]) -> None:
    folder = tmp_path / "staging"
    with pytest.raises(stop), Staging(folder) as staging:
        first = staging.source("a", one_row)
        assert first.fresh
        raise stop
    with Staging(folder) as staging:
        again = staging.source("a", never)
        assert not again.fresh and again.accounts == first.accounts
        assert sum(batch.num_rows for batch in read_stream(again.stream)) == 1
    assert not folder.exists()


def test_a_source_that_was_not_whole_is_read_anew(tmp_path: Path) -> None:
    def half(rows: RowStream) -> list[SourceAccount]:
        one_row(rows)
        raise KeyboardInterrupt

    folder = tmp_path / "staging"
    with pytest.raises(KeyboardInterrupt), Staging(folder) as staging:
        staging.source("a", half)
    with Staging(folder) as staging:
        assert staging.source("a", one_row).fresh


def test_a_refused_build_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    with pytest.raises(UserError), Staging(folder) as staging:
        staging.source("a", one_row)
        raise UserError("a.jsonl:3: wrong; mend it")
    assert not folder.exists()


def test_an_account_survives_json() -> None:
    [account] = one_row(RowStreamThatForgets())
    assert SourceAccount.from_dict(json.loads(json.dumps(account.as_state()))) == account


class RowStreamThatForgets:
    def append(self, row: dict, characters: int) -> None:
        pass
