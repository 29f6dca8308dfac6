"""What does not fit a model: pictures, tools, full contexts; and who waits behind whom."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from typing import Any

import httpx2
import pytest

from api_server import ASKED, Running, echo, running
from carellama.config.serve import ApiOptions
from carellama.engine.base import Sampling, Tool
from carellama.engine.generate import count_tokens
from carellama.engine.scripted import ScriptedEngine
from carellama.records import Message, ToolCall
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.api.overflow import allowed_tools, drop_oldest, is_task, prompt_limit, tools_that_fit
from carellama.serve.api.parsing import default_sampling

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "hours", "description": "Opening hours"}}


def chat(server: Running, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{server.v1}/chat/completions", json={"messages": ASKED, **more})


def said(role: str, *content: Any) -> dict[str, Any]:
    return {
        "role": role,
        "content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in content],
    }


@pytest.mark.parametrize("middle", [[], [said("assistant", "")], [said("assistant", "I cannot see it.")]])
def test_a_picture_ends_no_conversation(caplog, middle: list[dict[str, Any]]) -> None:
    """A22: each later turn was refused as well, with a type error, because clients send the picture again."""
    with running(echo()) as server, caplog.at_level(logging.INFO, "carellama.serve.api.prompts"):
        first = chat(server, messages=[said("user", "What is this?", PICTURE)])
        error = first.json()["error"]
        assert first.status_code == 400 and error["param"] == "messages.0.content.1"
        assert "this model reads text only: remove the picture" in error["message"]
        later = chat(server, messages=[said("user", "What is this?", PICTURE), *middle, said("user", "And a cough?")])
        assert later.status_code == 200 and later.headers["x-carellama-left-out"] == "1 picture"
        assert later.json()["choices"][0]["message"]["content"].endswith("And a cough?")
        assert "1 picture of earlier messages" in caplog.text and "cough" not in caplog.text
        assert "x-carellama-left-out" not in chat(server).headers


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "input_audio", "input_audio": {}}, "remove the sound"),
        ({"type": "file", "file": {}}, "remove the file"),
        ({"type": "video_url"}, "remove the video"),
        ({"type": "hologram"}, "'hologram'"),
        ({"type": "text"}, "has no text"),
    ],
)
def test_other_parts_of_the_last_message(part: dict[str, Any], says: str) -> None:
    with running(echo()) as server:
        assert says in chat(server, messages=[said("user", part)]).json()["error"]["message"]


def test_tools_for_a_model_that_knows_none(caplog) -> None:
    """A19: 36 tools took 7,025 of 8,192 tokens, and nothing said why."""
    engine = echo(knows_tools=False)
    with running(engine) as server, caplog.at_level(logging.INFO, "carellama.serve.api.prompts"):
        plain = chat(server)
        answer = chat(server, tools=[TOOL])
        assert answer.json()["usage"] == plain.json()["usage"]
        assert answer.headers["x-carellama-tools"] == (
            "1 left out: the chat template has no place for tools, or its calls cannot be read (see --tools)"
        )
        assert "1 of 1 tools left out" in caplog.text
        none = chat(server, tools=[TOOL], tool_choice="none")
        assert "x-carellama-tools" not in none.headers
    with running(engine, tools="always") as server:
        assert chat(server, tools=[TOOL]).json()["usage"]["prompt_tokens"] > plain.json()["usage"]["prompt_tokens"]
    with running(echo(), tools="never") as server:
        assert chat(server, tools=[TOOL]).headers["x-carellama-tools"] == "1 left out: --tools never"
        assert chat(server, tools=[TOOL], tool_choice="required").json()["error"]["param"] == "tool_choice"


MANY = [
    {"type": "function", "function": {"name": f"tool_{number}", "description": "d" * 100, "parameters": {}}}
    for number in range(36)
]


@pytest.mark.parametrize("overflow", ["error", "drop_oldest"])
def test_tools_are_cut_to_those_that_fit(caplog, overflow: str) -> None:
    """A19: with 36 tools a request was refused, or its history dropped; now the conversation comes first."""
    engine = echo(context_tokens=4000)
    history = [{"role": message.role, "content": message.content} for message in turns(8)]
    whole = count_tokens(engine, turns(8))
    with running(engine, context_overflow=overflow) as server, caplog.at_level(logging.INFO):
        answer = chat(server, messages=history, tools=MANY, max_tokens=100)
        assert answer.status_code == 200 and "x-carellama-dropped-messages" not in answer.headers
        left = int(re.match(r"(\d+) of 36 left out: ", answer.headers["x-carellama-tools"])[1])
        assert 0 < left < 36 and f"{left} of 36 tools left out" in caplog.text
        assert whole < answer.json()["usage"]["prompt_tokens"] <= 3900
        assert "x-carellama-tools" not in chat(server, messages=history, tools=MANY[:3], max_tokens=100).headers
        refused = chat(server, messages=history, tools=MANY, tool_choice="required")
        assert "for 36 tools)" in refused.json()["error"]["message"]
    with running(engine, tools="always") as server:
        assert chat(server, messages=history, tools=MANY).json()["error"]["code"] == "context_length_exceeded"


def test_tools_that_were_called_stay() -> None:
    engine, tools = ScriptedEngine(""), [Tool(f"tool_{number}", "d" * 100) for number in range(20)]
    asked = [Message("user", "q")]
    called = [*asked, Message("assistant", "", (ToolCall("c", "tool_17", "{}"),)), Message("tool", "r", call_id="c")]
    limit = count_tokens(engine, called, tools[:5])
    assert tools_that_fit(partial(count_tokens, engine), asked, tools, limit) == tuple(tools[:5])
    assert [tool.name for tool in tools_that_fit(partial(count_tokens, engine), called, tools, limit)][-1] == "tool_17"
    assert tools_that_fit(partial(count_tokens, engine), called, tools[:2], limit) == tuple(tools[:2])
    assert tools_that_fit(partial(count_tokens, engine), called, tools, 5) == tuple(
        tools
    )  # too long by itself: the engine refuses it


def test_demanded_tools_are_never_left_out() -> None:
    tools = (Tool("hours"),)
    for choice in ("required", "hours"):
        demanded = Sampling(tools=tools, tool_choice=choice)
        assert allowed_tools(demanded, "auto", knows_tools=False) == (demanded, "")
        with pytest.raises(InvalidRequest, match="--tools never"):
            allowed_tools(demanded, "never", knows_tools=True)
    assert allowed_tools(Sampling(tools=tools), "auto", knows_tools=True)[0].tools == tools


def turns(count: int) -> list[Message]:
    found = [Message("system", "s")]
    for index in range(count):
        found += [Message("user", f"question {index}"), Message("assistant", f"answer {index}")]
    return [*found, Message("user", "last")]


@pytest.mark.parametrize("limit", [40, 60, 100, 200, 10_000])
def test_the_oldest_turns_are_dropped_until_it_fits(limit: int) -> None:
    """A26: every later turn of a conversation that filled the context was refused."""
    engine, whole = ScriptedEngine(""), turns(6)
    left, oldest = drop_oldest(partial(count_tokens, engine), whole, (), limit)
    dropped = len(oldest)
    assert [whole[0], *oldest, *left[1:]] == whole and left[1].role == "user"
    assert count_tokens(engine, left) <= limit or left == [whole[0], whole[-1]]
    if dropped:  # one turn more would not fit
        assert count_tokens(engine, [whole[0], *whole[1 + dropped - 2 :]]) > limit


def test_calls_stay_with_their_results() -> None:
    call = (ToolCall("c", "hours", "{}"),)
    whole = [
        Message("user", "q" * 50), Message("assistant", "", call), Message("tool", "r" * 50, call_id="c"),
        Message("assistant", "a"), Message("user", "now"),
    ]  # fmt: skip
    assert drop_oldest(partial(count_tokens, ScriptedEngine("")), whole, (), 60) == ([whole[-1]], whole[:-1])
    leads = [Message("assistant", "Hello! " * 10), Message("user", "q")]
    assert drop_oldest(partial(count_tokens, ScriptedEngine("")), leads, (), 20) == ([leads[-1]], leads[:1])


def test_room_for_an_answer() -> None:
    assert prompt_limit(Sampling(100), 1000) == 900
    assert prompt_limit(Sampling(2048), 1000) == prompt_limit(Sampling(None), 1000) == 750
    assert prompt_limit(Sampling(5), None) is None


def test_a_full_conversation_goes_on() -> None:
    history = [{"role": message.role, "content": message.content} for message in turns(20)]
    with running(echo(context_tokens=200)) as server:
        assert chat(server, messages=history).json()["error"]["code"] == "context_length_exceeded"
    with running(echo(context_tokens=200), context_overflow="drop_oldest") as server:
        answer = chat(server, messages=history)
        assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "last"
        assert 0 < int(answer.headers["x-carellama-dropped-messages"]) < 40
        assert "x-carellama-dropped-messages" not in chat(server).headers
        alone = chat(server, messages=[{"role": "user", "content": "x" * 300}])
        assert alone.json()["error"]["code"] == "context_length_exceeded"


def order(queue: AdmissionQueue, asked: list[tuple[str, bool]]) -> list[str]:
    """The order in which answers get the one place of a line, or are refused; the first holds it for a moment."""
    got: list[str] = []

    async def ask(name: str, background: bool) -> None:
        try:
            async with queue.slot(background=background):
                got.append(name)
                await asyncio.sleep(0.01)
        except Rejected as refused:
            got.append(f"{name}: {refused.status}")

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(name, background) for name, background in asked))

    asyncio.run(all_of_them())
    assert queue.running == queue.waiting == 0
    return got


def test_people_come_before_titles() -> None:
    """A20: titles and tags were answered ahead of the person's own question."""
    asked = [("first", False), ("title", True), ("tags", True), ("person", False), ("other", False)]
    assert order(AdmissionQueue(1, 64, 5), asked) == ["first", "person", "other", "title", "tags"]
    many = [("first", False), ("title", True), *((str(number), False) for number in range(5))]
    assert order(AdmissionQueue(1, 64, 5), many) == ["first", "0", "1", "2", "title", "3", "4"]  # nobody waits for ever


def test_a_full_queue_makes_room_for_people() -> None:
    """A20: with a short queue one lone person got "the server is busy"."""
    asked = [("first", False), ("title", True), ("tags", True), ("person", False), ("other", False), ("third", False)]
    got = order(AdmissionQueue(1, 2, 5), asked)
    assert [name for name in got if "429" not in name] == ["first", "person", "other"]
    assert sorted(name for name in got if "429" in name) == ["tags: 429", "third: 429", "title: 429"]


def test_who_leaves_the_line_frees_his_turn() -> None:
    async def leave() -> None:
        queue = AdmissionQueue(1, 8, 0.05)
        async with queue.slot():
            waits = [asyncio.ensure_future(queue.slot(background=each).__aenter__()) for each in (False, True, False)]
            await asyncio.sleep(0)
            assert queue.waiting == 3
            waits[0].cancel()
            await asyncio.sleep(0)
            with pytest.raises(Rejected, match=r"waited 0\.05 s"):
                await waits[1]
            await asyncio.gather(*waits, return_exceptions=True)
            assert queue.waiting == 0
        assert queue.running == 0
        async with queue.slot(background=True):
            assert queue.running == 1

    asyncio.run(leave())


def test_what_a_request_gets_that_says_nothing() -> None:
    """A20: 1,000 tokens of babble at temperature 1."""
    settings = ApiOptions()
    given = default_sampling(settings, "llamacpp")
    assert (given.temperature, given.repetition_penalty, given.max_new_tokens) == (0.3, 1.05, 512)
    assert default_sampling(settings, "openai").repetition_penalty == 1  # its server may have none
    assert default_sampling(ApiOptions(repetition_penalty=1.2), "openai").repetition_penalty == 1.2
    assert is_task([Message("user", "### Task:\nGenerate a title")]) and not is_task([Message("user", "Task?")])
