"""The engine behind an endpoint, against a server of this test: what is sent, what is said, what is refused."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.environment import endpoint_key
from carellama.config.model import ModelOptions
from carellama.engine.base import (
    HEARTBEAT,
    Piece,
    PromptTooLong,
    Reply,
    Sampling,
    Tool,
    Unavailable,
    Unsupported,
    drain,
)
from carellama.engine.generate import count_tokens, generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.openai.engine import OpenAIEngine, load
from carellama.engine.openai.response import choice_logprobs, parse_context_lengths
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message, ToolCall
from engine_contract import read
from openai_server import Answer, answering, events, said, serving

SAMPLING = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3)
ASKED = (Message("user", "What is asthma?"),)
WEATHER = Tool("weather", "How it is outside", {"type": "object", "properties": {"town": {"type": "string"}}})


def models(owner: str, *names: str, **more: object) -> dict:
    return {"data": [{"id": name, "owned_by": owner, **more} for name in names]}


def test_replies_are_in_the_order_of_the_prompts_and_say_what_they_took() -> None:
    prompts = [(Message("user", f"question {number}"),) for number in range(7)]
    seen: dict[int, Reply] = {}
    with (
        answering(lambda body, _: said(body["messages"][-1]["content"].upper(), "length")) as server,
        closing(OpenAIEngine(server.url, "m", key="secret-key")) as engine,
    ):
        replies = generate(engine, prompts, SAMPLING, on_reply=seen.__setitem__)
    assert replies == [Reply(f"QUESTION {number}", "length", 5, 2) for number in range(7)]
    assert seen == dict(enumerate(replies))
    # the requests run beside one another: the first to arrive need not be the first prompt's
    (first,) = (asked for asked in server.asked if asked["messages"][-1]["content"] == "question 0")
    assert first["path"] == "/v1/chat/completions" and first["key"] == "Bearer secret-key"
    assert (first["model"], first["max_tokens"], first["temperature"], first["seed"]) == ("m", 9, 0.5, 3)


def test_a_busy_server_is_asked_again_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    busy = {1: 429, 2: 503}
    with (
        answering(lambda _, number: (busy[number], {}, "") if number in busy else said("well")) as server,
        closing(OpenAIEngine(server.url, "m", delays=(0, 0))) as engine,
    ):
        (reply,) = generate(engine, [ASKED], SAMPLING)
    assert reply.text == "well" and len(server.asked) == 3
    told = capsys.readouterr().err
    assert "429" in told and "503" in told and "asthma" not in told


def test_the_pause_that_a_server_asks_for_is_kept() -> None:
    def busy(_: dict, number: int) -> Answer:
        return (429, {"Retry-After": "1"}, "") if number == 1 else said("well")

    with answering(busy) as server, closing(OpenAIEngine(server.url, "m", delays=(0,))) as engine:
        began = time.monotonic()
        generate(engine, [ASKED], SAMPLING)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("status", "hint", "kind"),
    [
        (401, "CARELLAMA_API_KEY", Unavailable),
        (404, "model's name", Unavailable),
        (400, "context_length", UserError),
        (500, "500", Unavailable),
        (501, "501", Unsupported),
        (302, "302", UserError),
    ],
)
def test_a_refusal_is_one_line_without_key_and_prompt(status: int, hint: str, kind: type[UserError]) -> None:
    text = json.dumps({"error": {"message": "What is asthma? secret-key", "code": "context_length"}})
    with (
        answering(lambda *_: (status, {"Location": "http://127.0.0.1:1/"}, text)) as server,
        closing(OpenAIEngine(server.url, "m", key="secret-key", delays=(0,))) as engine,
        pytest.raises(kind, match=hint) as raised,
    ):
        generate(engine, [ASKED], SAMPLING)
    message = str(raised.value)
    assert "asthma" not in message and "secret-key" not in message and "\n" not in message
    assert len(server.asked) == (2 if status == 500 else 1)


def test_what_was_answered_before_a_failure_is_handed_over() -> None:
    seen: list[str] = []
    prompts = [(Message("user", text),) for text in ("good", "bad", "never", "asked")]
    with (
        answering(lambda body, _: (400, {}, "") if body["messages"][0]["content"] == "bad" else said("ok")) as server,
        closing(OpenAIEngine(server.url, "m", parallel=1)) as engine,
        pytest.raises(UserError, match="400"),
    ):
        generate(engine, prompts, SAMPLING, on_reply=lambda _, reply: seen.append(reply.text))
    assert seen == ["ok"] and len(server.asked) == 2


def test_nothing_there_no_endpoint_and_no_json() -> None:
    with answering(lambda *_: said("x")) as server:
        pass
    with (
        closing(OpenAIEngine(server.url, "m")) as engine,
        pytest.raises(Unavailable, match=r"nothing answers at 127\.0\.0\.1:.*--endpoint"),
    ):
        generate(engine, [ASKED], SAMPLING)
    for answer in ("<html>", "{}", json.dumps({"choices": [{"delta": "x"}]})):
        with (
            answering(lambda *_, answer=answer: (200, {}, answer)) as server,
            closing(OpenAIEngine(server.url, "m")) as engine,
            pytest.raises(UserError, match="check --endpoint"),
        ):
            generate(engine, [ASKED], SAMPLING)
    with pytest.raises(UserError, match="address"):
        OpenAIEngine("localhost", "m")


def test_a_slow_server_is_a_timeout_that_is_tried_again() -> None:
    gate = threading.Event()

    def slow(_: dict, number: int) -> Answer:
        if number == 1:
            gate.wait(5)
        return said("late")

    with answering(slow) as server, closing(OpenAIEngine(server.url, "m", timeout=0.3, delays=(0,))) as engine:
        (reply,) = generate(engine, [ASKED], SAMPLING)
        gate.set()
    assert reply.text == "late" and len(server.asked) == 2


def test_the_streamed_pieces_are_the_reply_with_reasoning_told_apart() -> None:
    deltas = [{"reasoning_content": "热"}, {"reasoning": "?"}, {"content": "发"}, {"content": "烧\u2028\x85。"}]
    with answering(lambda *_: events(*deltas)) as server, closing(OpenAIEngine(server.url, "m")) as engine:
        pieces, reply = read(stream_of(engine, ASKED, SAMPLING))
    assert pieces == [Piece(reasoning="热"), Piece(reasoning="?"), Piece("发"), Piece("烧\u2028\x85。")]
    assert reply == Reply("发烧\u2028\x85。", "stop", 4, 3, "热?")
    assert server.asked[0]["stream"] is True


def test_a_stream_that_breaks_off_is_an_error_and_not_asked_again() -> None:
    with (
        answering(lambda *_: events({"content": "half"}, finish=None)) as server,
        closing(OpenAIEngine(server.url, "m", delays=(0, 0))) as engine,
        pytest.raises(Unavailable, match="broke off"),
    ):
        drain(stream_of(engine, ASKED, SAMPLING))
    assert len(server.asked) == 1


def test_a_stream_that_has_not_begun_is_asked_again() -> None:
    broken = events(finish=None)
    with (
        answering(lambda _, number: broken if number == 1 else events({"content": "well"})) as server,
        closing(OpenAIEngine(server.url, "m", delays=(0,))) as engine,
    ):
        assert drain(stream_of(engine, ASKED, SAMPLING)).text == "well"
    assert len(server.asked) == 2


def test_a_stream_tells_that_it_waits_and_can_be_left_before_the_first_byte() -> None:
    gate, gone = threading.Event(), threading.Event()

    def never(*_: object) -> Answer:
        gate.wait(10)
        gone.set()
        return said("late")

    with answering(never) as server, closing(OpenAIEngine(server.url, "m", parallel=1)) as engine:
        stream = stream_of(engine, ASKED, SAMPLING)
        began = time.monotonic()
        assert next(stream) == Piece() and time.monotonic() - began < 6 * HEARTBEAT
        stream.close()
        gate.set()
        assert gone.wait(10)
        assert drain(stream_of(engine, ASKED, SAMPLING)).text == "late"  # the only place is free


def test_who_leaves_a_stream_is_noticed_by_the_server() -> None:
    scripted = ScriptedEngine("word " * 1000, token_seconds=0.005)
    with serving(scripted) as server, closing(OpenAIEngine(server.url, "base")) as engine:
        stream = stream_of(engine, ASKED, Sampling(None))
        next(stream)
        stream.close()
        deadline = time.monotonic() + 5
        while scripted.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not scripted.running


def test_closing_the_engine_ends_what_is_under_way() -> None:
    scripted = ScriptedEngine("word " * 1000, token_seconds=0.005)
    with serving(scripted) as server:
        engine = OpenAIEngine(server.url, "base")
        stream = stream_of(engine, ASKED, Sampling(None))
        next(stream)
        engine.close()
        with pytest.raises(Unavailable, match="closed"):
            drain(stream)
        with pytest.raises(Unavailable, match="closed"):
            generate(engine, [ASKED], SAMPLING)
    del engine, stream
    gc.collect()


def test_words_beyond_the_protocol_go_only_to_servers_that_know_them() -> None:
    wanted = replace(SAMPLING, top_k=50, min_p=0.1, repetition_penalty=1.2)
    for owner, name in (("vllm", "repetition_penalty"), ("llamacpp", "repeat_penalty")):
        with (
            answering(lambda *_: said("x"), models(owner, "m")) as server,
            closing(OpenAIEngine(server.url, "m")) as engine,
        ):
            generate(engine, [ASKED], wanted)
            generate(engine, [ASKED], SAMPLING)
        first, plain = server.asked
        assert (first["top_k"], first["min_p"], first[name]) == (50, 0.1, 1.2)
        assert plain["top_k"] <= 0 and plain["min_p"] == 0 and plain[name] == 1  # never the server's own defaults
    with (
        answering(lambda *_: said("x"), models("somebody", "m")) as server,
        closing(OpenAIEngine(server.url, "m")) as engine,
    ):
        for one in ({"top_k": 50}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"num_beams": 2}):
            with pytest.raises(Unsupported, match=next(iter(one))):
                generate(engine, [ASKED], replace(SAMPLING, **one))
        assert not server.asked
        generate(engine, [ASKED], SAMPLING)
    assert not {"top_k", "min_p", "repetition_penalty"} & set(server.asked[0])


def test_each_field_of_sampling_has_its_word() -> None:
    sampling = Sampling(
        None, presence_penalty=0.5, frequency_penalty=-0.5, stop=("End",), logit_bias=((7, -100.0),),
        json_schema={"type": "object"}, top_logprobs=3,
    )  # fmt: skip
    with answering(lambda *_: said("{}")) as server, closing(OpenAIEngine(server.url, "m")) as engine:
        generate(engine, [ASKED], sampling)
        generate(engine, [ASKED], Sampling(json_schema={}))
    body, other = server.asked
    assert (body["presence_penalty"], body["frequency_penalty"], body["stop"]) == (0.5, -0.5, ["End"])
    assert body["logit_bias"] == {"7": -100} and (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"} and "max_tokens" not in body
    assert other["response_format"] == {"type": "json_object"} and "logprobs" not in other and "stop" not in other


def test_calls_are_put_together_and_sent_back() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"tow'}}
    rest = {"index": 0, "function": {"arguments": 'n": "Bonn"}'}}
    history = (
        *ASKED, Message("assistant", "", (ToolCall("c0", "weather", "{}"),)), Message("tool", "rain", call_id="c0"),
    )  # fmt: skip
    answer = events({"tool_calls": [call]}, {"tool_calls": [rest]}, finish="tool_calls")
    with answering(lambda *_: answer) as server, closing(OpenAIEngine(server.url, "m")) as engine:
        pieces, reply = read(stream_of(engine, history, replace(SAMPLING, tools=(WEATHER,), tool_choice="weather")))
        generate(engine, [ASKED], replace(SAMPLING, tools=(WEATHER,), tool_choice="none"))
    assert reply.calls == (ToolCall("c1", "weather", '{"town": "Bonn"}'),) and reply.finish_reason == "tool_calls"
    assert [piece.call for piece in pieces if piece.call] == list(reply.calls)
    body, without = server.asked
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}} and "tools" not in without
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert body["messages"][2]["tool_call_id"] == "c0"


def test_calls_as_text_for_a_server_that_knows_no_tools() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"town": "Bonn"}}</tool_call>'
    with (
        answering(lambda *_: events({"content": text[:30]}, {"content": text[30:]})) as server,
        closing(OpenAIEngine(server.url, "m", calls_as_text=True)) as engine,
    ):
        sampling = replace(SAMPLING, tools=(WEATHER,))
        _, streamed = read(stream_of(engine, ASKED, sampling))
        (reply,) = generate(engine, [ASKED], sampling)
    for one in (streamed, reply):
        assert [(call.name, call.arguments) for call in one.calls] == [("weather", '{"town": "Bonn"}')]
        assert one.text == "" and one.finish_reason == "tool_calls"
    assert "weather" in server.asked[0]["messages"][0]["content"] and "tools" not in server.asked[0]


SENTENCES = [
    ("This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.", 5000),
    ("maximum context length is 4096 tokens. However, you requested 5100 tokens (5000 in the messages, 100 in the "
     "completion).", 5000),
    ("maximum context length is 4096 tokens. However, your prompt contains at least 5000 input tokens, which", 5000),
    ("max_tokens is too large: 100. This model's maximum context length is 4096 tokens and your request has 5000 input "
     "tokens", 5000),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure", 5000),
    ("Input length (5000) exceeds model's maximum context length (4096).", 5000),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 5000),
    ("Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5100 "
     "tokens: 5000 tokens from the input messages and 100 tokens for the completion.", 5000),
    ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 5000),
    ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 100 `max_new_tokens`", 5000),
    ("Prompt contains 5000 tokens, too large for model with 4096 maximum context length", 5000),
    ("maximum prompt length is 4096 but the request contains 5000 tokens", 5000),
    (str(PromptTooLong(5000, 4096)), 5000),
    ("maximum context length is 4096 tokens. However, your prompt contains 90000 characters (more than 80000", None),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "prompt"), SENTENCES)
def test_the_lengths_are_read_from_what_servers_say(sentence: str, prompt: int | None) -> None:
    assert parse_context_lengths({"error": {"message": sentence}}) == (prompt, 4096)


def test_a_refusal_for_its_length_tells_both_numbers() -> None:
    told = {"error": {"message": "too big", "n_prompt_tokens": 900, "n_ctx": 512}}
    with (
        answering(lambda *_: (400, {}, json.dumps(told))) as server,
        closing(OpenAIEngine(server.url, "m")) as engine,
        pytest.raises(PromptTooLong) as error,
    ):
        generate(engine, [ASKED], SAMPLING)
    assert (error.value.prompt_tokens, error.value.context_tokens) == (900, 512)
    assert parse_context_lengths({"error": {"message": "no such field: top_q"}}) is None


def test_an_answer_may_be_shorter_than_asked_for_where_the_context_ends() -> None:
    def older_vllm(body: dict, _: int) -> Answer:
        if body["max_tokens"] <= 12:
            return said("well", "length")
        message = "maximum context length is 512 tokens and your request has 500 input tokens"
        return 400, {}, json.dumps({"error": {"message": message}})

    with answering(older_vllm) as server, closing(OpenAIEngine(server.url, "m")) as engine:
        (reply,) = generate(engine, [ASKED], replace(SAMPLING, max_new_tokens=100))
    assert reply.text == "well" and [body["max_tokens"] for body in server.asked] == [100, 12]


def test_adapters_and_context_are_those_that_the_server_lists() -> None:
    listed = models("vllm", "llama", "llama:cardiology", "tcm", max_model_len=4096)
    with answering(lambda *_: said("x"), listed) as server, closing(OpenAIEngine(server.url, None)) as engine:
        assert (engine.model, engine.context_tokens) == ("llama", 4096)
        assert engine.adapters == ("cardiology", "tcm")
        generate(engine, [ASKED], replace(SAMPLING, adapter="cardiology"))
        with pytest.raises(Unsupported, match="cardiology, tcm"):
            generate(engine, [ASKED], replace(SAMPLING, adapter="surgery"))
    assert [body["model"] for body in server.asked] == ["llama:cardiology"]


def test_a_server_may_tell_its_adapters_from_other_names() -> None:
    rows = [{"id": "carellama", "parent": None}, {"id": "alias", "parent": None}, {"id": "tcm", "parent": "carellama"}]
    with (
        answering(
            lambda *_: (200, {}, '{"count": 77}'),
            {"data": [{**row, "owned_by": "carellama"} for row in rows]},  # type: ignore[dict-item]
        ) as server,
        closing(OpenAIEngine(server.url, None)) as engine,
    ):
        assert engine.adapters == ("tcm",) and count_tokens(engine, ASKED) == 77


def test_a_server_that_lists_nothing_is_asked_by_name_only() -> None:
    with answering(lambda *_: said("x")) as server:
        with closing(OpenAIEngine(server.url, "m")) as engine:
            assert engine.adapters == () and engine.context_tokens is None
            assert count_tokens(engine, ASKED) > 0  # an estimate
            with pytest.raises(Unsupported, match="tokenize"):
                engine.tokenize("x")
        with closing(OpenAIEngine(server.url, None)) as engine, pytest.raises(UserError, match="--endpoint_model"):
            generate(engine, [ASKED], SAMPLING)


def test_llama_cpp_counts_with_its_own_words() -> None:
    def server_of_llama(body: dict, _: int) -> Answer:
        return 200, {}, json.dumps({"tokens": list(body["content"])} if "content" in body else {"prompt": "<u>hi"})

    with (
        answering(server_of_llama, models("llamacpp", "m") | {"default_generation_settings": {"n_ctx": 512}}) as server,
        closing(OpenAIEngine(server.url, "m")) as engine,
    ):
        assert count_tokens(engine, ASKED) == 5 and engine.context_tokens == 512
    assert [body["path"] for body in server.asked] == ["/apply-template", "/tokenize"]


def test_a_letter_beyond_those_that_are_told_gets_no_more_than_is_left() -> None:
    top = [("B", math.log(0.6)), (" A", math.log(0.2)), ("The", math.log(0.1))]
    a, b, c, d = map(math.exp, choice_logprobs(top, ["A", "B", "C", "D"]))
    assert (a, b) == pytest.approx((0.2, 0.6)) and c == d == pytest.approx(0.05)
    assert math.exp(choice_logprobs(top[:1], ["C"])[0]) == pytest.approx(0.4)
    assert choice_logprobs(top, ["Therefore"]) == pytest.approx([math.log(0.1)])  # of several tokens: by its first


def test_vectors_that_a_server_does_not_make_are_refused() -> None:
    with (
        answering(lambda *_: (404, {}, "{}")) as server,
        closing(OpenAIEngine(server.url, "m")) as engine,
        pytest.raises(Unsupported, match="vectors"),
    ):
        engine.embed(["x"])


def test_the_options_make_an_engine_and_leave_the_model_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARELLAMA_API_KEY", "mine")
    answer = answering(lambda *_: said("x"), models("vllm", "llama"))
    with answer as server:
        arguments = EngineOptions(engine="openai", endpoint=f"{server.url},{server.url}", parallel=3)
        parts = (ModelOptions("llama"), DataOptions())
        with closing(load(*parts, arguments)) as engine:
            assert generate(engine, [ASKED], SAMPLING)[0].text == "x" and engine.parallel == 3
        with pytest.raises(UserError, match="--template"):
            load(parts[0], DataOptions(template="chatml"), arguments)
    assert server.asked[0]["key"] == "Bearer mine" and server.asked[0]["model"] == "llama"
    with pytest.raises(Unavailable, match="nothing answers"):
        load(*parts, arguments)


def test_the_key_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARELLAMA_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert endpoint_key() is None
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    monkeypatch.setenv("CARELLAMA_API_KEY", " own\n")
    assert endpoint_key() == "own"
