"""One partition of turns: ordered within their conversations, and cut into sessions where a pause was long."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from shridhar_ft.data.records import Message
from shridhar_ft.data.sources.turn_batches import ROLES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Numbers = np.ndarray[Any, Any]

NO_TIME = -(2**63)  # sorts first; the turns that keep it all stand in conversations without times
HOUR = 3_600_000_000  # microseconds


class Ordered(NamedTuple):
    """The turns of a partition in order."""

    turns: "pa.Table"
    starts: list[int]
    """Where a session begins, and the end."""
    sessions: list[int]
    """The number of each session within its conversation, from 1."""
    conversations: int
    timeless: int
    """Turns that were dropped because nothing tells when they were said, while others of their conversation say it."""


def ordered(turns: "pa.Table", session_gap: float | None) -> Ordered:
    """Order the turns: by time, table, `order`, place in the source; cut sessions.

    A turn without a time is taken to be said with the one before it in its table's `order` (or else after it).

    Args:
        turns: Of whole conversations, in the form of `turn_batches.schema`.
        session_gap: Hours (None: never cut).
    """
    import numpy as np
    import pyarrow as pa

    columns = {name: turns.column(name).combine_chunks() for name in turns.column_names}
    arrays = {
        name: columns[name].to_numpy(zero_copy_only=False)
        for name in ("key_high", "key_low", "rank", "order_kind", "order_whole", "order_rest", "position")
    }
    time = columns["time"].fill_null(NO_TIME).to_numpy(zero_copy_only=False).copy()
    key = (arrays["key_low"], arrays["key_high"])
    # Of np.lexsort's keys the last one is the first to decide.
    by_order = (
        arrays["position"],
        _ranks(columns["order_text"]),
        arrays["order_rest"],
        arrays["order_whole"],
        arrays["order_kind"],
        arrays["rank"],
    )
    if 0 < columns["time"].null_count < len(time):
        _borrow_times(time, np.lexsort((*by_order, *key)), arrays)
    order = np.lexsort((*by_order, time, *key))
    new = _begins(order, *key)
    first = np.flatnonzero(new)
    has_times = np.maximum.reduceat(time[order], first) != NO_TIME
    stay = (time[order] != NO_TIME) | ~has_times[np.cumsum(new) - 1]
    order, new, timeless = order[stay], _begins(order[stay], *key), int((~stay).sum())
    time = time[order]
    cut = new.copy()
    if session_gap is not None:
        cut[1:] |= np.diff(time) > session_gap * HOUR
    starts = np.flatnonzero(cut)
    conversation = np.cumsum(new)[starts]
    first_session = np.flatnonzero(np.diff(conversation, prepend=0))
    sessions = np.arange(len(starts)) - first_session[conversation - 1] + 1
    return Ordered(
        pa.table([columns[name] for name in ("key_high", "role", "text")], ["key_high", "role", "text"]).take(
            pa.array(order)
        ),
        [*starts.tolist(), len(order)],
        sessions.tolist(),
        int(new.sum()),
        timeless,
    )


def conversations(found: Ordered) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Id and turns of each session.

    The id is 16 hexadecimal digits, the first half of a hash (xxh3) of the conversation's columns, and from the second
    session on its number behind `#`. It is the same in every build and shows no account number; who has the numbers
    can still compute it.
    """
    keys = found.turns.column("key_high").combine_chunks().to_numpy(zero_copy_only=False)
    roles = found.turns.column("role").combine_chunks().to_numpy(zero_copy_only=False).tolist()
    texts = found.turns.column("text").combine_chunks()
    for start, end, session in zip(found.starts, found.starts[1:], found.sessions, strict=False):
        said = texts.slice(start, end - start).to_pylist()
        messages = tuple(
            Message(ROLES[role], text.decode("utf-8", "surrogatepass"))
            for role, text in zip(roles[start:end], said, strict=True)
        )
        yield f"{int(keys[start]):016x}" + (f"#{session}" if session > 1 else ""), messages


def _ranks(texts: "pa.Array") -> "Numbers":
    """The place of each text among the sorted different ones, 0 for none."""
    import numpy as np
    import pyarrow.compute as pc

    if texts.null_count == len(texts):
        return np.zeros(len(texts), np.int64)
    encoded = texts.dictionary_encode()
    places = np.empty(len(encoded.dictionary), np.int64)
    places[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(1, len(places) + 1)
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(indices < 0, 0, places[indices])


def _borrow_times(time: "Numbers", order: "Numbers", arrays: dict[str, Any]) -> None:
    """Give turns without a time, in place, that of the turn before them in their table, or else of the one after."""
    import numpy as np

    sorted_times = time[order]
    group = np.cumsum(_begins(order, *(arrays[name] for name in ("key_high", "key_low", "rank"))))
    for direction in (1, -1):
        times, groups = sorted_times[::direction], group[::direction]
        known = np.where(times != NO_TIME, np.arange(len(times)), 0)
        before = np.maximum.accumulate(known)
        fits = (times[before] != NO_TIME) & (groups[before] == groups)
        sorted_times = np.where(fits, times[before], times)[::direction]
    time[order] = sorted_times


def _begins(order: "Numbers", *keys: "Numbers") -> "Numbers":
    """Where a group of equal keys begins, in this order."""
    import numpy as np

    new = np.ones(len(order), bool)
    new[1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    return new
