"""Conversations as clients send them: brought into the order that every chat format takes, and nothing lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.records import Message
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.parsing import parse_messages, prepend_empty_user_turn, starts_with_assistant
from carellama.serve.api.schemas import ChatMessage


def read(*messages: tuple) -> list[tuple[str, str]]:
    sent = [ChatMessage(role=role, content=content) for role, content in messages]
    return [(message.role, message.content) for message in parse_messages(sent)]


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ([("user", "q")], [("user", "q")]),
        ([("developer", "s"), ("user", "q")], [("system", "s"), ("user", "q")]),
        ([("system", "a"), ("system", "b"), ("user", "q")], [("system", "a\n\nb"), ("user", "q")]),
        (
            [("user", "q"), ("assistant", "a"), ("system", "s"), ("user", "r")],
            [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")],
        ),
        ([("user", "q"), ("assistant", "a"), ("system", "s")], [("user", "q"), ("assistant", "a"), ("user", "s")]),
        ([("system", "s")], [("user", "s")]),
        ([("user", "q"), ("user", "r")], [("user", "q\n\nr")]),
        ([("user", "q"), ("assistant", ""), ("user", "r")], [("user", "q\n\nr")]),
        ([("user", "q"), ("assistant", None), ("user", "r")], [("user", "q\n\nr")]),
        ([("assistant", "a"), ("user", "q")], [("assistant", "a"), ("user", "q")]),
        ([("user", "q"), ("assistant", "a")], [("user", "q"), ("assistant", "a"), ("user", "")]),
        ([("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], [("user", "a\nb")]),
    ],
)
def test_what_clients_send(sent, found) -> None:
    assert read(*sent) == found


ROLES = st.sampled_from(["system", "developer", "user", "assistant"])


@given(st.lists(st.tuples(ROLES, st.sampled_from(["", " ", "x"])), min_size=1, max_size=8))
def test_nothing_is_lost_and_the_order_is_one_that_every_format_takes(sent) -> None:
    marked = [(role, text and f"{text}<{index}>") for index, (role, text) in enumerate(sent)]
    try:
        found = read(*marked)
    except InvalidRequest:
        assert not any(text or role == "user" for role, text in marked if role not in ("system", "developer"))
        return
    whole = "\n".join(text for _, text in found)
    for role, text in marked:
        assert role == "assistant" or text in whole
        assert text.strip() in whole
    roles = [role for role, _ in found]
    turns = roles[1:] if roles[0] == "system" else roles
    assert turns[-1] == "user" and "system" not in turns
    assert all(one != other for one, other in pairwise(turns))


def test_a_conversation_may_be_put_behind_an_empty_turn() -> None:
    messages = [Message("system", "s"), Message("assistant", "a"), Message("user", "q")]
    assert starts_with_assistant(messages)
    assert prepend_empty_user_turn(messages) == [messages[0], Message("user", ""), *messages[1:]]


def test_calls_of_tools_and_their_results() -> None:
    call = {"id": "c1", "function": {"name": "department", "arguments": '{"of": "ear"}'}}
    sent = [
        ChatMessage(role="user", content="q"),
        ChatMessage(role="assistant", content=None, tool_calls=[call]),  # type: ignore[list-item]
        ChatMessage(role="tool", content="ENT", tool_call_id="c1"),
    ]
    _, assistant, result = parse_messages(sent)
    assert (assistant.calls[0].name, assistant.calls[0].arguments) == ("department", '{"of": "ear"}')
    assert (result.role, result.content, result.call_id) == ("tool", "ENT", "c1")
    with pytest.raises(InvalidRequest, match="calls 1 tool and its result is missing"):
        parse_messages(sent[:2])
    with pytest.raises(InvalidRequest, match="no message before it makes"):
        parse_messages([sent[0], sent[2]])


@pytest.mark.parametrize("content", [None, [{"type": "image_url", "image_url": {"url": "data:x"}}], [{"type": "text"}]])
def test_what_is_no_text_is_refused(content) -> None:
    with pytest.raises(InvalidRequest, match="content"):
        read(("user", content))
