"""What turns are grouped and sorted by: a hash of their conversation's columns, and `order` as numbers or texts."""

import math
from collections.abc import Sequence
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any

import xxhash

from shridhar_ft.data.sources.filters import forms

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER, TEXT, NONE = range(3)  # kinds of `order`, in the order that they are sorted in


def conversation_keys(columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
    """A hash of each row's conversation, None where a part of it is missing."""
    if not {type(value) for column in columns for value in column} <= {int, str, NoneType}:
        columns = [[_plain(value) for value in column] for column in columns]
    digest = xxhash.xxh3_128_digest
    return [
        None if None in parts or "" in parts else digest("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))
        for parts in zip(*columns, strict=True)
    ]


def _plain(value: object) -> object:
    """An id as a database has it: pandas makes 7.0 of 7 in a column with gaps."""
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):  # what pandas makes of none
            return None
        return int(value) if value == int(value) else value
    return value.hex() if isinstance(value, bytes) else value


def order_columns(values: Sequence[Any]) -> "tuple[pa.Array, pa.Array, pa.Array, pa.Array]":
    """What `order` is sorted by: numbers as numbers, before texts as texts, before none."""
    import numpy as np
    import pyarrow as pa

    size = len(values)
    no_texts = pa.nulls(size, pa.large_binary())
    zeros = pa.array(np.zeros(size))
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
        return pa.array(np.full(size, NUMBER, np.int8)), pa.array(values, pa.int64()), zeros, no_texts
    parts = [_order_of(value) for value in values]
    kinds, wholes, rests, texts = zip(*parts, strict=True) if parts else ((), (), (), ())
    return (
        pa.array(kinds, pa.int8()),
        pa.array(wholes, pa.int64()),
        pa.array(rests, pa.float64()),
        pa.array(texts, pa.large_binary()),
    )


def _order_of(value: object) -> tuple[int, int, float, bytes | None]:
    if value is None or value == "":
        return NONE, 0, 0.0, None
    for form in forms(value):
        if isinstance(form, int | float | Decimal) and -(2**63) <= form < 2**63:  # NaN is not
            whole = int(form // 1)
            return NUMBER, whole, float(form - whole), None
    return TEXT, 0, 0.0, str(value).encode("utf-8", "surrogatepass")
