"""Cuts a conversation that is longer than the window, at its exchanges."""

from collections.abc import Callable, Iterator

import numpy as np

from shridhar_ft.data.windows import Encoded

EncodeDialogue = Callable[[list[dict[str, str]]], tuple[np.ndarray, np.ndarray]]
"""Turns in; token ids and the assistant's mask out."""


def cut_conversation(messages: list[dict[str, str]], encode: EncodeDialogue, context: int) -> Iterator[Encoded]:
    """Encode a conversation; one longer than the window goes on, exchange by exchange, as a conversation of its own.

    Args:
        messages: Turns with `role` and `content`, an optional system turn first.
        encode: Gives token ids and the assistant's mask of a list of turns.
        context: Window length in tokens.

    Yields:
        Encoded parts that fit; an exchange that alone is longer than the window is continued in the next one.
    """
    ids, learned = encode(messages)
    if len(ids) <= context:
        yield Encoded(ids, learned)
        return
    system, turns = ([messages[0]], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    exchanges: list[list[dict[str, str]]] = []
    for turn in turns:
        if turn["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(turn)
    # Each exchange is encoded once by itself: how many fit together is then known but for a few tokens at the joints.
    alone = [len(encode(system + exchange)[0]) for exchange in exchanges]
    opening = len(encode(system)[0]) if system else 0
    first = 0
    while first < len(exchanges):
        end, size = first + 1, alone[first]
        while end < len(exchanges) and size + alone[end] - opening <= context:
            size += alone[end] - opening
            end += 1
        ids, learned = encode(system + [turn for exchange in exchanges[first:end] for turn in exchange])
        while len(ids) > context and end > first + 1:
            end -= 1
            ids, learned = encode(system + [turn for exchange in exchanges[first:end] for turn in exchange])
        for start in range(0, len(ids), context):
            piece = slice(start, start + context)
            yield Encoded(ids[piece], learned[piece], whole=len(ids) <= context)
        first = end
