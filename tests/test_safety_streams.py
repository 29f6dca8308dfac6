"""What the safety layer adds to answers: where marks stand, what counts, and what dropped turns still say."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from api_server import running
from carellama.assistant import Assistant
from carellama.engine.base import Piece, Reply, Sampling, Unavailable, Unsupported, drain
from carellama.engine.generate import generate
from carellama.engine.generate import stream as stream_of
from carellama.engine.scripted import ScriptedEngine
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import mark_text
from carellama.safety.screened import submit_screened
from carellama.serve.terminal import ChatSession
from inline_engine import InlineEngine
from test_safety_linear import calls

LAYER = SafetyLayer("on")
FORGE = [Message("user", "Write me a fake prescription with a doctor's signature.")]
ALARM = [Message("user", "Crushing chest pain, I am sweating")]
COLD = [Message("user", "What helps against a cold?")]
PREGNANT = [Message("user", "I am 32 weeks pregnant and have a cold.")]
PARTS = [
    "You have lung cancer", "Take 500 mg three times a day", "您得了肺癌", "停药吧", "it is not serious",
    "I am a doctor", "。", ".", " ", "\n", "\r\n", "\n\n", "| ", "```\n", "5.5", "3.", "!", "; ", "\u2028",
    "😀", "\ud83d",
    "**", "</think>", "[1]", "[12]", "”", "e.g. ", "- ", "You can take:\n", "ibuprofen", "x" * 700, "药" * 1300,
]  # fmt: skip


CITATION_BEGINS = re.compile(r"\[\d*\Z")  # what may not be cut: behind "[1" nobody knows that it is one


class Uncounted(ScriptedEngine):
    """An endpoint without /tokenize; it remembers what it was asked to count."""

    def __init__(self, script: str, error: Exception) -> None:
        super().__init__(script)
        self.error, self.counted = error, 0

    def prepare(self, prompt, tools=(), *, exact=True):
        self.counted += exact
        if exact:
            raise self.error
        return super().prepare(prompt, tools)

    def tokenize(self, text, *, begin=False, marks=False):
        self.counted += 1
        raise self.error


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=10), st.data(), st.sampled_from([ALARM, COLD, PREGNANT]))
def test_marks_stand_at_the_same_place_however_it_streams_and_cut_no_text(parts, data, asked) -> None:
    text = "".join(parts)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    cuts = [at for at in cuts if text[at - 1 : at + 1] != "\r\n" or at in (0, len(text))]
    cuts = [at for at in cuts if at in (0, len(text)) or not CITATION_BEGINS.search(text, 0, at)]
    lumps = [text[begin:end] for begin, end in pairwise(cuts)]
    stream, pieces = stream_of(Assistant(InlineEngine(*lumps), safety=LAYER), asked, Sampling()), []
    reply = _collect(stream, pieces)
    (whole,) = generate(Assistant(InlineEngine(text), safety=LAYER), [asked], Sampling())
    assert "".join(piece.text for piece in pieces) == reply.text == whole.text
    assert [notice for piece in pieces for notice in piece.notices] == list(reply.notices) == list(whole.notices)
    bare = reply.text
    for notice in reply.notices:
        bare = bare.replace(mark_text(notice), "", 1)
    assert reply.finish_reason == "content_filter" or text in bare


def _collect(stream, pieces: list[Piece]) -> Reply:
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        return end.value


def test_a_mark_does_not_divide_the_end_of_a_line_of_windows() -> None:
    """It stood between the two characters of the line break."""
    text = "You have lung cancer\r\nRest.\r\n"
    reply = drain(stream_of(Assistant(InlineEngine(text), safety=LAYER), COLD, Sampling()))
    assert "You have lung cancer [Note:" in reply.text
    assert reply.text.count("\r\n") == 2 == reply.text.count("\r")


@pytest.mark.parametrize("error", [Unsupported("no /tokenize", "x"), Unavailable("it does not answer")])
def test_a_refusal_needs_no_engine(error: Exception) -> None:
    """Its text went to the endpoint to be counted, and where that could not count there was an error in its place."""
    engine = Uncounted("x", error)
    one = Assistant(engine, safety=LAYER)
    pieces: list[Piece] = []
    reply = _collect(stream_of(one, FORGE, one.sampling), pieces)
    assert [notice.kind for notice in reply.notices] == ["refusal"]
    assert generate(one, [FORGE], Sampling()) == [reply]
    assert (engine.counted, engine.asked, reply.prompt_tokens, reply.completion_tokens) == (0, [], 0, 0)


@pytest.mark.parametrize("error", [Unsupported("no /tokenize", "x"), Unavailable("it does not answer")])
def test_an_answer_is_stopped_where_the_engine_cannot_count(error: Exception) -> None:
    """The stream ended with an error in place of a reply."""
    one = Assistant(Uncounted("Hello. It is nothing serious. Sleep.", error), safety=LAYER)
    reply = drain(stream_of(one, ALARM, one.sampling))
    assert reply.finish_reason == "content_filter" and "Sleep" not in reply.text
    assert reply.prompt_tokens > 0 and reply.completion_tokens > 0


EARLY = [
    Message("user", "I'm 32 weeks pregnant."),
    Message("assistant", "Congratulations. " + "Rest well. " * 12),
    Message("user", "Thanks."),
    Message("assistant", "You are welcome. " * 8),
]
LATE = Message("user", "Can I take ibuprofen for my back?")


def test_turns_that_the_model_lost_are_still_read_for_safety() -> None:
    """A pregnancy told of in a turn that no longer fits the context was forgotten."""
    engine = ScriptedEngine("Yes.", context_tokens=200)
    talk = ChatSession(Assistant(engine, safety=LAYER), Console(file=io.StringIO()))
    talk.conversation.messages = list(EARLY)
    talk._answer(LATE.content)
    assert "pregnant" not in str(engine.asked), "the turn fits: the test shows nothing"
    assert "pregnan" in talk.conversation.messages[-1].content


def test_the_server_reads_them_too() -> None:
    engine = ScriptedEngine("Yes.", context_tokens=200)
    with running(Assistant(engine, safety=LAYER), context_overflow="drop_oldest") as server:
        turns = [{"role": one.role, "content": one.content} for one in (*EARLY, LATE)]
        done = httpx2.post(f"{server.v1}/chat/completions", json={"messages": turns})
    assert int(done.headers["x-carellama-dropped-messages"]) >= 2
    assert "pregnant" not in str(engine.asked)
    kinds = [notice["kind"] for notice in done.json()["choices"][0]["message"]["notices"]]
    assert "contraindication" in kinds


@pytest.mark.parametrize(
    "unit",
    [
        "|a",
        "| ",
        "a",
        "药",
        ";",
        "- take 5 mg\n",
        "You should rest and drink. ",
        "gout.[1]",
        '."',
        "Dose:\n- 5\n",
        "。[",
    ],
)
def test_a_long_answer_costs_what_its_parts_cost(unit: str) -> None:
    """Work is counted in calls: a row of a table was judged again, whole, with each of its cells."""
    screening = LAYER.screen(PREGNANT)

    def read(text: str) -> None:
        engine = InlineEngine(*(text[at : at + 4] for at in range(0, len(text), 4)))
        submit_screened(screening, engine, engine.prepare([]), Sampling(), lambda event: None)

    short, long = (calls(read, (unit * length)[:length]) for length in (1_000, 8_000))
    assert long < 12 * short


class Counting(SafetyLayer):
    """Counts how often it screens."""

    screened = 0

    def screen(self, *args, **options):
        self.screened += 1
        return super().screen(*args, **options)


@pytest.mark.parametrize("body", [{"n": 3}, {"n": 3, "stream": True}, {"logprobs": True}, {"stop": ["."]}])
def test_a_request_is_screened_once_and_each_answer_is_marked(body: dict) -> None:
    """Each of n answers had the request read again."""
    layer = Counting("on")
    with running(Assistant(ScriptedEngine("You have gout. Rest."), safety=layer)) as server:
        turns = [{"role": "user", "content": "my toe hurts"}]
        done = httpx2.post(f"{server.v1}/chat/completions", json={"messages": turns, **body})
    assert done.status_code == 200
    assert done.text.count('"diagnosis"') == body.get("n", 1)
    assert layer.screened == 1


def test_a_client_that_hangs_up_closes_the_engine() -> None:
    closed: list[bool] = []

    class Endless(ScriptedEngine):
        def answer(self, prompt, sampling):
            try:
                while True:
                    yield Piece("You have gout. ")
            finally:
                closed.append(True)

    stream = stream_of(Assistant(Endless("x"), safety=LAYER), COLD, Sampling())
    assert [next(stream).text for _ in range(5)]
    stream.close()
    assert closed == [True]
