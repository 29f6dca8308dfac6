"""What goes to an endpoint has no identifiers, and its answers have them again."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import preloaded
from api_server import running
from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.base import HEARTBEAT, Piece, Reply, Sampling
from carellama.engine.generate import generate, stream
from carellama.engine.load import load
from carellama.engine.masked import MaskedEngine, _PlaceholderBuffer, _restored_call, restored
from carellama.engine.scripted import ScriptedEngine
from carellama.privacy.deidentify import Deidentifier
from carellama.records import Message, ToolCall

TURNS = [
    Message("system", "You answer patients of Dr Jane Doe."),
    Message("user", "患者王小明，电话13800138000，每天吃5 mg，血压150/90。"),
    Message("assistant", "您好，王小明。"),
    Message("user", "王小明该吃多少？"),
]
MASK = Deidentifier()


def echo() -> ScriptedEngine:
    return ScriptedEngine(lambda messages: messages[1].content)


def read(engine, messages) -> tuple[str, Reply]:
    generator = stream(engine, messages, Sampling())
    said = ""
    try:
        while True:
            said += next(generator).text
    except StopIteration as end:
        return said, end.value


def test_what_is_sent_has_no_identifier_and_what_comes_back_has() -> None:
    inner = echo()
    said, reply = read(MaskedEngine(inner, MASK), TURNS)
    sent = " ".join(message.content for message in inner.asked[0])
    assert "王小明" not in sent and "13800138000" not in sent and "Jane" not in sent
    assert "5 mg" in sent and "150/90" in sent
    assert said == reply.text == TURNS[1].content


def test_generate_says_the_same() -> None:
    replies: list[Reply] = []
    engine = MaskedEngine(echo(), MASK)
    (reply,) = generate(engine, [TURNS], Sampling(), on_reply=lambda index, reply: replies.append(reply))
    assert reply.text == replies[0].text == TURNS[1].content


def test_arguments_of_calls_are_masked_and_restored() -> None:
    inner = ScriptedEngine("好")
    call = ToolCall("1", "book", '{"phone": "13800138000"}')
    generate(MaskedEngine(inner, MASK), [[Message("user", "预约"), Message("assistant", "", (call,)),
                                         Message("tool", "ok", call_id="1")]], Sampling())  # fmt: skip
    assert "13800138000" not in inner.asked[0][1].calls[0].arguments


def test_a_name_that_json_writes_by_numbers_is_masked() -> None:
    inner = ScriptedEngine("好")
    call = ToolCall("1", "find", json.dumps({"name": "王小明"}))
    result = json.dumps({"patient": "王小明", "note": 'a "quote"\n\\\\u5f20'})
    turns = [Message("user", "患者王小明来诊"), Message("assistant", "", (call,)), Message("tool", result, call_id="1")]
    generate(MaskedEngine(inner, MASK), [turns], Sampling())
    sent = [inner.asked[0][1].calls[0].arguments, inner.asked[0][2].content]
    read = [json.loads(one) for one in sent]
    assert [read[0]["name"], read[1]["patient"]] == ["[NAME_1]", "[NAME_1]"]
    assert read[1]["note"] == json.loads(result)["note"]


def test_what_is_put_back_into_arguments_leaves_them_json() -> None:
    call = ToolCall("1", "find", '{"name": "[NAME_1]"}')
    found = _restored_call(call, {"[NAME_1]": 'William "Bill"\nSmith'})
    assert json.loads(found.arguments) == {"name": 'William "Bill"\nSmith'}


def test_a_placeholder_that_a_person_typed_stays() -> None:
    said, _ = read(MaskedEngine(echo(), MASK), [Message("system", "x"), Message("user", "[NAME_1]是王小明吗")])
    assert said == "[NAME_1]是王小明吗"


@given(
    st.integers(1, 6),
    st.sampled_from(["[NAME_1]，您好", "a [NAME_1] b [PHONE_2] c", "[NAME_", "[x] [NAME_9]", "[[NAME_1]]"]),
)
def test_a_stream_restores_the_same_however_it_is_cut(size: int, text: str) -> None:
    values = {"[NAME_1]": "王小明", "[PHONE_2]": "138"}
    held = _PlaceholderBuffer(values)
    said = "".join(held.add(text[at : at + size]) for at in range(0, len(text), size)) + held.rest
    assert said == restored(text, values)


def test_a_heartbeat_stays_an_empty_piece() -> None:
    class Slow(ScriptedEngine):
        def answer(self, prompt, sampling):
            time.sleep(1.2 * HEARTBEAT)
            yield from ()
            return Reply("", "stop", 1, 0)

    assert list(stream(MaskedEngine(Slow("x"), MASK), TURNS, Sampling())) == [Piece()]


@pytest.mark.parametrize("command", ["chat", "ask"])
def test_it_is_for_endpoints_only(command: str) -> None:
    words = [preloaded.python(), "-m", "carellama", command, "--model_name_or_path", "x", "--mask_identifiers"]
    done = subprocess.run(
        [*words, *(["--question", "x"] if command == "ask" else [])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--endpoint" in done.stderr


def test_an_endpoint_gets_masked_text_over_http() -> None:
    inner = ScriptedEngine(lambda messages: messages[-1].content)
    with running(inner) as server:
        arguments = EngineOptions(engine="openai", endpoint=server.v1, mask_identifiers=True)
        engine = load("openai", ModelOptions("x"), DataOptions(), arguments)
        said, _ = read(engine, [Message("user", "我叫王小明，电话13800138000")])
        engine.close()
    assert "王小明" not in inner.asked[-1][-1].content
    assert said == "我叫王小明，电话13800138000"
