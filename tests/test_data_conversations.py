"""Normalising conversations: the form that stays, and every character accounted for."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shridhar_ft.data.conversations import ASSISTANT_FIRST, NO_ANSWER, NO_ASSISTANT, NO_USER, normalise
from shridhar_ft.data.records import Message

ROLES = st.sampled_from(["system", "user", "assistant"])
TURNS = st.lists(st.builds(Message, ROLES, st.text(alphabet="аб \n", max_size=6)), max_size=12)


def talk(*turns):
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(names[turn[0]], turn[1:].strip("_")) for turn in turns]


@given(TURNS)
def test_characters_balance(turns):
    result = normalise(turns)
    before, after = (sum(len(m.content) for m in messages) for messages in (turns, result.messages))
    assert before + sum(result.added.values()) == after + sum(result.removed.values())
    assert min((*result.removed.values(), *result.added.values(), *result.turns.values()), default=1) > 0


@given(TURNS)
def test_what_stays_is_asked_and_answered(turns):
    result = normalise(turns)
    roles = [message.role for message in result.messages]
    assert (result.dropped is None) == bool(roles)
    if roles:
        assert roles[-1] == "assistant" and "user" in roles
        assert "assistant" not in roles[: roles.index("user")]
        assert all(one != two for one, two in pairwise(roles))
        assert all(message.content == message.content.strip() != "" for message in result.messages)


@given(TURNS)
def test_normalising_again_changes_nothing(turns):
    once = normalise(turns)
    if once.messages:
        assert normalise(once.messages).messages == once.messages
        assert not normalise(once.messages).removed


def test_turns_of_one_speaker_are_merged():
    result = normalise(talk("uПривет", "u Ты тут?", "aТут", "u", "aДа"))
    assert result.messages == (Message("user", "Привет\nТы тут?"), Message("assistant", "Тут\nДа"))
    assert result.turns == {"empty turns": 1, "merged turns": 2}
    assert result.added == {"merged turns": 2} and result.removed == {"strip": 1}


def test_the_ends_without_a_partner_go():
    result = normalise(talk("sБудь добр", "aЗдравствуйте", "uДа?", "aСлушаю", "uЭй", "uОтветь"))
    assert [message.content for message in result.messages] == ["Будь добр", "Да?", "Слушаю"]
    assert result.turns == {ASSISTANT_FIRST: 1, NO_ANSWER: 2}
    assert result.removed == {ASSISTANT_FIRST: 12, NO_ANSWER: 8}


def test_conversations_of_one_side_are_dropped_by_name():
    assert normalise(talk("uЭй", "u_")).dropped == NO_ASSISTANT
    assert normalise(talk("aЗдравствуйте", "uЭй")).dropped == NO_ASSISTANT
    assert normalise(talk("aЗдравствуйте")).dropped == NO_USER
    assert normalise([]).dropped == NO_USER
    assert normalise(talk("uЭй", "u_")).removed == {NO_ASSISTANT: 2}
