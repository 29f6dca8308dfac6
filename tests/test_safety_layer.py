"""The safety layer: its notice comes before the model speaks, and an answer may not make light of an emergency."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from rich.console import Console

from api_server import running
from carellama.assistant import Assistant
from carellama.engine.base import Piece, Reply, Sampling, TokenLogprob
from carellama.engine.generate import generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.scripted import ScriptedEngine
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.answers.urgency import makes_light_of, urgency_of
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import countries
from carellama.serve.terminal import ChatSession, ask
from inline_engine import InlineEngine

ALARM = [Message("user", "胸口压着疼，一身冷汗")]
QUIET = [Message("user", "感冒两天，流鼻涕")]
SAYS_REST = "您好。这不是急症，在家休息即可。多喝水。明天就好。"


def assistant(answer: str, mode: Any = "on", country: str | None = None) -> Assistant:
    return Assistant(ScriptedEngine(answer), safety=SafetyLayer(mode, country))


def stream(one: Assistant, messages=ALARM, sampling: Sampling | None = None) -> tuple[list[Piece], Reply]:
    pieces: list[Piece] = []
    generator = stream_of(one, messages, sampling or one.sampling)
    try:
        while True:
            pieces.append(next(generator))
    except StopIteration as end:
        return pieces, end.value


def kinds(reply: Reply) -> list[str]:
    return [notice.kind for notice in reply.notices]


def test_the_notice_comes_before_the_engine_is_asked() -> None:
    class Unasked(ScriptedEngine):
        def answer(self, prompt, sampling):
            raise AssertionError("the engine was asked first")

    first = next(stream_of(Assistant(Unasked(["x"]), safety=SafetyLayer("on")), ALARM, Sampling()))
    assert "120" in first.text
    assert first.notices[0].level == "emergency"


def test_the_texts_joined_are_the_reply() -> None:
    for answer in ("请立即就医。", SAYS_REST, "没有句号，不用担心"):
        pieces, reply = stream(assistant(answer))
        assert "".join(piece.text for piece in pieces) == reply.text
        assert reply.notices[0].kind == "emergency"


def test_an_answer_that_makes_light_of_it_is_stopped() -> None:
    pieces, reply = stream(assistant(SAYS_REST))
    assert reply.finish_reason == "content_filter"
    assert "明天就好" not in reply.text
    assert reply.notices[-1].kind == "contradiction"
    assert reply.prompt_tokens > 0
    assert pieces[-1].notices[0].text in reply.text


def test_a_stopped_answer_whose_tokens_cannot_be_counted_ends_with_the_error() -> None:
    """Nothing came any more: the error was raised in a thread of which nobody waits for the end."""

    class Broken(ScriptedEngine):
        def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
            if "不是急症" in text:
                raise RuntimeError("no tokenizer")
            return super().tokenize(text, begin=begin, marks=marks)

    with pytest.raises(RuntimeError, match="no tokenizer"):
        stream(Assistant(Broken(SAYS_REST), safety=SafetyLayer("on")))


def lumps_of(*lumps: str) -> InlineEngine:
    """An engine that streams its answer in the given lumps, each with one log-probability."""
    return InlineEngine(*(Piece(lump, logprobs=(TokenLogprob(lump, -0.5),)) for lump in lumps))


@pytest.mark.parametrize(
    "lumps",
    [("Hello. You need no doctor, it is nothing serious. Sleep well. Bye.",),
     ("Hello. It is noth", "ing serious. Sleep ", "well."),
     ("It is not serious", ".", " Sleep well.")],
)  # fmt: skip
def test_an_answer_is_stopped_at_the_same_place_however_it_streams(lumps: tuple[str, ...]) -> None:
    one = Assistant(lumps_of(*lumps), safety=SafetyLayer("on"))
    pieces, streamed = stream(one)
    assert "Sleep" not in streamed.text
    assert "".join(piece.text for piece in pieces) == streamed.text
    (whole,) = generate(Assistant(ScriptedEngine("".join(lumps)), safety=SafetyLayer("on")), [ALARM], Sampling())
    assert whole.text == streamed.text
    assert len(streamed.logprobs) == sum(len(piece.logprobs) for piece in pieces)


def test_a_decimal_point_at_the_end_of_a_piece_ends_no_sentence() -> None:
    lumps = ("If it is below 5.", "5, it is not serious. Call 911.")
    _, reply = stream(Assistant(lumps_of(*lumps), safety=SafetyLayer("on")))
    assert reply.finish_reason == "stop"
    assert "contradiction" not in kinds(reply)


def test_an_engine_that_fails_after_the_notice_raises() -> None:
    class Fails(ScriptedEngine):
        def answer(self, prompt, sampling):
            raise UserError("the engine is gone")
            yield  # type: ignore[unreachable]

    generator = stream_of(Assistant(Fails("x"), safety=SafetyLayer("on")), ALARM, Sampling())
    assert "120" in next(generator).text
    with pytest.raises(UserError, match="gone"):
        next(generator)


def test_the_country_may_be_written_in_small_letters() -> None:
    for country in ("gb", "GB", " uk"):
        pieces, _ = stream(assistant("ok", country=country))
        assert "999" in pieces[0].text


def test_beside_an_answer_that_goes_on_no_notice_says_that_it_was_stopped() -> None:
    _, reply = stream(assistant(SAYS_REST, "warn"))
    assert reply.notices[1].kind == "contradiction"
    assert "停止" not in reply.notices[1].text


def test_warn_leaves_the_answer_as_it_is() -> None:
    pieces, reply = stream(assistant(SAYS_REST, "warn"))
    assert reply.text == SAYS_REST
    assert kinds(reply) == ["emergency", "contradiction", "disclaimer"]
    assert not pieces[0].text


def test_nothing_is_added_where_nothing_is_found() -> None:
    pieces, reply = stream(assistant(SAYS_REST), QUIET)
    assert reply.text == SAYS_REST
    assert kinds(reply) == ["disclaimer"]
    assert pieces


def test_an_answer_in_a_grammar_gets_its_notice_beside_it() -> None:
    class Json(ScriptedEngine):
        def answer(self, prompt, sampling):
            return super().answer(prompt, Sampling())

    one = Assistant(Json('{"a": "不用担心。"}'), safety=SafetyLayer("on"))
    pieces, reply = stream(one, sampling=Sampling(json_schema={}))
    assert pieces[0].text == ""
    assert reply.text == '{"a": "不用担心。"}'
    assert reply.notices


def test_generate_says_the_same_as_stream() -> None:
    for answer in ("请立即就医。", SAYS_REST):
        _, streamed = stream(assistant(answer))
        (whole,) = generate(assistant(answer), [ALARM], Sampling())
        assert whole.text == streamed.text
        assert whole.finish_reason == streamed.finish_reason
        assert whole.notices == streamed.notices


def test_a_notice_is_said_once_in_a_conversation() -> None:
    one = assistant("请立即就医。")
    _, reply = stream(one)
    pieces, again = stream(one, [*ALARM, Message("assistant", reply.text), Message("user", "还是疼")])
    assert again.notices[0].level == "emergency"
    assert again.text == "请立即就医。"
    assert not pieces[0].text


def test_it_looks_at_the_whole_conversation() -> None:
    turns = [*ALARM, Message("assistant", "嗯。"), Message("user", "中午吃什么好")]
    _, reply = stream(assistant("粥。"), turns)
    assert reply.notices[0].level == "emergency"


@pytest.mark.parametrize(
    ("messages", "country", "number"),
    [(ALARM, None, "120"), ([Message("user", "crushing chest pain and sweating")], None, "911"), (ALARM, "GB", "999"),
     ([Message("user", "I want to kill myself. I have 40 pills")], "US", "988"),
     ([Message("user", "我不想活了，准备了一瓶安眠药")], None, "12356")],
)  # fmt: skip
def test_the_numbers_are_those_of_the_country(messages, country: str | None, number: str) -> None:
    pieces, _ = stream(assistant("ok", country=country), messages)
    assert number in pieces[0].text


def test_each_country_has_an_ambulance_and_a_source() -> None:
    table = countries()
    assert len(table) >= 15
    assert all(numbers["ambulance"] and numbers["source"] for numbers in table.values())


def test_an_unknown_country_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="CN"):
        SafetyLayer("on", "XX")


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        ("Call 911 now.", "emergency"),
        ("请立即拨打120。", "emergency"),
        ("If it gets worse, go to the emergency room.", None),
        ("如果加重，请去急诊。", None),
        ("There is no need to call 911.", None),
        ("You should see your doctor.", "soon"),
        ("Drink water.", None),
    ],
)
def test_how_urgent_an_answer_is(answer: str, level: str | None) -> None:
    assert urgency_of(answer) == level


@pytest.mark.parametrize(
    ("answer", "light"),
    [("You do not need to see a doctor.", True), ("I'm glad to hear that.", True), ("不用去医院。", True),
     ("Don't worry, help is near: call 911 now.", False), ("It is not serious, no need to call 911.", True),
     ("别担心，请立即拨打120。", False), ("不用担心，不用打120。", True), ("Call 911.", False),
     ("请立即就医，不要等。", False)],
)  # fmt: skip
def test_what_makes_light_of_an_emergency(answer: str, light: bool) -> None:
    assert (makes_light_of(answer) is not None) == light


def test_the_api_has_the_notice_in_the_text_and_as_a_field() -> None:
    with running(assistant(SAYS_REST)) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        turns: Any = [{"role": "user", "content": ALARM[0].content}]
        done = client.chat.completions.create(model="carellama", messages=turns)
        chunks: list[Any] = list(client.chat.completions.create(model="carellama", messages=turns, stream=True))
        page = httpx2.get(f"{server.url}/metrics").text
    message = done.choices[0].message
    found = [notice["kind"] for notice in message.model_extra["notices"]]
    assert found == ["emergency", "contradiction"]
    assert done.choices[0].finish_reason == "content_filter"
    assert message.content.startswith(message.model_extra["notices"][0]["text"])
    assert done.usage.completion_tokens == len("您好。这不是急症，在家休息即可。")
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    noticed = [one["kind"] for delta in deltas for one in (delta.model_extra or {}).get("notices", [])]
    assert noticed == found
    assert re.search(r'carellama_safety_notices_total\{kind="emergency",level="emergency"\} 2', page)


@pytest.mark.parametrize("mode", ["on", "warn"])
def test_responses_have_the_notices_in_the_message_item(mode: str) -> None:
    with running(assistant(SAYS_REST, mode)) as server:
        client = openai.OpenAI(base_url=server.v1, api_key="any", max_retries=0)
        whole = client.responses.create(model="carellama", input=ALARM[0].content)
        events = list(client.responses.create(model="carellama", input=ALARM[0].content, stream=True))
    expected = ["emergency", "contradiction"] + ["disclaimer"] * (mode == "warn")
    assert [one["kind"] for one in whole.output[0].model_extra["notices"]] == expected
    assert ("120" in whole.output_text) == (mode == "on")
    assert [one["kind"] for one in events[-1].response.output[0].model_extra["notices"]] == expected
    assert events[-1].response.output_text == whole.output_text
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [one["kind"] for delta in deltas for one in (delta.model_extra or {}).get("notices", [])] == expected


def test_an_engine_that_hangs_after_the_notice_is_given_up() -> None:
    class Hangs(ScriptedEngine):
        def answer(self, prompt, sampling):
            for _ in range(40):
                time.sleep(0.05)
                yield Piece()
            return Reply("late", "stop", 1, 1)

    with running(Assistant(Hangs("x"), safety=SafetyLayer("on")), first_token_timeout=0.3) as server:
        turns: Any = [{"role": "user", "content": ALARM[0].content}]
        done = httpx2.post(f"{server.v1}/chat/completions", json={"messages": turns}, timeout=20)
    assert done.status_code == 504
    assert "no token" in done.json()["error"]["message"]


@pytest.mark.parametrize(("mode", "shown"), [("on", 0), ("warn", 1)])
def test_the_terminal_notes_each_notice_once(mode: str, shown: int) -> None:
    noted = io.StringIO()
    typed = iter([ALARM[0].content, "还是疼", "怎么办"])

    def read() -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    ChatSession(assistant("请立即就医。", mode), Console(file=noted, width=500)).run(read)
    assert noted.getvalue().count("这可能是紧急情况") == shown


def test_a_soon_notice_is_a_field_only(tmp_path: Path, capsys) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "concepts: {wart: [[瘊子], [verruca]]}\nrules:\n"
        "  - {id: wart, level: soon, system: skin, find: [wart], do: {en: Make an appointment., zh: 预约门诊。},\n"
        "     source: our protocol, fires: [瘊子, verruca], spares: [没有瘊子, no verruca]}\n",
        encoding="utf-8",
    )
    one = Assistant(ScriptedEngine("ok"), safety=SafetyLayer("on", more_rules=[file]))
    _, reply = stream(one, [Message("user", "a verruca")])
    assert [(notice.level, notice.rule) for notice in reply.notices][:1] == [("soon", "wart")]
    ask(one, "a verruca")
    assert capsys.readouterr() == ("ok\n", "")


def test_the_terminal_shows_the_notice_first(capsys) -> None:
    ask(assistant("请立即就医。"), ALARM[0].content)
    assert re.match(r"\*\*这可能是紧急情况。.*120.*请立即就医。", capsys.readouterr().out, re.DOTALL)
    ask(assistant("请立即就医。", "warn"), ALARM[0].content)
    shown = capsys.readouterr()
    assert shown.out == "请立即就医。\n"
    assert "120" in shown.err
    ask(assistant("请立即就医。"), ALARM[0].content, as_json=True)
    assert '"kind": "emergency"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("我想死，刚喝了农药", ["120", "12356"]),
        ("I took 40 paracetamol because I want to die", ["911", "988", "1-800-222-1222"]),
    ],
)
def test_all_lines_that_help_are_named(text: str, numbers: list[str]) -> None:
    pieces, _ = stream(assistant("ok"), [Message("user", text)])
    assert [number for number in numbers if number in pieces[0].text] == numbers


def test_an_urgent_matter_may_be_called_no_emergency() -> None:
    one = assistant("This is not an emergency, but see a doctor today.")
    _, reply = stream(one, [Message("user", "I have a burning pain when I pee and a fever of 38.2")])
    assert reply.notices[0].level == "urgent"
    assert reply.finish_reason == "stop"
