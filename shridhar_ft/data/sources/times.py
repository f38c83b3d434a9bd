"""When a turn was said: texts, numbers and datetimes of every kind become microseconds since 1970."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"\d{5,19}(\.\d+)?")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])(?:([01]\d|2[0-3])([0-5]\d)([0-5]\d))?")


def microseconds(values: Sequence[object]) -> "pa.Array":
    """Times in microseconds since 1970, as if all clocks showed UTC where no offset is written; null where none is.

    Read are `2018-02-01 23:23:46` (also with a fraction, with T, with an offset, a date alone), `20180201232346`,
    datetimes, and numbers: seconds since 1970, or milli-, micro- or nanoseconds, by their size. MySQL's zero dates
    are none.

    Args:
        values: Whatever a column holds.
    """
    import pyarrow as pa

    texts = all(value is None or type(value) is str for value in values)
    if texts:
        try:
            # What MySQL writes goes the fast way; a zero date or anything else goes the other.
            return pa.array(values, pa.string()).cast(pa.timestamp("us")).cast(pa.int64())
        except (pa.ArrowInvalid, UnicodeEncodeError):
            pass
    memo: dict[object, int | None] = {}
    found: list[int | None] = []
    for value in values:
        if isinstance(value, list | dict):
            found.append(None)
            continue
        if value not in memo:
            memo[value] = _one(value)
        found.append(memo[value])
    return pa.array(found, pa.int64())


def _one(value: object) -> int | None:
    if isinstance(value, datetime):
        return _since_1970(value)
    if isinstance(value, date):
        return _since_1970(datetime(value.year, value.month, value.day))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _of_number(float(value), value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return _of_text(value.strip()) if isinstance(value, str) else None


def _of_text(text: str) -> int | None:
    if _COMPACT.fullmatch(text):
        parts = [int(text[at : at + 2]) for at in range(4, len(text), 2)]
        try:
            return _since_1970(datetime(int(text[:4]), *parts))  # type: ignore[arg-type]
        except ValueError:  # 31 February
            return None
    if _NUMBER.fullmatch(text):
        return _of_number(float(text), Decimal(text))
    try:
        return _since_1970(datetime.fromisoformat(text))
    except ValueError:  # a zero date, an empty text, or no time at all
        return None


def _of_number(size: float, value: int | float | Decimal) -> int | None:
    """Seconds, or smaller units, since 1970: today is a number of 10 digits in seconds, of 13 in milliseconds."""
    if not 0 < size < 1e19:  # NaN, too
        return None
    if size < 1e11:
        return round(Decimal(value) * 1_000_000)
    if size < 1e14:
        return round(Decimal(value) * 1000)
    return round(Decimal(value)) if size < 1e17 else int(value) // 1000


def _since_1970(time: datetime) -> int:
    gone = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    return (gone.days * 86_400 + gone.seconds) * 1_000_000 + gone.microseconds
